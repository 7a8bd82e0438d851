"""The tests behind the verdict: what they may never exceed by calculation, and how often they err in simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_lifecycle.canary.comparison import Harm, compare
from ml_lifecycle.canary.dispersion import Looks, dispersion_bound
from ml_lifecycle.canary.plan import Plan, expected_seconds
from ml_lifecycle.canary.sequential import effective, harm_evidence, margin_evidence
from ml_lifecycle.canary.verdict import Limits, catastrophes, expected_requests

SHARES = np.repeat([0.05, 0.1, 0.25, 0.5], [10, 10, 10, 30])
counts = st.lists(
    st.tuples(st.integers(0, 400), st.floats(0, 1), st.integers(0, 400), st.floats(0, 1)), min_size=1, max_size=20
)


def simulate(seed, *, rate=1200, base=0.005, ratio=1.0, spread=0.0, incident=False, history=60, runs=400):
    """Looks of many rollouts; the first `history` ones are the stable side's alone."""
    rng = np.random.default_rng(seed)
    share = np.concatenate([np.zeros(history), SHARES])
    shape = (runs, len(share))
    canary_n, stable_n = rng.poisson(rate * share, shape), rng.poisson(rate * (1 - share), shape)
    level = np.where(incident & (np.arange(len(share)) - history - 5 < 8) & (np.arange(len(share)) > history + 5), 4, 1)

    def errors(n, times):
        own = rng.gamma(1 / spread**2, spread**2, shape) if spread else 1.0
        return rng.binomial(n, np.minimum(1, base * level * times * own))

    numbers = (canary_n, errors(canary_n, ratio), stable_n, errors(stable_n, 1.0))
    return Looks(*(each.astype(float) for each in numbers))


def looks_of(rows):
    canary_n, canary_part, stable_n, stable_part = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    return Looks(canary_n, np.round(canary_n * canary_part), stable_n, np.round(stable_n * stable_part))


@given(counts)
@settings(max_examples=60, deadline=None)
def test_evidence_is_always_a_number_and_never_both(rows):
    looks = looks_of(rows)
    found = compare(looks, Harm(margin=1.5, floor=0.01, alpha=0.01, beta=0.05))
    assert not np.isnan([found.harm, found.ratio, found.floor]).any()
    assert not (found.roll_back & found.promote).any()
    assert (dispersion_bound(looks) >= 0).all()


@given(counts)
@settings(max_examples=40, deadline=None)
def test_looks_without_a_canary_say_nothing(rows):
    looks = looks_of(rows)
    silent = Looks(np.zeros_like(looks.canary_n), np.zeros_like(looks.canary_n), looks.stable_n, looks.stable_e)
    bound = dispersion_bound(silent)
    assert np.allclose(harm_evidence(silent, bound), 0, atol=1e-9)
    assert np.allclose(margin_evidence(silent, bound, margin=1.5), 0, atol=1e-9)


