import dataclasses
import json
import math

import pytest

from ml_lifecycle.canary.evidence import Counts, Readings
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
        (
            Counters({"200": 11}, {}, broken=1.0),
            "a counter was reset, or was not scraped throughout, on the canary side",
        ),
        (Counters({"200": math.nan}), "a counter is not a number on the canary side"),
        (Counters({"200": math.inf}), "a counter is not a number on the canary side"),
        (Counters({"200": 10}), "no requests on either side since the last look"),
    ],
)
def test_what_cannot_be_said_is_a_gap(after, reason):
    assert between(snapshot(0, Counters({"200": 10})), snapshot(5, after)) == Gap(reason)


ONE = Counters({"200": 1.0})
TWO = Counters({"200": 2.0})


def with_own(counters, **numbers):
    return dataclasses.replace(counters, own={name: tuple(each) for name, each in numbers.items()})


def own(before, after):
    """What a window says of metrics of one's own, given (canary, stable) before and after."""
    sides = [
        with_own(ONE, **before[0]),
        with_own(ONE, **before[1]),
        with_own(TWO, **after[0]),
        with_own(TWO, **after[1]),
    ]
    window = between(Snapshot(0, *sides[:2]), Snapshot(5, *sides[2:]))
    return window.own, window.silent


def test_own_counts_are_differences_and_a_gauge_is_what_it_is_now():
    before = {"sold": (2, 10), "score": (0.5,)}, {"sold": (20, 100), "score": (0.6,)}
    after = {"sold": (3, 14), "score": (0.7,)}, {"sold": (25, 130), "score": (0.8,)}
    assert own(before, after) == ({"sold": Counts(4, 1, 30, 5), "score": Readings(1, 0.7, 0.8)}, {})


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ({}, {"sold": (3, 14)}, "first look"),
        ({"sold": (3, 14)}, {"sold": (2, 15)}, "a count went down"),
        ({"sold": (3, 14)}, {"sold": (9, 15)}, "more events than their total"),
        ({"sold": (3, 14)}, {"sold": (math.nan, 15)}, "no finite number on the canary side"),
        ({"score": (0.5,)}, {"score": (math.inf,)}, "no finite number on the canary side"),
        ({"score": (0.5,)}, {"score": (0.5,)}, "unchanged on both sides"),
        ({"sold": (3, 14)}, {}, None),
    ],
)
def test_an_own_metric_that_cannot_be_read_is_silent_and_the_window_stands(before, after, reason):
    looks, silent = own((before, before), (after, after))
    assert looks == {}
    assert (next(iter(silent.values()), None) or "").find(reason or "") >= 0
    assert bool(silent) is bool(reason)


def test_an_own_metric_of_one_side_only_is_silent_and_names_the_side():
    before, after = with_own(ONE, sold=(1, 2)), with_own(TWO, sold=(1, 4))
    missing = dataclasses.replace(TWO, silent={"sold": "sum(orders) gives nothing"})
    window = between(Snapshot(0, before, before), Snapshot(5, after, missing))
    assert window.silent == {"sold": "sum(orders) gives nothing on the stable side"}
    assert (window.own, window.canary.requests) == ({}, 1)


def test_own_errors_that_could_not_be_read_leave_two_looks_without_a_difference():
    """What stood in their place at that look is no counter to compare the next one with."""
    first, last = (with_own(counters, errors=(0, total)) for counters, total in ((ONE, 1), (TWO, 2)))
    failed = dataclasses.replace(ONE, silent={"errors": "sum(failed) gives nothing"})
    unread = Snapshot.from_json(Snapshot(5, failed, first).to_json())
    assert between(Snapshot(0, first, first), Snapshot(5, failed, first)) == Gap(
        "sum(failed) gives nothing on the canary side"
    )
    assert between(unread, Snapshot(10, last, last)) == Gap("first look: nothing to compare with yet")
    window = between(Snapshot(10, first, first), Snapshot(15, last, last))
    assert (window.canary.requests, window.own) == (1, {})


def test_what_a_scrape_gap_has_hidden_of_own_counts_does_not_come_back_as_new():
    """5 of 90 before the gap, none within it, 6 of 95 after it."""
    gone = Snapshot(5, with_own(ONE, sold=(0, 0)), with_own(ONE, sold=(0, 0)))
    back = dataclasses.replace(with_own(TWO, sold=(6, 95)), peaks={"sold": (5.0, 90.0)})
    window = between(gone, Snapshot(10, back, back))
    assert "had lost some of its series before the last look on the canary side" in window.silent["sold"]
    assert window.own == {}


def test_a_snapshot_survives_json():
    before = snapshot(3.0, Counters({"200": 1.0}, {"+Inf": 1.0}), Counters({"500": 2.0}, {}))
    assert Snapshot.from_json(before.to_json()) == before
    own = Snapshot(3.0, with_own(ONE, sold=(1, 2)), with_own(ONE, score=(0.5,)))
    assert Snapshot.from_json(json.loads(json.dumps(own.to_json()))) == own


@pytest.mark.parametrize(("code", "error"), [("200", False), ("404", False), ("500", True), ("504", True), ("", True)])
def test_only_the_server_errs(code, error):
    assert is_error(code) is error
