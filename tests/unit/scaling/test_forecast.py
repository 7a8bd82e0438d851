from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ml_lifecycle.scaling.forecast import Forecast, Question, forecast
from ml_lifecycle.scaling.models import LONGEST_GROWTH

SCALE = 40.0  # what one replica is given to carry
Loads = NDArray[np.float64]


def ask(loads: Loads, *, horizon: int = 6, quantile: float = 0.95, step: float = 5.0, lookback: int = 12) -> Question:
    return Question(np.asarray(loads, dtype=float), SCALE, horizon, quantile, lookback, step)


def one(loads: Loads, **changes: float) -> Forecast:
    return forecast([ask(loads, **changes)])[0]  # type: ignore[arg-type]


def seen(true: Loads, window: int = 20, step: int = 5) -> Loads:
    """What a rate over `window` seconds shows every `step` seconds of a load given by the second."""
    total = np.concatenate([[0.0], np.cumsum(true)])
    return np.array([(total[at] - total[at - window]) / window for at in range(window, len(true) + 1, step)])


def ramp(before: int, rise: int, after: int, low: float = 20, high: float = 100) -> Loads:
    return np.concatenate([np.full(before, low), np.linspace(low, high, rise), np.full(after, high)])


histories = st.lists(
    st.one_of(st.floats(0, 1000), st.just(math.nan)),
    min_size=0,
    max_size=60,
).map(lambda values: np.array(values, dtype=float))


@given(st.lists(histories, min_size=1, max_size=4))
@settings(max_examples=20, deadline=None)
def test_one_in_a_batch_equals_a_batch_of_one(batch: list[Loads]) -> None:
    together = forecast([ask(loads) for loads in batch])
    for loads, answer in zip(batch, together, strict=True):
        alone = one(loads)
        assert (answer.trusted, answer.model) == (alone.trusted, alone.model)
        assert answer.peak == pytest.approx(alone.peak, rel=1e-3, abs=1e-3, nan_ok=True)


@given(st.lists(histories, min_size=2, max_size=5), st.randoms(use_true_random=False))
@settings(max_examples=15, deadline=None)
def test_order_does_not_matter(batch: list[Loads], random: st.DrawFn) -> None:
    order = list(range(len(batch)))
    random.shuffle(order)  # type: ignore[attr-defined]
    straight = forecast([ask(loads) for loads in batch])
    shuffled = forecast([ask(batch[index]) for index in order])
    for place, index in enumerate(order):
        assert shuffled[place].peak == pytest.approx(straight[index].peak, rel=1e-3, abs=1e-3, nan_ok=True)


@given(histories)
@settings(max_examples=40, deadline=None)
def test_a_trusted_forecast_is_a_sane_number(loads: Loads) -> None:
    answer = one(loads)
    if answer.trusted:
        assert 0 <= answer.expected <= answer.alarm <= answer.peak <= answer.reserve <= answer.recent_reserve
        now, most = np.nanmax(loads[-3:]) + SCALE, np.nanmax(loads)
        assert answer.peak <= max(now * math.exp(LONGEST_GROWTH), 1.01 * most + 1)
        assert answer.reason


@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize("rise", [45, 60])
def test_a_first_ramp_is_seen_before_the_load_fills_the_replica(rise: int, noise: bool) -> None:
    """A service at rest for two minutes; the load then climbs past the 50 that its one replica carries."""
    random = np.random.default_rng(7)
    true = ramp(120, rise, 60)
    arrived = random.poisson(true).astype(float) if noise else true
    full = int(np.argmax(true > 50))
    for now in range(125, full, 5):
        answer = one(seen(arrived[:now])[-40:])
        if answer.trusted and answer.peak > SCALE:
            assert full - now >= 2
            return
    pytest.fail("the forecast never asked for a second replica in time")


def test_after_the_ramp_the_forecast_comes_down_to_the_load() -> None:
    answer = one(seen(ramp(120, 50, 100))[-40:])
    assert answer.peak < 120


def test_a_steady_load_is_not_forecast() -> None:
    answer = one(np.full(40, 30.0))
    assert not answer.trusted
    assert "load's last value" in answer.reason
    assert answer.peak == pytest.approx(30, rel=0.01)


def test_a_single_spike_is_no_trend() -> None:
    loads = np.full(40, 30.0)
    loads[-1] = 90.0
    assert not one(loads).trusted


def test_a_short_history_says_so() -> None:
    answer = one(np.array([10.0, 12.0, 14.0]))
    assert not answer.trusted
    assert "history too short" in answer.reason


@pytest.mark.parametrize("loads", [np.array([]), np.full(40, math.nan)])
def test_nothing_is_forecast_from_nothing(loads: Loads) -> None:
    answer = one(loads)
    assert not answer.trusted
    assert math.isnan(answer.peak)


def test_gaps_do_not_turn_into_load() -> None:
    loads = np.linspace(20, 60, 40)
    holed = loads.copy()
    holed[[5, 12, 13, 25]] = math.nan
    assert one(holed).peak == pytest.approx(one(loads).peak, rel=0.15)


def daily(days: int, noise: float = 0.03) -> Loads:
    """One-minute samples of a day with a steep morning; noise is relative."""
    random = np.random.default_rng(3)
    minute = np.arange(days * 1440)
    shape = 200 + 150 * np.tanh(4 * np.sin(2 * np.pi * minute / 1440))
    return np.asarray(shape * (1 + noise * random.standard_normal(len(minute))))


def test_the_ridge_knows_yesterday() -> None:
    """Just before the steep rise of the fourth day nothing but yesterday tells of it."""
    loads = daily(4)
    answer = one(loads[: 3 * 1440 - 5], horizon=20, step=60.0)
    assert answer.trusted
    assert answer.model == "ridge"
    assert answer.expected > 1.15 * loads[3 * 1440 - 6]


@pytest.mark.parametrize("quantile", [0.8, 0.95])
def test_the_quantile_is_about_true(quantile: float) -> None:
    loads = daily(4)
    at = range(2 * 1440, 3 * 1440, 36)
    answers = forecast([ask(loads[:now], horizon=10, quantile=quantile, step=60.0) for now in at])
    covered = [answer.peak >= loads[now : now + 10].max() for now, answer in zip(at, answers, strict=True)]
    assert np.mean(covered) == pytest.approx(quantile, abs=0.1)
