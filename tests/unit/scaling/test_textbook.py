from __future__ import annotations

import numpy as np
import pytest
import torch

from ml_lifecycle.scaling.features import base_level
from ml_lifecycle.scaling.forecast import Question, forecast
from ml_lifecycle.scaling.textbook import holt_winters, straight_line
from ml_lifecycle.scaling.windows import OFFSET, Windows

DAY, HORIZON = 1440, 10


def windows(loads: np.ndarray, day: int = DAY) -> Windows:
    values = torch.from_numpy(np.atleast_2d(loads).astype(np.float32))
    return Windows.of(values, torch.ones(len(values), 1), stride=7, phase=0, last=5, day=day)


def season(days: float, noise: float = 0.0) -> np.ndarray:
    minute = np.arange(round(days * DAY))
    mean = np.exp(3 + np.sin(2 * np.pi * minute / DAY))
    return mean * np.exp(noise * np.random.default_rng(0).standard_normal(len(mean)))


def test_holt_winters_learns_the_day() -> None:
    whole = season(6.25)  # ends where the sine is at its height
    rising, falling = whole[: -DAY // 4], whole[: DAY // 2 - DAY // 4]
    growth = holt_winters(windows(rising), HORIZON, DAY)[0, -1]
    level = np.log(rising[-1] + OFFSET)
    wanted = np.log(whole[len(rising) : len(rising) + HORIZON].max() + OFFSET) - level
    assert growth.item() == pytest.approx(wanted, abs=0.01)
    assert holt_winters(windows(falling), HORIZON, DAY)[0, -1].item() < 0.05


def test_without_three_days_holt_winters_has_no_season() -> None:
    assert holt_winters(windows(season(2)), HORIZON, DAY).abs().max() < 0.1
    assert holt_winters(windows(np.full(20, 5.0)), HORIZON, DAY).abs().max() == 0


def test_holt_winters_treats_each_series_alone() -> None:
    both = holt_winters(windows(np.stack([season(4), season(4)[::-1]])), HORIZON, DAY)
    torch.testing.assert_close(both[:1], holt_winters(windows(season(4)), HORIZON, DAY))


def test_the_straight_line_goes_on() -> None:
    looked = windows(np.linspace(10, 60, 51))
    at_horizon = torch.exp(straight_line(looked, HORIZON, 3.0) + base_level(looked) + looked.center) - OFFSET
    assert at_horizon[0, -1].item() == pytest.approx(60 + HORIZON, rel=0.01)
    falling = windows(np.linspace(60, 1, 51))
    assert straight_line(falling, 1000, 1.5)[0, -1].item() == -1.5


@pytest.mark.parametrize("model", ["seasonal", "ridge", "holtWinters"])
def test_who_asks_for_a_model_gets_it_or_persistence(model: str) -> None:
    loads = 40 * season(7, noise=0.03)
    question = Question(loads, 40.0, 30, 0.95, model=model)
    auto = Question(loads, 40.0, 30, 0.95)
    flat = Question(np.full(2000, 5.0), 40.0, 30, 0.95, model=model)
    answer, usual, still = forecast([question, auto, flat])
    assert answer.model == model
    assert usual.trusted
    assert (still.model, still.trusted) == ("persistence", False)


def test_the_straight_line_is_used_where_the_load_turns_slowly() -> None:
    loads = 100 + 80 * np.sin(2 * np.pi * np.arange(1230) / 400)
    (answer,) = forecast([Question(loads, 40.0, 4, 0.9, model="straightLine")])
    assert (answer.model, answer.trusted) == ("straightLine", True)
    assert answer.expected == pytest.approx(100 + 80 * np.sin(2 * np.pi * 1234 / 400), rel=0.02)
