"""By how much each model says that the highest load of the horizon will exceed the load now. Pure; torch.

- persistence: not at all;
- trend: the slope of the last steps goes on, as far as it stands out from the series' own noise;
- seasonal: as it did yesterday at this time;
- ridge: a regression on the recent shape, on the same window of the days and the week before, and on the time of day;
- Holt-Winters and a straight line through ten samples: only where they are asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ml_lifecycle.scaling.features import base_level, clock_features, season_features, shape_features, trend
from ml_lifecycle.scaling.quantiles import median_size
from ml_lifecycle.scaling.ridge import fit
from ml_lifecycle.scaling.textbook import holt_winters, straight_line
from ml_lifecycle.scaling.windows import Windows

MODELS = ("persistence", "trend", "seasonal", "ridge", "holtWinters", "straightLine")
PERSISTENCE, TREND, SEASONAL, RIDGE, HOLT_WINTERS, STRAIGHT_LINE = range(6)
USUAL = 4  # of them are tried; the others only where they are asked for

LONGEST_GROWTH = math.log(3.0)  # no forecast says more than threefold
HALF_LIFE_DAYS = 3.0  # at most; of a shorter history a half
PENALTY = 3.0  # of the ridge, in samples
SPIKE = 4.0  # median sizes beyond which a growth is cut off before the ridge sees it


@dataclass(frozen=True)
class Predictions:
    """What the models say at each point, and by how much it was missed at the origins."""

    base: Tensor  # [series, point]: the level now
    growth: Tensor  # [model, series, point]: how far they say that it will rise
    residual: Tensor  # [model, series, origin]: how much further it rose; of an unfinished horizon, so far
    passed: Tensor  # [series, origin]: the horizon is finished
    weight: Tensor  # [series, origin]: how much is learnt from an origin, nothing from an unfinished one
    judged: Tensor  # [series, origin]: how much models are judged by it, also while its horizon lasts


def predictions(windows: Windows, horizon: int, day: int, asked: str) -> Predictions:
    """Of the usual models and of the one that is `asked` for; `horizon` and `day` in steps."""
    origins = windows.origins
    base = base_level(windows)
    highest, passed = windows.highest_ahead(horizon)
    begun = highest.isfinite()
    rise = torch.where(begun, highest - base[:, :origins], 0.0)
    samples = (windows.time - windows.first).float()
    decay = windows.weight((samples / 2).clamp(max=HALF_LIFE_DAYS * day))
    weight = torch.where(passed, decay, 0.0)

    none = torch.zeros_like(base)
    slope = trend(windows, horizon, LONGEST_GROWTH)
    seasons, yesterday = season_features(windows, horizon, day)
    features = [torch.ones_like(base), slope, *shape_features(windows), *seasons, *clock_features(windows, day)]
    cut = SPIKE * 1.4826 * median_size(rise, weight) + 1e-3
    tame = torch.maximum(torch.minimum(rise, cut), -cut)
    fitted, left_out = fit(torch.stack(features, dim=1), tame, weight, PENALTY * windows.overlap(horizon))

    growth = [none, slope, yesterday, fitted]
    if asked in MODELS[USUAL:]:  # the places of both, so that MODELS names them
        growth += [
            holt_winters(windows, horizon, day) if asked == MODELS[HOLT_WINTERS] else none,
            straight_line(windows, horizon, LONGEST_GROWTH) if asked == MODELS[STRAIGHT_LINE] else none,
        ]
    said = torch.stack(growth)
    residual = rise - said[..., :origins]
    # A finished origin must not be judged by a ridge that has learnt from it.
    residual[RIDGE] = torch.where(passed, left_out + rise - tame, residual[RIDGE])
    return Predictions(base, said, residual, passed, weight, judged=torch.where(begun, decay, 0.0))
