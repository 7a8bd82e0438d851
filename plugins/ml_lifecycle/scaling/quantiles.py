"""Quantiles of weighted residuals, for a batch of series at once. Pure; torch.

Above `TAIL_STARTS` the residuals' excess is taken as generalised Pareto (peaks over threshold, Pickands 1975), fitted
by its first two moments (Hosking and Wallis 1987): a quantile of 0.995 is then an estimate from the highest sixth of
the residuals and not from the two or three highest.
"""

from __future__ import annotations

import torch
from torch import Tensor

TAIL_STARTS = 0.85
BISECTIONS = 12  # to a four thousandth of the range
LIGHTEST, HEAVIEST = 1e-3, 0.3  # shapes of the tail, exponential or nearly; and one that has a third moment
ENOUGH = 100  # residuals; below it: the normal quantile of their median size


def upper_quantiles(residuals: Tensor, weight: Tensor, quantiles: Tensor) -> Tensor:
    """[series, quantile] of `residuals` [series, origin]; `quantiles` [series, quantile]; 0 where no weight is."""
    known = weight > 0
    total = weight.sum(dim=1, keepdim=True).clamp(min=1e-9)
    start = _start(residuals, weight, (1 - TAIL_STARTS) * total)
    excess = (residuals - start).clamp(min=0) * known
    share = (weight * (excess > 0)).sum(dim=1, keepdim=True)
    mean = (weight * excess).sum(dim=1, keepdim=True) / share.clamp(min=1e-9)
    found = start + _pareto(mean, _variance(excess, mean, weight, share), (share / total) / (1 - quantiles))
    if bool((quantiles <= TAIL_STARTS).any()):
        found = torch.where(quantiles > TAIL_STARTS, found, _empirical(residuals, weight, quantiles))
    enough = known.sum(dim=1, keepdim=True) >= ENOUGH
    if bool(enough.all()):
        return found
    middle = torch.where(known, residuals, torch.nan).nanmedian(dim=1, keepdim=True).values.nan_to_num(0.0)
    spread = 1.4826 * median_size(residuals - middle, weight)
    return torch.where(enough, found, middle + spread * torch.special.ndtri(quantiles))


def _start(residuals: Tensor, weight: Tensor, above: Tensor) -> Tensor:
    """[series, 1]: the residual beyond which `above` of the weight lies; by bisection, much faster than sorting."""
    low = torch.where(weight > 0, residuals, torch.inf).amin(dim=1, keepdim=True).nan_to_num(posinf=0.0)
    high = torch.where(weight > 0, residuals, -torch.inf).amax(dim=1, keepdim=True).nan_to_num(neginf=0.0)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        beyond = (weight * (residuals > middle)).sum(dim=1, keepdim=True) > above
        low, high = torch.where(beyond, middle, low), torch.where(beyond, high, middle)
    return high


def _empirical(residuals: Tensor, weight: Tensor, quantiles: Tensor) -> Tensor:
    """[series, quantile]: the residual at or above which so much of the weight lies; 0 where no weight is."""
    values, order = torch.where(weight > 0, residuals, -torch.inf).sort(dim=1, descending=True)
    weight = weight.gather(1, order)
    above = weight.cumsum(dim=1) / weight.sum(dim=1, keepdim=True).clamp(min=1e-9)
    place = torch.searchsorted(above, (1 - quantiles).contiguous()).clamp(max=values.shape[1] - 1)
    return values.gather(1, place).nan_to_num(nan=0.0, neginf=0.0, posinf=0.0)


def _variance(excess: Tensor, mean: Tensor, weight: Tensor, share: Tensor) -> Tensor:
    beyond = weight * (excess > 0)
    return (beyond * (excess - mean) ** 2).sum(dim=1, keepdim=True) / share.clamp(min=1e-9)


def _pareto(mean: Tensor, variance: Tensor, ratio: Tensor) -> Tensor:
    """The excess that is surpassed 1 / `ratio` times as often as 0; `mean` and `variance` are the excess's."""
    shape = (0.5 * (1 - mean**2 / variance.clamp(min=1e-12))).clamp(LIGHTEST, HEAVIEST)
    return mean * (1 - shape) / shape * (ratio.clamp(min=1.0) ** shape - 1)


def median_size(residuals: Tensor, weight: Tensor) -> Tensor:
    """[series, 1]: the median absolute residual where there is weight; 0 where there is none."""
    size = torch.where(weight > 0, residuals.abs(), torch.nan)
    return size.nanmedian(dim=1, keepdim=True).values.nan_to_num(0.0)


def pinball(residuals: Tensor, margin: Tensor, quantile: Tensor, finished: Tensor) -> Tensor:
    """The pinball loss (Koenker and Bassett 1978) of `margin`.

    A forecast whose horizon has not passed can already be proven too low, so that a beginning rise counts at once.
    """
    error = residuals - margin
    too_low = quantile * error.clamp(min=0)
    return torch.where(finished, too_low + (1 - quantile) * (-error).clamp(min=0), too_low)
