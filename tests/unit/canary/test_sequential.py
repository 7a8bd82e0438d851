"""The tests behind the verdict: what they may never exceed by calculation, and how often they err in simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_lifecycle.canary.comparison import HISTORY_LOOKS, Harm, compare
from ml_lifecycle.canary.dispersion import Dispersion, Looks, dispersion_bound
from ml_lifecycle.canary.plan import Plan, expected_seconds
from ml_lifecycle.canary.sequential import harm_evidence, margin_evidence
from ml_lifecycle.canary.verdict import Limits, catastrophes, expected_requests

SHARES = np.repeat([0.05, 0.1, 0.25, 0.5], [10, 10, 10, 30])
counts = st.lists(
    st.tuples(st.integers(0, 400), st.floats(0, 1), st.integers(0, 400), st.floats(0, 1)), min_size=1, max_size=20
)


def simulate(
    seed,
    *,
    rate=1200,
    base=0.005,
    ratio=1.0,
    spread=0.0,
    burst=1,
    incident=False,
    step=1.0,
    history=HISTORY_LOOKS,
    runs=400,
):
    """Looks of many rollouts; the first `history` ones are the stable side's alone. `rate`: requests a look."""
    rng = np.random.default_rng(seed)
    share = np.concatenate([np.zeros(history), SHARES])
    shape = (runs, len(share))
    canary_n, stable_n = rng.poisson(rate * share, shape), rng.poisson(rate * (1 - share), shape)
    level = np.where(incident & (np.arange(len(share)) - history - 5 < 8) & (np.arange(len(share)) > history + 5), 4, 1)
    level = level * np.where(np.arange(len(share)) < history + 10, 1, step)

    def errors(n, times):
        own = rng.gamma(1 / spread**2, spread**2, shape) if spread else 1.0
        if burst > 1:
            own = np.repeat(own, burst, axis=1)[:, rng.integers(burst) :][:, : len(share)]
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
    bound = dispersion_bound(looks)
    assert (bound.squared >= 0).all()
    assert (bound.length >= 1).all()


@given(counts)
@settings(max_examples=40, deadline=None)
def test_looks_without_a_canary_say_nothing(rows):
    looks = looks_of(rows)
    silent = Looks(np.zeros_like(looks.canary_n), np.zeros_like(looks.canary_n), looks.stable_n, looks.stable_e)
    bound = dispersion_bound(silent)
    assert np.allclose(harm_evidence(silent, bound), 0, atol=1e-9)
    assert np.allclose(margin_evidence(silent, bound, margin=1.5), 0, atol=1e-9)


