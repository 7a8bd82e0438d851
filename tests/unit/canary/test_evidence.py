"""What a rollout remembers: windows add up in any order, JSON loses nothing, and it stays small."""

import dataclasses
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_lifecycle.canary.evidence import MOST_LOOKS, Counts, Evidence, Readings, Side, Window
from ml_lifecycle.canary.exceptions import OddCountsError
from ml_lifecycle.canary.histogram import Histogram
from ml_lifecycle.canary.slow import SlowLimits

BOUNDS = (0.01, 0.1)
counts = st.integers(0, 1000)
rates = counts.flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n)))
histograms = st.one_of(st.just(Histogram()), st.builds(lambda *n: Histogram(BOUNDS, n), counts, counts, counts))
sides = st.builds(lambda rate, latency: Side(*rate, latency), rates, histograms)
own = st.fixed_dictionaries(
    {},
    optional={
        "sold": st.builds(lambda canary, stable: Counts(*canary, *stable), rates, rates),
        "score": st.builds(Readings, st.integers(1, 3), st.integers(-9, 9).map(float), st.integers(-9, 9).map(float)),
    },
)
windows = st.builds(Window, sides, sides, own, st.dictionaries(st.sampled_from(["sold", "score"]), st.text()))


@given(windows, windows, windows)
def test_windows_add_up_in_any_order(a, b, c):
    assert a + b == b + a
    assert (a + b) + c == a + (b + c)


@given(st.lists(windows, max_size=8))
@settings(deadline=None)
def test_json_loses_nothing(seen):
    evidence = Evidence()
    for window in seen:
        evidence = evidence.add(window, SlowLimits())
    assert Evidence.from_json(json.loads(json.dumps(evidence.to_json()))) == evidence


@given(st.lists(windows, max_size=4), st.lists(windows, min_size=1, max_size=4), st.lists(windows, max_size=4))
@settings(deadline=None)
def test_a_warm_up_is_seen_by_the_guardrail_where_the_canary_began_and_is_in_nothing_else(history, warming, judged):
    without = with_it = Evidence()
    for each in history:
        each = Window(stable=each.stable)
        without, with_it = without.add(each, SlowLimits()), with_it.add(each, SlowLimits())
    for each in warming:
        with_it = with_it.add_warmup(each)
    for each in judged:
        without, with_it = without.add(each, SlowLimits()), with_it.add(each, SlowLimits())
    assert Evidence.from_json(json.loads(json.dumps(with_it.to_json()))) == with_it
    assert dataclasses.replace(with_it, warmup=()) == without
    seen = [each.errors for each in (*history, *warming, *judged)]
    assert sorted(each.numbers for each in with_it.guarded) == sorted(
        (0, 0, *each.numbers[2:]) if place < len(history) else each.numbers for place, each in enumerate(seen)
    )
    began = next((place for place, look in enumerate(with_it.errors) if look.canary_n), len(with_it.errors))
    assert with_it.guarded[began : began + len(warming)] == tuple(each.errors for each in warming)


def test_what_was_written_before_there_were_own_metrics_or_a_warm_up_still_loads():
    window = Window(Side(3, 1, Histogram(BOUNDS, (1, 1, 1))), Side(9, 0, Histogram(BOUNDS, (9, 0, 0))))
    evidence = Evidence().add(window, SlowLimits())
    document = evidence.to_json()
    assert set(document) == {"errors", "slow", "totals"}
    assert set(document["totals"]) == {"canary", "stable"}
    assert Evidence.from_json(document) == evidence


def test_eight_metrics_of_ones_own_over_a_long_rollout_fit_an_annotation():
    """Kubernetes takes 256 KiB of annotations; the looks are halved, and none is lost."""
    evidence = Evidence()
    for number in range(2 * MOST_LOOKS + 7):
        looks = {f"gauge{i}": Readings(1, 0.123456789 + number, -98765.4321) for i in range(4)}
        looks |= {f"counts{i}": Counts(123456, 1234, 7654321, 65432) for i in range(4)}
        evidence = evidence.add(Window(Side(12345, 123), Side(123456, 1234), looks), SlowLimits())
    assert all(len(looks) <= MOST_LOOKS for looks in (evidence.errors, *evidence.own.values()))
    assert sum(look.looks for look in evidence.own["gauge0"]) == 2 * MOST_LOOKS + 7
    assert len(json.dumps(evidence.to_json(), separators=(",", ":"))) < 240_000


@pytest.mark.parametrize(
    ("odd", "named"),
    [
        (lambda: Side(-1), "requests = -1"),
        (lambda: Side(3, 4), "errors = 4"),
        (lambda: Side(3, -4), "errors = -4"),
        (lambda: Side(math.nan, 0), "requests = nan"),
        (lambda: Side(math.inf, 0), "requests = inf"),
        (lambda: Side(3, math.nan), "errors = nan"),
        (lambda: Side(3, 1, Histogram(BOUNDS, (3, -1, 1))), "latency.counts = -1"),
        (lambda: Counts(10, 11, 10, 0), "canary_e = 11"),
        (lambda: Counts(10, -3, 10, 0), "canary_e = -3"),
        (lambda: Counts(10, 0, 10, 11), "stable_e = 11"),
        (lambda: Counts(10, 0, math.nan, 0), "stable_n = nan"),
        (lambda: Readings(1, math.nan, 0.0), "canary = nan"),
        (lambda: Readings(1, 0.0, -math.inf), "stable = -inf"),
        (lambda: Readings(-1), "looks = -1"),
    ],
)
def test_what_nobody_can_have_counted_is_refused_by_name(odd, named):
    with pytest.raises(OddCountsError, match=f"^{named} was never counted"):
        odd()
