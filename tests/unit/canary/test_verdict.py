"""The verdict on whole rollouts: what it must never do, and how often it may err."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_lifecycle.canary.evidence import MOST_LOOKS, Evidence, Side, Window
from ml_lifecycle.canary.histogram import Histogram
from ml_lifecycle.canary.sequential import floor_evidence
from ml_lifecycle.canary.verdict import Limits, Outcome, expected_requests, judge

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0)
DEMO = Limits(floor=0.01)


def side(requests, errors=0, bucket=2):
    counts = [0] * (len(BOUNDS) + 1)
    counts[bucket] = requests * 4 // 10
    counts[bucket - 1] += requests - counts[bucket]
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


@given(st.integers(1, 2000), st.integers(0, 100), st.integers(1, 100))
def test_more_canary_errors_never_weaken_the_case_against_its_floor(requests, errors, more):
    few, many = (
        floor_evidence(np.array([float(requests)]), np.array([float(min(e, requests))]), floor=0.05)[-1]
        for e in (errors, errors + more)
    )
    assert many <= few + 1e-9


def test_clean_beside_clean_is_promoted_after_some_450_requests():
    window = Window(canary=side(25), stable=side(225))
    lenient = replace(DEMO, latency_floor_seconds=0.05)
    at = first(rollout([window] * 60, lenient), Outcome.PROMOTE)
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


@pytest.mark.parametrize(
    ("window", "ends"),
    [
        (Window(canary=side(25, 20), stable=side(225)), True),
        (Window(canary=side(9, 9), stable=side(81)), True),
        (Window(canary=side(25, 20), stable=side(225, 200)), False),  # both sides are down
        (Window(canary=side(2, 2), stable=side(20)), False),  # two failures may be chance
    ],
)
def test_the_first_look_ends_a_catastrophe_beside_a_healthy_stable_side(window, ends):
    assert (rollout([window])[0].outcome is Outcome.ROLL_BACK) is ends


def test_a_quarter_of_failures_beside_a_clean_stable_side_ends_at_the_second_look():
    """2 of 9, then 7 of 25 fail, none of hundreds on the stable side; a floor of 1 %."""
    seen = [Window(canary=side(9, 2), stable=side(81)), Window(canary=side(25, 7), stable=side(225))]
    assert [verdict.outcome for verdict in rollout(seen)] == [Outcome.HOLD, Outcome.ROLL_BACK]


def test_the_stable_sides_history_makes_the_verdict_faster():
    past = [Window(stable=side(1200, errors)) for errors in (5, 7, 6, 6, 5, 8, 6, 4, 7, 6) * 3]
    bad = [Window(canary=side(60, 2), stable=side(1140, 6))] * 40
    without, having = rollout(bad), rollout(past + bad)[len(past) :]
    assert first(having, Outcome.ROLL_BACK) < first(without, Outcome.ROLL_BACK)


def warmed(*windows):
    """After the stable side's past, and with these looks as the warm-up."""
    evidence = Evidence()
    for _ in range(60):
        evidence = evidence.add(Window(stable=side(1200, 6)), DEMO.slow)
    for window in windows:
        evidence = evidence.add_warmup(window)
    return evidence


def test_in_a_warm_up_ten_times_the_errors_and_the_latency_are_no_evidence_and_a_catastrophe_is():
    verdict = judge(warmed(*[Window(canary=side(120, 6, bucket=8), stable=side(1080, 5))] * 3), DEMO)
    assert (verdict.outcome, verdict.reason) == (Outcome.HOLD, "no requests on the canary since its warm-up")
    verdict = judge(warmed(Window(canary=side(120, 90), stable=side(1080, 5))), DEMO)
    assert verdict.outcome is Outcome.ROLL_BACK
    assert "90 of 120 canary requests failed within one look" in verdict.reason


def test_after_a_warm_up_the_verdict_is_that_of_the_looks_since():
    clean = Window(canary=side(120), stable=side(1080, 5))
    cold, warm = warmed(*[Window(canary=side(120, 6), stable=side(1080, 5))] * 3), warmed()
    for _ in range(20):
        cold, warm = cold.add(clean, DEMO.slow), warm.add(clean, DEMO.slow)
        assert judge(cold, DEMO) == judge(warm, DEMO)
    assert judge(cold, DEMO).outcome is Outcome.PROMOTE


def test_history_alone_is_no_verdict():
    assert all(verdict.outcome is Outcome.HOLD for verdict in rollout([Window(stable=side(500, 2))] * 5))


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