@given(counts, st.sampled_from([0.0, 0.03, 0.35, 1.0]))
@settings(max_examples=40, deadline=None)
def test_the_verdict_at_a_look_knows_only_what_came_before(rows, squared):
    looks = looks_of(rows)
    half = max(1, len(rows) // 2)
    cut = Looks(*(each[:half] for each in looks))
    bound = np.full(len(rows), squared)
    assert np.allclose(harm_evidence(looks, bound)[:half], harm_evidence(cut, bound[:half]))
    assert np.allclose(dispersion_bound(looks)[:half], dispersion_bound(cut))


@pytest.mark.parametrize("squared", [0.07, 0.22, 1.0])
@pytest.mark.parametrize(("ratio", "times"), [(1.0, 1.5), (1.0, 2.0), (1.0, 3.0), (1.5, 1 / 1.5), (1.5, 0.4)])
def test_effective_counts_make_each_look_a_fair_bet(squared, ratio, times):
    """The likelihood ratio of one look has an expectation of at most 1.02 whatever share and number of errors."""
    rng = np.random.default_rng(3)
    for share in (0.05, 0.25, 0.5):
        for mean in (1, 10, 100, 3000):
            own = rng.gamma(1 / squared, squared, (2, 60_000))
            null = ratio * share / (1 - share + ratio * share)
            canary_e, stable_e = rng.poisson(mean * null * own[0]), rng.poisson(mean * (1 - null) * own[1])
            n = np.ones(len(canary_e))
            canary_n, canary_e, stable_n, stable_e = effective(
                Looks(n * share, canary_e.astype(float), n * (1 - share), stable_e.astype(float)), ratio, squared
            )
            change = np.log((canary_n * ratio * times + stable_n) / (canary_n * ratio + stable_n))
            bet = np.exp(canary_e * math.log(times) - (canary_e + stable_e) * change)
            assert bet.mean() <= 1.02 + 3 * bet.std() / math.sqrt(len(bet))


@pytest.mark.parametrize("spread", [0.0, 0.5, 1.0])
def test_the_dispersion_bound_is_seldom_below_the_truth_and_finds_it(spread):
    bound = dispersion_bound(simulate(5, spread=spread, runs=300))[:, -1]
    assert (bound < 0.6 * spread**2).mean() < 0.05
    assert np.median(bound) < spread**2 + (0.5 if spread else 0.1)


@pytest.mark.parametrize(
    "world",
    [
        {},
        {"incident": True},
        {"spread": 0.5},
        {"spread": 1.0},
        {"rate": 6000, "base": 0.02, "spread": 1.0, "incident": True},
        {"rate": 300, "incident": True},
        {"rate": 60, "history": 0},
        {"rate": 6000, "base": 0.02, "spread": 1.0, "history": 0},
    ],
    ids=str,
)
def test_error_rates_hold_at_any_look(world):
    """400 rollouts of 60 looks: each bound is the aim and three standard errors."""
    limits = Limits(floor=0.0)
    same, margin, triple = (simulate(11, ratio=ratio, **world) for ratio in (1.0, 1.5, 3.0))
    rolled_back = compare(same, limits.errors).roll_back | catastrophes(same, limits.guardrail_alpha)
    assert rolled_back.any(axis=-1).mean() <= 0.025
    assert compare(margin, limits.errors).promote.any(axis=-1).mean() <= 0.085
    assert compare(triple, limits.errors).promote[:, -1].mean() <= 0.005


def test_power():
    limits = Limits(floor=0.0)
    same, double, five = (simulate(8, ratio=ratio) for ratio in (1.0, 2.0, 5.0))
    first = [compare(each, limits.errors).roll_back[:, 60:].argmax(axis=-1) + 1 for each in (double, five)]
    assert compare(same, limits.errors).promote[:, -1].mean() > 0.55
    assert np.median(first[0]) <= 33
    assert np.median(first[1]) <= 7


@pytest.mark.parametrize(
    ("limits", "base", "share", "rate"),
    [
        (Limits(floor=0.0), 0.005, 0.5, 1200),
        (Limits(floor=0.0), 0.02, 0.1, 1200),
        (Limits(floor=0.01), 0.0, 0.1, 300),
        (Limits(floor=0.01), 0.002, 0.1, 1200),
    ],
)
def test_the_expected_requests_are_the_median_of_rollouts(limits, base, share, rate):
    rng, past, looks = np.random.default_rng(1), 60, 80
    shares = np.concatenate([np.zeros(past), np.full(looks, share)])
    canary_n, stable_n = rng.poisson(rate * shares, (150, past + looks)), rng.poisson(rate * (1 - shares), (150, 140))
    numbers = (canary_n, rng.binomial(canary_n, base), stable_n, rng.binomial(stable_n, base))
    promote = compare(Looks(*(each.astype(float) for each in numbers)), limits.errors).promote
    needed = np.where(promote, np.cumsum(canary_n, axis=-1), np.inf).min(axis=-1)
    expected = expected_requests(limits, error_rate=base, share=share)
    assert expected == pytest.approx(np.median(needed), rel=0.25)


def test_the_expected_time_is_the_median_of_rollouts():
    plan = Plan((5, 10, 25, 50, 100), 600, 60, min_requests=0, deadline_seconds=6000)
    limits = Limits(floor=0.0)
    promote = compare(simulate(2), limits.errors).promote[:, 60:]
    minutes = np.where(promote.any(axis=-1), promote.argmax(axis=-1) + 1.0, np.inf)
    expected = expected_seconds(plan, limits, requests_per_second=20, error_rate=0.005) / 60
    assert expected == pytest.approx(np.median(minutes), rel=0.25)
    assert expected_seconds(plan, limits, requests_per_second=1, error_rate=0.005) == math.inf
    assert expected_seconds(plan, limits, requests_per_second=2000, error_rate=0.005) == 40 * 60
