import math

import pytest

from ml_lifecycle.canary.snapshot import Counters, Gap, Snapshot, between, is_error

EMPTY = Counters()


def snapshot(at, canary, stable=EMPTY):
    return Snapshot(at, canary, stable)


def test_a_window_is_the_difference_of_two_snapshots():
    before = snapshot(0, Counters({"200": 10}, {"0.1": 8, "+Inf": 10}), Counters({"200": 5}, {"0.1": 5, "+Inf": 5}))
    after = snapshot(5, Counters({"200": 14, "503": 1}, {"0.1": 11, "+Inf": 15}), before.stable)
    window = between(before, after)
    assert (window.canary.requests, window.canary.errors, window.canary.latency.counts) == (5, 1, (3, 2))
    assert window.stable.requests == 0


def test_the_first_error_of_a_revision_counts():
    """Its series begins at 1; PromQL's increase() would see no increase."""
    window = between(snapshot(0, Counters({"200": 3})), snapshot(5, Counters({"200": 3, "500": 1})))
    assert window.canary.errors == 1


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (Counters({"200": 9}), "a counter went down on the canary side"),
        (Counters({}), "a counter went down on the canary side"),
        (Counters({"200": 11}, {}, resets=1.0), "a counter was reset on the canary side"),
        (Counters({"200": math.nan}), "a counter is not a number on the canary side"),
        (Counters({"200": 10}), "no requests on either side since the last look"),
    ],
)
def test_what_cannot_be_said_is_a_gap(after, reason):
    assert between(snapshot(0, Counters({"200": 10})), snapshot(5, after)) == Gap(reason)


def test_a_snapshot_survives_json():
    before = snapshot(3.0, Counters({"200": 1.0}, {"+Inf": 1.0}), Counters({"500": 2.0}, {}))
    assert Snapshot.from_json(before.to_json()) == before


@pytest.mark.parametrize(("code", "error"), [("200", False), ("404", False), ("500", True), ("504", True), ("", True)])
def test_only_the_server_errs(code, error):
    assert is_error(code) is error
