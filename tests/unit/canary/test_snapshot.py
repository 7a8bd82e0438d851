import dataclasses
import json
import math

import pytest

from ml_lifecycle.canary.evidence import Counts, Readings
from ml_lifecycle.canary.snapshot import Gap, Growth, Growths, Snapshot, is_error, window

NONE = Growth()
ONE = Growth({"200": 1.0})


def seen(canary, stable=NONE):
    return window(Growths(5, canary, stable))


def test_a_window_is_what_counters_grew_by():
    found = seen(Growth({"200": 4, "503": 1}, {"0.1": 3, "+Inf": 5}), Growth({"200": 0}))
    assert (found.canary.requests, found.canary.errors, found.canary.latency.counts) == (5, 1, (3, 2))
    assert found.stable.requests == 0


def test_the_canary_counts_where_the_stable_side_tells_nothing():
    assert seen(Growth({"500": 1000})).canary.errors == 1000


@pytest.mark.parametrize(
    ("growth", "reason"),
    [
        (Growth({"200": 0.0}), "no requests on either side since the last look"),
        (Growth(), "no requests on either side since the last look"),
    ],
)
def test_what_cannot_be_said_is_a_gap(growth, reason):
    assert seen(growth) == Gap(reason)


@pytest.mark.parametrize(
    ("growth", "reason"),
    [
        (Growth({"200": math.nan}), "requests answered 200 grew by nan"),
        (Growth({"200": 9, "503": math.inf}), "requests answered 503 grew by inf"),
        (Growth({"200": 9, "503": -3}), "requests answered 503 grew by -3"),
        (Growth({"": 1.7e308}), "requests answered at all grew by 1.7e+308"),
        (Growth({"200": 9}, {"0.1": 9, "+Inf": math.nan}), "requests of at most +Inf s grew by nan"),
    ],
)
@pytest.mark.parametrize("side", ["canary", "stable"])
def test_what_no_data_plane_can_have_counted_is_named_with_its_side_and_read_again(growth, reason, side):
    assert seen(*((growth, ONE) if side == "canary" else (ONE, growth))) == Gap(
        f"{reason}, which is no count, on the {side} side", unread=True
    )


def test_a_look_without_series_says_what_there_is_instead():
    found = window(Growths(5, NONE, NONE, why="Prometheus has it under other labels"))
    assert found == Gap("no requests on either side since the last look: Prometheus has it under other labels")


def with_own(before, now, **others):
    """One side, given a metric's numbers at both moments."""
    numbers = ({name: tuple(each) for name, each in of.items()} for of in (now, before))
    return dataclasses.replace(ONE, **dict(zip(("own", "before"), numbers, strict=True)), **others)


def own(before, after):
    """What a window says of metrics of one's own, given (canary, stable) before and after."""
    found = seen(*(with_own(*moments) for moments in zip(before, after, strict=True)))
    return found.own, found.silent


def test_own_counts_are_differences_and_a_gauge_is_what_it_is_now():
    before = {"sold": (2, 10), "score": (0.5,)}, {"sold": (20, 100), "score": (0.6,)}
    after = {"sold": (3, 14), "score": (0.7,)}, {"sold": (25, 130), "score": (0.8,)}
    assert own(before, after) == ({"sold": Counts(4, 1, 30, 5), "score": Readings(1, 0.7, 0.8)}, {})


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ({}, {"sold": (3, 14)}, "nothing to compare with"),
        ({"sold": (math.nan, 14)}, {"sold": (3, 14)}, "nothing to compare with"),
        ({"sold": (3, 14)}, {"sold": (2, 15)}, "a count went down by 1 on the canary side"),
        ({"sold": (3, 14)}, {"sold": (9, 15)}, "more events than their total (6 of 1) on the canary side"),
        ({"sold": (3, 14)}, {"sold": (math.nan, 15)}, "no finite number, but nan, on the canary side"),
        ({"sold": (3, -1.7e308)}, {"sold": (3, 1.7e308)}, "no finite number, but 1.7e+308, on the canary side"),
        ({"score": (0.5,)}, {"score": (math.inf,)}, "no finite number, but inf, on the canary side"),
        ({"score": (0.5,)}, {"score": (1.7e308,)}, "no finite number, but 1.7e+308, on the canary side"),
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
    canary = with_own({"sold": (1, 2)}, {"sold": (1, 4)})
    found = seen(canary, dataclasses.replace(ONE, silent={"sold": "sum(orders) gives nothing"}))
    assert found.silent == {"sold": "sum(orders) gives nothing on the stable side"}
    assert (found.own, found.canary.requests) == ({}, 1)


def test_own_errors_stand_for_the_data_planes_or_leave_a_gap():
    canary, stable = with_own({"errors": (0, 1)}, {"errors": (2, 9)}), with_own({"errors": (0, 1)}, {"errors": (0, 31)})
    found = seen(canary, stable)
    assert (found.canary.requests, found.canary.errors, found.stable.requests, found.own) == (8, 2, 30, {})
    silent = dataclasses.replace(ONE, silent={"errors": "sum(failed) gives nothing"})
    assert seen(silent, stable) == Gap("sum(failed) gives nothing on the canary side")


def test_own_errors_that_cannot_be_are_read_again_and_those_of_a_restarted_count_are_not():
    def canary(*now):
        return seen(with_own({"errors": (3, 14)}, {"errors": now}), with_own({"errors": (0, 1)}, {"errors": (0, 31)}))

    assert canary(9, 15) == Gap("more events than their total (6 of 1) on the canary side", unread=True)
    assert canary(3, math.nan) == Gap("the query gives no finite number, but nan, on the canary side", unread=True)
    assert canary(1, 2) == Gap("a count went down by 12 on the canary side")


def test_parts_of_an_event_are_rounded_before_they_are_doubted():
    """What some functions of PromQL give: a hair above the total, or below what it was."""
    before = {"sold": (3, 14)}, {"sold": (0, 0)}
    assert own(before, ({"sold": (4.0004, 15)}, {"sold": (-0.0004, 9.6)}))[0] == {"sold": Counts(1, 1, 10, 0)}


def test_what_a_scrape_gap_has_hidden_of_own_counts_does_not_come_back_as_new():
    """5 of 90 before the gap, none within it, 6 of 95 after it."""
    back = with_own({"sold": (0, 0)}, {"sold": (6, 95)}, peaks={"sold": (5.0, 90.0)})
    found = seen(back, back)
    assert "had lost some of its series before the last look on the canary side" in found.silent["sold"]
    assert found.own == {}


def test_a_snapshot_survives_json_and_is_but_a_moment():
    assert Snapshot.from_json(json.loads(json.dumps(Snapshot(3.0).to_json()))) == Snapshot(3.0)
    older = {"at": 3.0, "canary": {"codes": {"200": 1.0}, "buckets": {}}, "stable": {"codes": {}, "buckets": {}}}
    assert Snapshot.from_json(older) == Snapshot(3.0)


@pytest.mark.parametrize(("code", "error"), [("200", False), ("404", False), ("500", True), ("504", True), ("", True)])
def test_only_the_server_errs(code, error):
    assert is_error(code) is error