@given(counts, st.sampled_from([0.0, 0.03, 0.35, 1.0]), st.sampled_from([1, 2, 4]))
@settings(max_examples=40, deadline=None)
def test_the_verdict_at_a_look_knows_only_what_came_before(rows, squared, length):
    looks = looks_of(rows)
    half = max(1, len(rows) // 2)
    cut = Looks(*(each[:half] for each in looks))
    bound, told = dispersion_bound(looks), dispersion_bound(cut)
    assert np.allclose(bound.squared[:half], told.squared)
    assert (bound.length[:half] == told.length).all()
    whole, part = (Dispersion(np.full(n, length), np.full(n, squared)) for n in (len(rows), half))
    for evidence in (harm_evidence(looks, whole)[:half], margin_evidence(looks, whole, margin=1.5)[:half]):
        assert np.isfinite(evidence).all()
    assert np.allclose(harm_evidence(looks, whole)[:half], harm_evidence(cut, part))
    assert np.allclose(margin_evidence(looks, whole, margin=1.5)[:half], margin_evidence(cut, part, margin=1.5))


@pytest.mark.parametrize("length", [1, 4])
@pytest.mark.parametrize("squared", [0.0, 0.22, 1.0])
def test_evidence_expects_nothing_where_its_model_is_true(squared, length):
    """Where the level is the usual one, known well, and κ² and length are right, the e-value's mean is at most 1."""
    rng, runs, blocks, requests, level = np.random.default_rng(3), 4000, 3, 400.0, 0.01
    shape = (runs, blocks * length)
    for share in (0.05, 0.5):
        own = rng.gamma(1 / squared, squared, (2, runs, blocks)) if squared else np.ones((2, runs, blocks))
        rates = level * np.repeat(own, length, axis=2)
        n = np.full(shape, requests * share), np.full(shape, requests * (1 - share))
        past = np.full((runs, 60), 1e6)
        for ratio in (1.0, 1.5):
            errors = rng.poisson(n[0] * ratio * rates[0]).astype(float), rng.poisson(n[1] * rates[1]).astype(float)
            numbers = ((0 * past, n[0]), (0 * past, errors[0]), (past, n[1]), (past * level, errors[1]))
            looks = Looks(*(np.concatenate(pair, axis=1) for pair in numbers))
            told = Dispersion(np.full(looks.canary_n.shape, length), np.full(looks.canary_n.shape, squared))
            if ratio == 1.0:
                bet = np.exp(harm_evidence(looks, told)[:, -1])
            else:
                bet = np.exp(margin_evidence(looks, told, margin=1.5)[:, -1])
            assert bet.mean() <= 1.02 + 3 * bet.std() / math.sqrt(runs)


@pytest.mark.parametrize("spread", [0.0, 0.5, 1.0])
def test_the_dispersion_bound_is_seldom_below_the_truth_and_finds_it(spread):
    bound = dispersion_bound(simulate(5, spread=spread, runs=300))
    single = (bound.squared * bound.length)[:, -1]
    assert (single < 0.6 * spread**2).mean() < 0.05
    assert np.median(single) < spread**2 + (0.5 if spread else 0.1)


def test_bursts_that_last_are_told_from_looks_that_vary():
    lasting, independent = (
        dispersion_bound(simulate(6, rate=6000, base=0.02, spread=0.5, burst=burst, runs=200)) for burst in (12, 1)
    )
    start = HISTORY_LOOKS
    weighs = (lasting.squared * lasting.length)[:, start]
    assert (weighs > 0.25 * 12 * 0.5).mean() > 0.9
    assert (independent.length[:, start] == 1).mean() > 0.8


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
        {"rate": 500, "base": 0.02, "spread": 0.5, "burst": 12},
        {"rate": 500, "base": 0.02, "spread": 1.0, "burst": 12},
        {"rate": 6000, "base": 0.02, "spread": 1.0, "burst": 15},
        {"rate": 100, "spread": 1.0, "burst": 12},
        {"rate": 6000, "base": 0.02, "step": 1.5},
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
    first = [compare(each, limits.errors).roll_back[:, HISTORY_LOOKS:].argmax(axis=-1) + 1 for each in (double, five)]
    assert compare(same, limits.errors).promote[:, -1].mean() > 0.75
    assert np.median(first[0]) <= 28
    assert np.median(first[1]) <= 6


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
    rng, past, looks = np.random.default_rng(1), HISTORY_LOOKS, 80
    shares = np.concatenate([np.zeros(past), np.full(looks, share)])
    canary_n, stable_n = (rng.poisson(rate * part, (150, past + looks)) for part in (shares, 1 - shares))
    numbers = (canary_n, rng.binomial(canary_n, base), stable_n, rng.binomial(stable_n, base))
    promote = compare(Looks(*(each.astype(float) for each in numbers)), limits.errors).promote
    needed = np.where(promote, np.cumsum(canary_n, axis=-1), np.inf).min(axis=-1)
    expected = expected_requests(limits, error_rate=base, share=share)
    assert expected == pytest.approx(np.median(needed), rel=0.25)


def test_the_expected_time_is_the_median_of_rollouts():
    plan = Plan((5, 10, 25, 50, 100), 600, 60, min_requests=0, deadline_seconds=6000)
    limits = Limits(floor=0.0)
    promote = compare(simulate(2), limits.errors).promote[:, HISTORY_LOOKS:]
    minutes = np.where(promote.any(axis=-1), promote.argmax(axis=-1) + 1.0, np.inf)
    expected = expected_seconds(plan, limits, requests_per_second=20, error_rate=0.005) / 60
    assert expected == pytest.approx(np.median(minutes), rel=0.25)
    assert expected_seconds(plan, limits, requests_per_second=1, error_rate=0.005) == math.inf
    assert expected_seconds(plan, limits, requests_per_second=2000, error_rate=0.005) == 40 * 60


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 120), st.sampled_from([0.0, 0.01]))
def test_the_last_look_alone_is_judged_as_among_all(seed, looks, floor):
    """The verdict asks for it alone, the benchmark for every one."""
    rng = np.random.default_rng(seed)
    canary_n = np.where(np.arange(looks) < looks // 2, 0, 40)
    stable_n = np.full(looks, 160)
    rates = 0.03 * rng.gamma(2.0, 0.5, size=(2, looks))
    seen = Looks(
        *(
            each.astype(float)
            for each in (canary_n, rng.poisson(canary_n * rates[0]), stable_n, rng.poisson(stable_n * rates[1]))
        )
    )
    harm = Harm(1.5, floor, 0.008, 0.05)
    every, last = compare(seen, harm), compare(seen, harm, only_last=True)
    for name in ("harm", "ratio", "floor", "roll_back", "promote"):
        assert np.allclose(getattr(every, name)[-1], getattr(last, name)[-1])
