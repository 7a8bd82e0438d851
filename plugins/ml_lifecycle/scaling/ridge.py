"""Weighted ridge regression, one for each series of a batch, in closed form. Pure; torch."""

from __future__ import annotations

import torch
from torch import Tensor

HIGHEST_LEVERAGE = 0.7


def fit(features: Tensor, target: Tensor, weight: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Predictions at all points, and leave-one-out residuals at those with a target.

    `features` [series, feature, point], the first a constant; `target` and `weight` [series, origin] belong to the
    first points. The penalty, in samples, pulls every coefficient but the constant towards 0. Residuals: Hastie et
    al., The Elements of Statistical Learning, 7.10.
    """
    origins = target.shape[1]
    total = weight.sum(dim=1, keepdim=True).clamp(min=1e-6)
    known = features[..., :origins]
    weighted = known * weight.unsqueeze(1)
    gram = weighted @ known.transpose(1, 2)
    # Each feature in units of its own size, so that one penalty fits all.
    size = (torch.diagonal(gram, dim1=1, dim2=2) / total).sqrt().clamp(min=1e-4)  # [series, feature]
    scaled = (gram / (size.unsqueeze(1) * size.unsqueeze(2))).double()
    pull = torch.full((gram.shape[-1],), penalty, dtype=scaled.dtype, device=gram.device)
    pull[0] = 0.1
    inverse = torch.linalg.inv(scaled + torch.diag(pull)).float() / (size.unsqueeze(1) * size.unsqueeze(2))
    coefficients = inverse @ (weighted @ target.unsqueeze(-1))
    predicted = (coefficients.transpose(1, 2) @ features).squeeze(1)
    leverage = ((inverse @ known) * weighted).sum(dim=1).clamp(max=HIGHEST_LEVERAGE)
    return predicted, (target - predicted[:, :origins]) / (1 - leverage)
