"""The quantiles of the highest load of the coming horizon, for a batch of series of one length. Pure; torch.

Works in log-load relative to what one replica carries, so that one setting fits every service. What each model has
missed by, in units of how much is missed at such times (`spread`), gives the margin for each quantile; the pinball loss
of the result over the recent past chooses between models.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ml_lifecycle.scaling.choice import AUTO, choose
from ml_lifecycle.scaling.features import noise_margin
from ml_lifecycle.scaling.margins import margins
from ml_lifecycle.scaling.models import LONGEST_GROWTH, PERSISTENCE, RIDGE, TREND, predictions
from ml_lifecycle.scaling.quantiles import ENOUGH
from ml_lifecycle.scaling.spread import spread
from ml_lifecycle.scaling.windows import OFFSET, Windows, stride_of

DAY_SECONDS = 86_400
FEWEST_ORIGINS = 6  # finished forecasts without which nothing is trusted
# Forecasts that overlap tell little more than one: these count in horizons.
HORIZONS_FOR_ANY = 2
HORIZONS_FOR_RIDGE = 10


@dataclass(frozen=True)
class Peaks:
    """The answers for a batch, as tensors; loads in their own unit."""

    expected: Tensor  # [series, quantile]: the chosen model's median
    peak: Tensor  # [series, quantile]; NaN where nothing is known of now
    recent_peak: Tensor  # [series, quantile]
    model: Tensor  # [series, quantile]: place in MODELS
    skill: Tensor  # [series, quantile]
    rising: Tensor  # [series, quantile]: the load rises beyond its noise
    origins: Tensor  # [series]: finished forecasts
    blind: Tensor  # [series]: there is no sample now, and yesterday's course stands for it


def peaks(
    loads: Tensor,
    *,
    scale: Tensor,
    quantiles: Tensor,
    lookback: Tensor,
    horizon: int,
    step_seconds: float,
    tick: int = 0,
    model: str = AUTO,
) -> Peaks:
    """The batch's answers: `loads` [series, time] with NaN in gaps, `scale` [series, 1], `quantiles` [series, k].

    `tick` numbers the steps, so that successive passes look from the same origins. With a `model` of its own, only that
    one is tried beside persistence.
    """
    day = round(DAY_SECONDS / step_seconds)
    stride = stride_of(loads.shape[1])
    windows = Windows.of(loads, scale, stride, tick % stride, int(lookback.max()), day)
    origins = windows.origins
    said = predictions(windows, horizon, day, model)
    finished = said.passed.sum(dim=1)
    young = (finished < ENOUGH)[:, None]
    added, loss = margins(
        said.residual,
        spread(windows, said.residual[RIDGE], said.weight, horizon=horizon, day=day),
        quantiles,
        weight=said.weight,
        judged=said.judged,
        passed=said.passed,
        least=torch.where(young, noise_margin(windows, horizon, quantiles), -torch.inf),
    )
    fitted = (finished * windows.stride >= HORIZONS_FOR_RIDGE * horizon)[:, None]
    loss[RIDGE] = torch.where(fitted, loss[RIDGE], torch.inf)
    rising = said.growth[TREND, :, -1:] > added[PERSISTENCE, ..., -1]
    chosen = choose(loss, rising, (finished >= origins_needed(horizon))[:, None], model)

    growth = torch.einsum("msk,msl->skl", chosen.share, said.growth[..., origins:])
    margin = (chosen.share.unsqueeze(-1) * added).sum(dim=0)
    near = (said.base[:, origins:] + windows.center).unsqueeze(1)
    # No more than threefold, unless the history has seen as much.
    highest = torch.maximum(said.base[:, origins:] + LONGEST_GROWTH, windows.seen.amax(dim=1, keepdim=True))
    peak = torch.minimum(near + growth + margin, (highest + windows.center).unsqueeze(1))
    recent = torch.arange(windows.last, device=loads.device) >= windows.last - lookback[:, None]
    silent = torch.where(windows.known, 0.0, torch.nan).unsqueeze(1)

    def load(level: Tensor) -> Tensor:
        return (level.exp() - OFFSET).clamp(min=0) * scale + silent

    return Peaks(
        expected=load((near + growth.clamp(max=LONGEST_GROWTH))[..., -1]),
        peak=load(peak[..., -1]),
        recent_peak=load(torch.where(recent.unsqueeze(1), peak, -torch.inf).amax(dim=-1)),
        model=chosen.best,
        skill=chosen.skill,
        rising=rising,
        origins=finished,
        blind=windows.known & ~windows.fresh,
    )


def origins_needed(horizon: int) -> int:
    """Finished forecasts without which no model is trusted."""
    return max(FEWEST_ORIGINS, HORIZONS_FOR_ANY * horizon)
