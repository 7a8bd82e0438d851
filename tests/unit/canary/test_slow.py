"""Latency by the bounds that services have: the limit, twice the limit, a fat tail, and bounds too coarse."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from ml_lifecycle.canary.bounds import untold, vague
from ml_lifecycle.canary.evidence import Evidence, Side, Window
from ml_lifecycle.canary.histogram import Histogram
from ml_lifecycle.canary.slow import SlowLimits, slow_lines
from ml_lifecycle.canary.tail import Tail
from ml_lifecycle.canary.verdict import Limits, Outcome, judge

ISTIO = (0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
KNATIVE = (0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0, 2.0, 5.0, 10.0)
DECADE = (0.001, 0.01, 0.1, 1.0, 10.0)
LIMITS = Limits(floor=0.01)
NORMAL = NormalDist()
SPREAD = 0.6


def above(seconds, p95):
    """The share of log-normal durations that exceed a time."""
    return 1 - NORMAL.cdf(math.log(seconds / p95) / SPREAD + NORMAL.inv_cdf(0.95))


def shares(bounds, p95, *, fat=0.0):
    """By bucket; `fat`: such a part of the requests takes ten times as long."""
    beyond = [(1 - fat) * above(bound, p95) + fat * above(bound / 10, p95) for bound in bounds]
    return -np.diff([1.0, *beyond, 0.0])


def side(rng, requests, bounds, of_buckets):
    counts = rng.multinomial(requests, of_buckets)
    return Side(requests, 0, Histogram(bounds, tuple(int(count) for count in counts)))


def outcome(bounds, p95, *, slower=1.0, fat=0.0, looks=40):
    """The first decision about latency, and the last verdict: 1,200 requests a look, half of them the canary's."""
    rng = np.random.default_rng(7)
    usual, canary = shares(bounds, p95), shares(bounds, p95 * slower, fat=fat)
    evidence = Evidence()
    for _ in range(60):
        evidence = evidence.add(Window(stable=side(rng, 1200, bounds, usual)), LIMITS.slow)
    for _ in range(looks):
        window = Window(side(rng, 600, bounds, canary), side(rng, 600, bounds, usual))
        evidence = evidence.add(window, LIMITS.slow)
        verdict = judge(evidence, LIMITS)
        if verdict.outcome is not Outcome.HOLD:
            break
    return verdict


@pytest.mark.parametrize("bounds", [ISTIO, KNATIVE])
@pytest.mark.parametrize("p95", [0.012, 0.037, 0.3, 2.2])
def test_as_fast_is_promoted_twice_as_slow_rolled_back_and_the_limit_never_promoted(bounds, p95):
    assert outcome(bounds, p95).outcome is Outcome.PROMOTE
    assert outcome(bounds, p95, slower=2.0).outcome is Outcome.ROLL_BACK
    assert outcome(bounds, p95, slower=1.5).outcome is not Outcome.PROMOTE


@pytest.mark.parametrize("bounds", [ISTIO, KNATIVE])
def test_a_tail_that_grows_sixfold_is_rolled_back(bounds):
    assert outcome(bounds, 0.05, fat=0.08).outcome is Outcome.ROLL_BACK


@pytest.mark.parametrize("slower", [1.0, 1.5, 2.0])
def test_bounds_a_decade_apart_hold_and_say_so_with_the_remedy(slower):
    verdict = outcome(DECADE, 0.03, slower=slower)
    assert verdict.outcome is Outcome.HOLD
    assert "cannot tell a canary at the limit from one as fast" in verdict.reason
    assert "add bounds between 0.01 and 1 s" in verdict.reason


def test_beyond_the_limit_for_certain_is_rolled_back_whatever_the_bounds():
    assert outcome(DECADE, 0.03, slower=60.0).outcome is Outcome.ROLL_BACK


def test_looks_that_could_clear_nothing_are_forgotten_once_the_bounds_can_tell():
    coarse = Histogram(DECADE, (0, 0, 1000, 0, 0, 0))
    evidence = Evidence().add(Window(stable=Side(1000, 0, coarse)), LIMITS.slow)
    evidence = evidence.add(Window(Side(1000, 0, coarse), Side(1000, 0, coarse)), LIMITS.slow)
    assert not evidence.clears
    assert Evidence.from_json(evidence.to_json()) == evidence
    again = evidence.add(Window(Side(1000, 0, coarse), Side(1000, 0, coarse)), SlowLimits(floor_seconds=0.2))
    assert again.clears
    assert len(again.slow) == 1


def test_rounding_loses_no_slow_request():
    rng = np.random.default_rng(3)
    usual = shares(ISTIO, 0.037)
    evidence = Evidence().add(Window(stable=side(rng, 100_000, ISTIO, usual)), LIMITS.slow)
    lines = slow_lines(evidence.totals.stable.latency, LIMITS.slow)
    windows = [Window(side(rng, 3, ISTIO, usual), side(rng, 3, ISTIO, usual)) for _ in range(300)]
    for window in windows:
        evidence = evidence.add(window, LIMITS.slow)
    for counted, whole in ((1, "canary"), (3, "stable")):
        exact = sum(getattr(window, whole).latency.slower(getattr(lines, whole)) for window in windows)
        assert sum(look.numbers[counted] for look in evidence.slow) == pytest.approx(exact, abs=2)
    assert all(0 <= look.canary_e <= look.canary_n for look in evidence.slow)


@pytest.mark.parametrize("p95", [0.006, 0.02, 0.09, 0.7, 4.0])
def test_the_least_share_within_a_bucket_is_no_more_than_the_true_one(p95):
    tail = Tail.of(Histogram(ISTIO, tuple(int(1e7 * share) for share in shares(ISTIO, p95))))
    for seconds in np.geomspace(0.4 * p95, 2 * p95, 23):
        assert tail.least(float(seconds)) <= 1.02 * above(seconds, p95) + 1e-6


def test_a_floor_beyond_the_bounds_lets_a_service_faster_than_the_first_bound_be_cleared():
    fast = Histogram(KNATIVE, (10_000, *[0] * len(KNATIVE)))
    assert "add bounds between 0 and" in untold(fast, SlowLimits())
    assert not untold(fast, SlowLimits(floor_seconds=0.01))


def test_where_twice_the_harm_may_be_held_it_is_said():
    fast = Histogram(KNATIVE, (10_000, *[0] * len(KNATIVE)))
    assert "both may be held" in vague(fast, SlowLimits(floor_seconds=0.01))
    usual = Histogram(ISTIO, tuple(int(1e6 * share) for share in shares(ISTIO, 0.037)))
    assert not vague(usual, SlowLimits())


def test_a_larger_ratio_that_would_tell_is_named():
    coarse = Histogram(ISTIO, (0, 0, 0, 0, 1000, *[0] * 10))
    assert "raise latency_ratio to " in untold(coarse, SlowLimits())
