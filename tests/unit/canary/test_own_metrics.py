"""Metrics of one's own in the verdict: both directions of harm, their part of α, and that a hold of any holds all."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_lifecycle.canary.dispersion import Looks
from ml_lifecycle.canary.evidence import Counts, Evidence, Readings, Side, Window
from ml_lifecycle.canary.histogram import Histogram
from ml_lifecycle.canary.own_metrics import CountsLimits, GaugeLimits, compare_fewer, compare_own, own_report
from ml_lifecycle.canary.verdict import Limits, Outcome, alpha_parts, judge

OWN = {"sold": CountsLimits("fewer", margin=1.5), "empty": CountsLimits(floor=0.01), "score": GaugeLimits(0.1, "fewer")}
LIMITS = Limits(floor=0.01, own=OWN)
GOOD = {"sold": Counts(100, 20, 400, 80), "empty": Counts(100, 0, 400, 1), "score": Readings(1, 0.8, 0.8)}


def side(requests):
    counts = (requests * 6 // 10, requests - requests * 6 // 10 - requests * 3 // 100, requests * 3 // 100, 0)
    return Side(requests, 0, Histogram((0.01, 0.02, 0.1), counts))


def seen(looks, own, silent=None):
    evidence = Evidence()
    for number in range(looks):
        # A gauge moves a little: what never changes is a sample read twice.
        moving = {
            name: Readings(1, look.canary + 1e-4 * (number % 7), look.stable - 1e-4 * (number % 5))
            if isinstance(look, Readings)
            else look
            for name, look in own.items()
        }
        evidence = evidence.add(Window(side(100), side(400), moving, silent or {}), LIMITS.slow)
    return evidence


def test_a_good_version_is_promoted_with_metrics_of_its_own():
    verdict = judge(seen(60, GOOD), LIMITS)
    assert verdict.outcome is Outcome.PROMOTE
    assert "sold: 1200 of 6000 on the canary (20.00%), 20.00% on the stable side" in verdict.reasons
    assert any(reason.startswith("score: 0.80") for reason in verdict.reasons)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"sold": Counts(100, 10, 400, 80)}, "sold: "),
        ({"empty": Counts(100, 6, 400, 4)}, "empty: "),
        ({"score": Readings(1, 0.6, 0.8)}, "score: 0.6"),
    ],
)
def test_harm_by_one_metric_alone_rolls_back_and_says_which(bad, reason):
    verdict = judge(seen(60, GOOD | bad), LIMITS)
    assert verdict.outcome is Outcome.ROLL_BACK
    assert [each for each in verdict.reasons if each.startswith(reason)] == list(verdict.reasons)


@pytest.mark.parametrize("better", [{"sold": Counts(100, 40, 400, 80)}, {"score": Readings(1, 1.6, 0.8)}])
def test_more_of_what_is_wanted_is_no_harm(better):
    assert judge(seen(60, GOOD | better), LIMITS).outcome is Outcome.PROMOTE


@pytest.mark.parametrize("name", OWN)
def test_a_metric_without_data_holds_and_says_which_query_gave_nothing(name):
    others = {key: look for key, look in GOOD.items() if key != name}
    verdict = judge(seen(60, others, {name: f"sum({name}) gives nothing on the canary side"}), LIMITS)
    assert verdict.outcome is Outcome.HOLD
    assert f"{name}: no data, sum({name}) gives nothing on the canary side" in verdict.reason


def test_a_metric_that_falls_silent_neither_passes_nor_fails_by_what_it_said_before():
    silent = Window(side(100), side(400), silent={"sold": "Prometheus refuses 'x'"})
    for looks in (GOOD, GOOD | {"sold": Counts(100, 0, 400, 80)}):
        verdict = judge(seen(60, looks).add(silent, LIMITS.slow), LIMITS)
        assert (verdict.outcome, verdict.reason) == (Outcome.HOLD, "sold: no data, Prometheus refuses 'x'")


own_counts = st.builds(lambda n, e, m, f: Counts(n, min(n, e), m, min(m, f)), *(st.integers(0, 400) for _ in range(4)))
own_gauges = st.builds(Readings, st.just(1), st.floats(-9, 9), st.floats(-9, 9))


@given(
    st.integers(1, 40),
    st.dictionaries(st.sampled_from(["sold", "empty"]), own_counts),
    st.dictionaries(st.just("score"), own_gauges),
    st.sets(st.sampled_from(sorted(OWN))),
)
@settings(max_examples=60, deadline=None)
def test_nothing_is_promoted_while_a_metric_holds(looks, counts, gauges, silent):
    own = {name: look for name, look in {**GOOD, **counts, **gauges}.items() if name not in silent}
    evidence = seen(looks, own, dict.fromkeys(silent, "no data"))
    verdict = judge(evidence, LIMITS)
    parts = {
        name: compare_own(evidence.own[name], OWN[name], alpha=LIMITS.alpha_of(name), beta=LIMITS.beta) for name in own
    }
    if verdict.outcome is Outcome.PROMOTE:
        assert not silent
        assert all(found.promote[-1] and not found.roll_back[-1] for found in parts.values())
    if any(found.roll_back[-1] for found in parts.values()):
        assert verdict.outcome is Outcome.ROLL_BACK


@given(st.lists(st.text(min_size=1), unique=True, max_size=8))
def test_the_parts_of_alpha_add_up_to_one(names):
    parts = alpha_parts([f"own {name}" for name in names])
    assert math.isclose(sum(parts.values()), 1)
    assert all(part > 0 for part in parts.values())


def test_without_metrics_of_ones_own_nothing_changes():
    assert alpha_parts(()) == {"errors": 0.8, "latency": 0.15, "guardrail": 0.05}
    alone, beside = Limits(floor=0.01), Limits(floor=0.01, own=OWN)
    assert alone.errors.alpha == pytest.approx(0.008)
    assert beside.errors.alpha == pytest.approx(0.0064)
    assert judge(seen(60, {}), alone).outcome is Outcome.PROMOTE


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_error_rates_of_fewer_hold_where_rates_vary(spread):
    """Conversions of 5 %: false roll-backs of an equal version, promotions of one with two thirds of them."""
    rng = np.random.default_rng(11)
    size = (1000, 60)

    def ever(canary_rate):
        canary_n, stable_n = rng.poisson(60, size), rng.poisson(540, size)
        varying = [rng.gamma(1 / spread**2, spread**2, size) if spread else 1.0 for _ in range(2)]
        canary_e = rng.binomial(canary_n, np.clip(canary_rate * varying[0], 0, 1))
        stable_e = rng.binomial(stable_n, np.clip(0.05 * varying[1], 0, 1))
        looks = Looks(*(each.astype(float) for each in (canary_n, canary_e, stable_n, stable_e)))
        found = compare_fewer(looks, margin=1.5, alpha=0.01, beta=0.05)
        return found.roll_back.any(axis=1).mean(), found.promote.any(axis=1).mean()

    assert ever(0.05)[0] <= 0.01
    assert ever(0.05 / 1.5)[1] <= 0.05
    assert ever(0.02)[0] >= 0.5


def test_a_report_shows_both_sides():
    window = Window(own={"sold": Counts(10, 1, 40, 8), "score": Readings(2, 1.0, 3.0)})
    assert own_report(window) == {
        "sold": {"canary": {"events": 1, "total": 10}, "stable": {"events": 8, "total": 40}},
        "score": {"canary": 0.5, "stable": 1.5},
    }
