"""What the ridge regresses on: the load's recent shape, and what happened at the same time on other days. Pure; torch.

All are differences of log-load means, so that they fit a service of any size; 0 where history does not reach.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from ml_lifecycle.scaling.windows import Windows

SPANS = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # steps; the recent shape is the differences of their means
DAYS = 4  # so many days before today make the usual day
HOURS = 4  # so many before this one make the usual hour
HARMONICS = 2
LEAST_BEFORE = 64  # steps that a season's history must exceed it by
LAST_TURNS = 256  # steps from which noise is taken
SIGNIFICANT_SLOPE = 2.0  # standard errors


def base_level(windows: Windows) -> Tensor:
    """[series, point]: the level now, against which growth is meant."""
    return windows.mean(SPANS[1])


def shape_features(windows: Windows) -> list[Tensor]:
    """The last steps at doubling spans."""
    spans = [span for span in SPANS if span == 1 or span * 2 <= windows.time]
    means = [windows.mean(span) for span in spans]
    return [short - long for short, long in itertools.pairwise(means)]


def season_features(windows: Windows, horizon: int, day: int) -> tuple[list[Tensor], Tensor]:
    """The same window yesterday, on the usual of the last days and last week; and yesterday's growth alone."""
    now = windows.mean(16)
    columns: list[Tensor] = []
    if windows.time <= day // 24 + LEAST_BEFORE:
        return columns, torch.zeros_like(now)
    coming = windows.coming(horizon)
    growth = torch.zeros_like(now)
    days = [_same_window(windows, coming, number * day, horizon) for number in range(1, DAYS + 1)]
    if days[0] is not None:
        growth, columns = days[0][0], [*days[0]]
    there = [found for found in days if found is not None]
    if len(there) > 1:
        # Days before the first sample count as no growth; the ridge's coefficient makes up for it.
        columns += [torch.stack([found[part] for found in there]).mean(dim=0) for part in range(3)]
    week = _same_window(windows, coming, 7 * day, horizon)
    return [*columns, *(week or ()), *_hour_features(windows, coming, horizon, day // 24)], growth


def _hour_features(windows: Windows, coming: Tensor, horizon: int, hour: int) -> list[Tensor]:
    """Growth at the same minute of the hours before, for what is started by a clock."""
    if hour <= horizon or windows.time <= HOURS * hour + LEAST_BEFORE:
        return []
    growth = [
        windows.look(coming, -number * hour) - windows.mean(SPANS[1], -number * hour) for number in range(1, HOURS + 1)
    ]
    return [growth[0], torch.stack(growth).mean(dim=0)]


def _same_window(windows: Windows, coming: Tensor, lag: int, horizon: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """Growth over the horizon then, over the half hour after it, and how far that day's level was from today's."""
    if windows.time <= lag + LEAST_BEFORE or horizon + 30 >= lag:
        return None
    there = (windows.at - lag >= windows.first).float()
    before = windows.mean(8, -lag)
    near = windows.look(coming, -lag) - before
    far = windows.mean(30, horizon + 30 - lag) - before
    level = windows.mean(31, 15 - lag) - windows.mean(16)
    return near * there, far * there, level * there


def clock_features(windows: Windows, day: int) -> list[Tensor]:
    """The time of day, as waves; relative to now, so that no clock is needed."""
    if windows.time <= day // 2:
        return []
    phase = 2 * math.pi * (windows.at - windows.time).float() / day
    waves = [wave(number * phase) for number in range(1, HARMONICS + 1) for wave in (torch.sin, torch.cos)]
    return [wave.expand(windows.level.shape[0], -1) for wave in waves]


def trend(windows: Windows, horizon: int, longest: float) -> Tensor:
    """[series, point]: growth if the load goes on as a straight line, as far as its slope exceeds its noise.

    The slope is the median of the last three, so that one spike is no trend.
    """
    values = [windows.look(windows.level, -lag) for lag in range(4)]
    first, second, third = (later - earlier for later, earlier in itertools.pairwise(values))
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    middle = torch.maximum(low, torch.minimum(high, third))
    turn = (first - second).abs()[:, : windows.origins]
    noise = 0.7 * turn.nanmedian(dim=1, keepdim=True).values + 1e-3
    real = (1 - (SIGNIFICANT_SLOPE * noise / middle.abs().clamp(min=1e-6)) ** 2).clamp(min=0)
    steps = torch.where(middle > 0, float(horizon), 1.0)  # a falling load is highest at the next step
    share = (1 - torch.exp(-middle)) * real  # of the load now that one step adds
    return torch.log1p((share * steps).clamp(min=-0.9)).clamp(max=longest)


def noise_margin(windows: Windows, horizon: int, quantiles: Tensor) -> Tensor:
    """[series, k]: the quantile of growth if each step is the level now with independent noise and nothing else.

    What a history too short for its own residuals still tells: noise from the median turn of the slope.
    """
    level = windows.level[:, -LAST_TURNS - 2 :]
    turns = (level[:, 2:] - 2 * level[:, 1:-1] + level[:, :-2]).abs()
    if not turns.shape[1]:
        return torch.zeros_like(quantiles)
    noise = 1.4826 * turns.median(dim=1, keepdim=True).values / math.sqrt(6.0)  # a turn is x - 2 y + z
    highest = torch.special.ndtri(quantiles ** (1 / horizon))
    return noise * math.sqrt(1 + 1 / SPANS[1]) * highest  # the base level has noise too
