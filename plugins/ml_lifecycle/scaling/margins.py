"""What is added to a forecast so that it is surpassed as seldom as is asked, and the loss that is left. Pure; torch."""

from __future__ import annotations

import torch
from torch import Tensor

from ml_lifecycle.scaling.quantiles import pinball, upper_quantiles
from ml_lifecycle.scaling.spread import Spread

# How far a margin follows the size that is expected of the miss: by a power of it, or not at all. Which is better
# depends on the series and on the quantile: on how well its misses can be foreseen.
FOLLOWED = (0.6, 0.0)
WORTH = 0.05  # of the loss, that another choice must save


def margins(
    residual: Tensor,
    spread: Spread,
    quantiles: Tensor,
    *,
    weight: Tensor,
    judged: Tensor,
    passed: Tensor,
    least: Tensor,
) -> tuple[Tensor, Tensor]:
    """[model, series, k, last] to be added at the last points, and the mean pinball loss [model, series, k].

    `residual` [model, series, origin]; `quantiles` [series, k]; `weight` [series, origin] of what is learnt from,
    `judged` of what is judged by; `least` [series, k] is added at least.
    """
    models, _, origins = residual.shape
    # All models in one batch: fewer and larger operations.
    weights, levels = weight.repeat(models, 1), quantiles.repeat(models, 1)

    def tried(share: float) -> tuple[Tensor, Tensor]:
        size = spread.size(share)
        past, last = size[:, :origins], size[:, None, origins:]
        margin = upper_quantiles((residual / past).flatten(0, 1), weights, levels).reshape(models, *quantiles.shape)
        margin = torch.maximum(margin, least / size[:, -1:])
        return margin.unsqueeze(-1) * last, _losses(residual, margin, past, quantiles, passed, judged)

    added, loss = tried(FOLLOWED[0])
    for share in FOLLOWED[1:]:
        other, lost = tried(share)
        better = lost < (1 - WORTH) * loss
        added = torch.where(better.unsqueeze(-1), other, added)
        loss = torch.where(better, lost, loss)
    return added, loss


def _losses(
    residual: Tensor, margin: Tensor, size: Tensor, quantiles: Tensor, passed: Tensor, weight: Tensor
) -> Tensor:
    """[model, series, k]: mean pinball loss, recent origins counting more."""
    total = weight.sum(dim=1, keepdim=True).clamp(min=1e-9)
    columns = [
        (weight * pinball(residual, margin[..., place, None] * size, quantiles[:, place, None], passed)).sum(dim=-1)
        for place in range(quantiles.shape[1])
    ]
    return torch.stack(columns, dim=-1) / total
