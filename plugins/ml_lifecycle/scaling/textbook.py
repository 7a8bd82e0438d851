"""Two forecasters that are used only where a scaler asks for them: Holt-Winters, and the straight line. Pure; torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ml_lifecycle.scaling.features import base_level
from ml_lifecycle.scaling.windows import OFFSET, Windows

BUCKETS_A_DAY = 96
LEVEL, TREND, SEASON = 0.05, 0.002, 0.3  # smoothing; a faster level would follow the day itself
SAMPLES = 10  # of the straight line


def holt_winters(windows: Windows, horizon: int, day: int) -> Tensor:
    """[series, point]: growth by additive Holt-Winters with a daily season on means of a quarter of an hour.

    A loop over time, never over series. Without three days of history it has no season, and only follows level and
    trend. Holt (1957), Winters (1960).
    """
    size = max(1, day // BUCKETS_A_DAY)
    count, season = windows.time // size, day // size
    if count < 2:
        return torch.zeros_like(base_level(windows))
    begin = windows.time - count * size
    values = windows.level[:, begin:].reshape(-1, count, size).mean(dim=2)
    growth = _growth(values, season, horizon / size)
    bucket = (windows.at + 1 - begin).div(size, rounding_mode="floor") - 1
    return torch.where(bucket >= 0, growth[:, bucket.clamp(min=0)], 0.0)


def _growth(values: Tensor, season: int, ahead: float) -> Tensor:
    """[series, bucket]: by how much the highest of the next buckets exceeds each, as far as `ahead` buckets reach."""
    seasons = values.shape[1] >= 3 * season
    first = values[:, : season if seasons else 1]
    level, trend = first.mean(dim=1), torch.zeros_like(values[:, 0])
    seasonal = first - level.unsqueeze(1) if seasons else values.new_zeros(len(values), season)
    steps = torch.arange(1, math.ceil(ahead) + 1, device=values.device)
    found = []
    for number, value in enumerate(values.unbind(dim=1)):
        place, before = number % season, level
        level = LEVEL * (value - seasonal[:, place]) + (1 - LEVEL) * (level + trend)
        trend = TREND * (level - before) + (1 - TREND) * trend
        if seasons:
            seasonal[:, place] = SEASON * (value - level) + (1 - SEASON) * seasonal[:, place]
        coming = steps * trend.unsqueeze(1) + seasonal[:, (number + steps) % season]
        found.append(coming.amax(dim=1) - seasonal[:, place])
    return torch.stack(found, dim=1) * min(1.0, ahead)


def straight_line(windows: Windows, horizon: int, longest: float) -> Tensor:
    """[series, point]: growth by least squares through the last samples, carried on over the horizon."""
    back = torch.arange(SAMPLES, dtype=torch.float32)
    middle = (SAMPLES - 1) / 2
    # The line's value at a time is a fixed weighted sum of the samples.
    shares = 1 / SAMPLES + (middle - back) * (horizon + middle) / ((back - middle) ** 2).sum()
    samples = torch.stack([windows.look(windows.level, -lag) for lag in range(SAMPLES)], dim=-1)
    loads = (samples + windows.center.unsqueeze(-1)).exp() - OFFSET
    line = torch.log((loads @ shares.to(loads)).clamp(min=0) + OFFSET)
    return (line - base_level(windows) - windows.center).clamp(-longest, longest)
