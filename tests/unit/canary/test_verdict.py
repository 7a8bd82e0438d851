"""The verdict on whole rollouts: what it must never do, and how often it may err."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_lifecycle.canary.evidence import MOST_LOOKS, Evidence, Side, Window
from ml_lifecycle.canary.histogram import Histogram
from ml_lifecycle.canary.sequential import floor_evidence, ratio_evidence
from ml_lifecycle.canary.verdict import Limits, Outcome, catastrophe, expected_requests, judge

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0)
DEMO = Limits(floor=0.01)


def side(requests, errors=0, bucket=2):
    counts = [0] * (len(BOUNDS) + 1)
    counts[bucket] = requests
    return Side(requests, errors, Histogram(BOUNDS, tuple(counts)))


def rollout(windows, limits=DEMO):
    """The verdict after each window."""
    evidence, verdicts = Evidence(), []
    for window in windows:
        evidence = evidence.add(window, limits.slow)
        verdicts.append(judge(evidence, limits))
    return verdicts


def first(verdicts, outcome):
    return next((index for index, verdict in enumerate(verdicts) if verdict.outcome is outcome), None)


sides = st.builds(side, st.integers(0, 300), st.just(0), st.integers(0, 9))
windows = st.builds(Window, canary=sides, stable=sides)


@given(st.lists(st.builds(Window, canary=st.just(side(0)), stable=sides), max_size=20))
@settings(max_examples=25, deadline=None)
def test_no_data_on_the_canary_always_holds(seen):
    assert judge(Evidence(), DEMO).outcome is Outcome.HOLD
    assert all(verdict.outcome is Outcome.HOLD for verdict in rollout(seen))


@given(st.lists(windows, max_size=12))
@settings(max_examples=25, deadline=None)
def test_a_verdict_survives_json(seen):
    evidence = Evidence()
    for window in seen:
        evidence = evidence.add(window, DEMO.slow)
    again = Evidence.from_json(json.loads(json.dumps(evidence.to_json())))
    assert again == evidence
    assert judge(again, DEMO) == judge(evidence, DEMO)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=20), st.integers(1, 20))
@settings(max_examples=50, deadline=None)
def test_more_canary_errors_never_weaken_the_case_against_its_floor(looks, more):
    errors = np.array([first for first, _ in looks], dtype=float)
    worse = errors.copy()
    worse[-1] += more
    requests = np.full(len(looks), 100.0)
    lenient, strict = (floor_evidence(requests, e, floor=0.05)[-1] for e in (errors, worse))
    assert strict <= max(lenient, 0) + 1e-9


def test_clean_beside_clean_is_promoted_after_some_450_requests():
    window = Window(canary=side(25), stable=side(225))
    at = first(rollout([window] * 60), Outcome.PROMOTE)
    assert at is not None
    assert 400 <= (at + 1) * 25 <= 500


def test_a_20_percent_error_rate_is_rolled_back_within_six_looks():
    window = Window(canary=side(25, 5), stable=side(225))
    at = first(rollout([window] * 20), Outcome.ROLL_BACK)
    assert at is not None
    assert at < 6


def test_a_5_times_regression_is_rolled_back():
    window = Window(canary=side(60, 15), stable=side(180, 9))
    assert first(rollout([window] * 20), Outcome.ROLL_BACK) is not None


def test_errors_of_both_sides_alike_are_no_reason_to_roll_back():
    window = Window(canary=side(50, 25), stable=side(50, 25))
    assert first(rollout([window] * 60), Outcome.ROLL_BACK) is None


def test_a_slow_canary_is_rolled_back_for_its_latency():
    verdicts = rollout([Window(canary=side(25, 0, bucket=7), stable=side(225))] * 12)
    at = first(verdicts, Outcome.ROLL_BACK)
    assert at is not None
    assert "latency: p95 is" in verdicts[at].reason


def test_a_canary_between_the_margins_is_not_rolled_back_for_latency():
    """One bucket slower than the stable side is within 1.5 times when the next bound is further away."""
    assert first(rollout([Window(canary=side(50, 0, bucket=3), stable=side(50))] * 60), Outcome.ROLL_BACK) is None


def test_a_difference_below_the_latency_floor_is_no_harm():
    """Four times slower, but by less than 50 ms: too little for anybody to suffer."""
    lenient = Limits(floor=0.01, latency_floor_seconds=0.05)
    seen = [Window(canary=side(50, 0, bucket=3), stable=side(50, 0, bucket=1))] * 30
    assert first(rollout(seen), Outcome.ROLL_BACK) is not None
    assert first(rollout(seen, lenient), Outcome.ROLL_BACK) is None


def test_latency_above_the_last_bucket_holds_and_says_so():
    verdict = rollout([Window(canary=side(500, 0, bucket=9), stable=side(500, 0, bucket=9))] * 5)[-1]
    assert verdict.outcome is Outcome.HOLD
    assert "last bound (1 s) is too low" in verdict.reason


def test_a_catastrophe_needs_one_look_and_a_healthy_stable_side():
    assert "20 of 25" in catastrophe(Window(canary=side(25, 20), stable=side(225)))
    assert not catastrophe(Window(canary=side(25, 20), stable=side(225, 200)))
    assert not catastrophe(Window(canary=side(5, 5), stable=side(225)))
    assert not catastrophe(Window())


def test_a_long_rollout_keeps_a_bounded_number_of_looks():
    evidence = Evidence()
    for _ in range(MOST_LOOKS + 5):
        evidence = evidence.add(Window(canary=side(3, 1), stable=side(7)), DEMO.slow)
    assert len(evidence.errors) <= MOST_LOOKS
    assert sum(look.canary_n for look in evidence.errors) == evidence.totals.canary.requests


def test_expected_requests_grow_as_the_margin_narrows():
    clean = expected_requests(DEMO, error_rate=0.0, share=0.1)
    assert 400 < clean < 500
    narrow, wide = (expected_requests(Limits(margin=m, floor=0), error_rate=0.005, share=0.5) for m in (1.5, 3.0))
    assert 1000 < wide < narrow < 100_000
    assert expected_requests(Limits(floor=0), error_rate=0.0, share=0.5) == math.inf


def simulate(rng, *, rate, base, ratio, spread, looks=60, runs=800):
    """Counts of both sides by look, traffic stepping through 10, 25 and 50 %."""
    share = np.repeat([0.1, 0.25, 0.5], [10, 10, looks - 20])
    canary_n, stable_n = rng.poisson(rate * share, (runs, looks)), rng.poisson(rate * (1 - share), (runs, looks))

    def varying():
        return rng.gamma(1 / spread**2, spread**2, (runs, looks)) if spread else 1.0

    canary_e = rng.binomial(canary_n, np.minimum(1, base * ratio * varying()))
    stable_e = rng.binomial(stable_n, np.minimum(1, base * varying()))
    return [counts.astype(float) for counts in (canary_n, canary_e, stable_n, stable_e)]


def share_decided(streams, *, ratio, direction, level):
    return (ratio_evidence(*streams, ratio=ratio, direction=direction).max(axis=-1) >= math.log(1 / level)).mean()


@pytest.mark.parametrize("spread", [0.0, 0.5, 1.0])
def test_error_rates_hold_at_any_look_and_dispersion(spread):
    """800 rollouts a cell: the bound is the level and three standard errors."""
    rng = np.random.default_rng(7)
    same = simulate(rng, rate=1200, base=0.005, ratio=1.0, spread=spread)
    at_margin = simulate(rng, rate=1200, base=0.005, ratio=1.5, spread=spread)
    assert share_decided(same, ratio=1.0, direction=1, level=0.01) <= 0.02
    assert share_decided(at_margin, ratio=1.5, direction=-1, level=0.05) <= 0.07


def test_power():
    rng = np.random.default_rng(8)
    same = simulate(rng, rate=1200, base=0.005, ratio=1.0, spread=0.0)
    fivefold = simulate(rng, rate=1200, base=0.005, ratio=5.0, spread=0.5)
    assert share_decided(same, ratio=1.5, direction=-1, level=0.05) > 0.6
    assert share_decided(fivefold, ratio=1.0, direction=1, level=0.01) > 0.99
