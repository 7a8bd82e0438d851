"""How large a forecast's miss will be, relative to its other times: a ridge on the logarithm of past misses. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from ml_lifecycle.scaling.quantiles import median_size
from ml_lifecycle.scaling.ridge import fit
from ml_lifecycle.scaling.windows import Means, Windows

SPANS = (8, 32, 256)  # steps over which the recent roughness is taken
MEAN_SHARE = 0.3  # of the mean miss, which the usual one is at least
LEAST_SHARE = 0.1  # of the median miss; keeps the logarithm of a perfect forecast finite
PENALTY = 10.0
NARROWEST, WIDEST = math.exp(-3.0), math.exp(3.0)  # times the median miss


@dataclass(frozen=True)
class Spread:
    """The expected size of the miss at each point."""

    logarithm: Tensor  # [series, point], relative to the usual size
    usual: Tensor  # [series, 1]

    def size(self, share: float) -> Tensor:
        """[series, point], never 0: that size, of whose difference from the usual one a `share` is believed."""
        return (share * self.logarithm).exp().clamp(NARROWEST, WIDEST) * self.usual


def spread(windows: Windows, residuals: Tensor, weight: Tensor, *, horizon: int, day: int) -> Spread:
    """What size of the residual is expected at each point.

    `residuals`, `weight` [series, origin]: of the past, 0 where unknown. It learns from roughness, slope and load of
    the moment, and from the misses of the hour before and of the same hour yesterday.
    """
    size, known = residuals.abs(), weight > 0
    total = weight.sum(dim=1, keepdim=True).clamp(min=1e-6)
    # Of a load that stands still most of the time the median miss is none.
    usual = torch.maximum(median_size(residuals, weight), MEAN_SHARE * (size * weight).sum(dim=1, keepdim=True) / total)
    usual = usual + 1e-3
    columns = [torch.ones_like(windows.at, dtype=torch.float32).expand(len(size), -1), *_roughness(windows)]
    hour = max(1, 60 // windows.stride)
    delay = math.ceil((horizon + 1) / windows.stride)
    lags = [delay]
    if day // windows.stride + hour < windows.origins:
        lags.append(day // windows.stride - hour // 2)
    clipped = size.clamp(max=20 * usual) * known
    columns += [_past_misses(clipped, known.float(), usual, lag, hour, windows.last) for lag in lags]
    features = torch.stack(columns, dim=1)
    # Their means:
    features[:, 1:] -= features[:, 1:, : windows.origins] @ weight.unsqueeze(-1) / total.unsqueeze(-1)
    target = torch.log(size / usual + LEAST_SHARE) * known
    logarithm, left_out = fit(features, target, weight, PENALTY * windows.overlap(horizon))
    # A miss must not be measured by a size that was learnt from it.
    honest = torch.where(known, target - left_out, logarithm[:, : windows.origins])
    return Spread(torch.cat([honest, logarithm[:, windows.origins :]], dim=1), usual)


def _roughness(windows: Windows) -> list[Tensor]:
    steps = torch.zeros_like(windows.level)
    torch.sub(windows.level[:, 1:], windows.level[:, :-1], out=steps[:, 1:]).abs_()
    means = Means(windows, steps)
    usual = 0.2 * means.mean() + 1e-3
    columns = [torch.log(means.over(span) + usual) for span in SPANS if span * 2 <= windows.time]
    slope = (windows.mean(1) - windows.mean(16)).abs()
    return [*columns, torch.log(slope + usual), windows.mean(8)]


def _past_misses(size: Tensor, known: Tensor, usual: Tensor, lag: int, count: int, last: int) -> Tensor:
    """[series, point]: mean size of `count` origins' misses, `lag` to `lag` + `count` origins before each."""
    origins = size.shape[1]
    at = torch.arange(origins, device=size.device)
    high, low = (at - lag + 1).clamp(min=0), (at - lag + 1 - count).clamp(min=0)
    sums = pad(size.cumsum(dim=1), (1, 0)), pad(known.cumsum(dim=1), (1, 0))
    total, number = (running[:, high] - running[:, low] for running in sums)
    mean = torch.where(number > 0, total / number.clamp(min=1), usual)
    column = torch.log(mean + 0.3 * usual)
    return torch.cat([column, column[:, -1:].expand(-1, last)], dim=1)
