"""The gauge's sequential test: what its theorem says, and how often it errs on noise of several kinds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_lifecycle.canary.gauge import compare_gauge, mean_evidence

ROLLOUTS, LOOKS = 2000, 100
NOISE = {
    "normal": lambda rng, size: rng.normal(size=size),
    "heavy tails": lambda rng, size: rng.standard_t(2, size=size),
    "skewed alike": lambda rng, size: rng.lognormal(0, 1, size=size) - rng.lognormal(0, 1, size=size),
    "a new scale at each look": lambda rng, size: rng.normal(size=size) * rng.lognormal(0, 1, size=size),
}


@given(st.floats(1e-3, 1e3), st.floats(0, 50), st.floats(0, 50))
def test_a_symmetric_difference_below_zero_never_gains_on_average(bet, distance, below):
    """The supermartingale's property for two equally likely values around a centre that is not above 0."""
    gains = [np.exp(bet * d - (bet * d) ** 2 / 2) for d in (distance - below, -distance - below)]
    assert sum(gains) / 2 <= 1 + 1e-12


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_evidence_of_harm_and_of_its_opposite_are_never_both_large(differences):
    """One of "at most 0" and "at least 0" is true: were both rejected at once, the test would be wrong for sure."""
    d = np.array(differences)
    assert min(mean_evidence(d)[-1], mean_evidence(-d)[-1]) <= 1e-9


@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("spread", [0.3, 1.0, 3.0])
def test_error_rates_hold_at_any_look(noise, spread):
    rng = np.random.default_rng(5)
    alike = spread * NOISE[noise](rng, (ROLLOUTS, LOOKS))
    assert compare_gauge(alike, alpha=0.01, beta=0.05).roll_back.any(axis=1).mean() <= 0.01
    assert compare_gauge(1 + alike, alpha=0.01, beta=0.05).promote.any(axis=1).mean() <= 0.05


def test_it_decides():
    rng = np.random.default_rng(5)
    alike = rng.normal(size=(ROLLOUTS, LOOKS))
    assert compare_gauge(alike, alpha=0.01, beta=0.05).promote.any(axis=1).mean() >= 0.99
    assert compare_gauge(alike + 2, alpha=0.01, beta=0.05).roll_back.any(axis=1).mean() >= 0.99


@pytest.mark.parametrize("harm", [1.0, 30.0, 1e4])
def test_harm_of_any_size_is_rolled_back_within_25_looks(harm):
    assert compare_gauge(np.full(25, harm), alpha=0.002, beta=0.05).roll_back[-1]


def test_a_difference_of_a_tenth_of_the_tolerance_is_promoted_however_sure():
    found = compare_gauge(np.full(400, 0.1), alpha=0.01, beta=0.05)
    assert found.promote[-1]
    assert not found.roll_back.any()
