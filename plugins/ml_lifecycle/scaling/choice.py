"""Which models speak, by the loss of the recent past. Pure; torch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ml_lifecycle.scaling.models import MODELS, PERSISTENCE, TREND

AUTO = "auto"
SKILL = 0.02  # share of persistence's loss that a model must save
BENEFIT_OF_DOUBT = 0.05  # of its loss, to the trend while the load rises beyond its noise
SHARPNESS = 30.0  # of the choice between models, by their relative loss


@dataclass(frozen=True)
class Choice:
    """For each series and quantile."""

    best: Tensor  # [series, k]: place in MODELS; persistence where nothing beats it
    share: Tensor  # [model, series, k]: how much each model has to say; they add up to 1
    skill: Tensor  # [series, k]: share of persistence's loss that the best saves


def choose(loss: Tensor, rising: Tensor, enough: Tensor, asked: str) -> Choice:
    """`loss` [model, series, k]; `rising` [series, k]: the load rises beyond its noise; `enough` [series, 1]: past.

    With a model `asked` for, only that one is tried beside persistence.
    """
    loss = loss.clone()
    if asked != AUTO:
        loss[[place for place in range(len(loss)) if place not in {PERSISTENCE, MODELS.index(asked)}]] = torch.inf
    # A rise that has just begun has no past to be proven on, and waiting for the proof would be too late.
    loss[TREND] = torch.where(rising, (1 - BENEFIT_OF_DOUBT) * loss[TREND], loss[TREND])
    best = loss.argmin(dim=0)  # the simpler model wins a tie
    lowest = loss.gather(0, best.unsqueeze(0)).squeeze(0)
    skill = torch.where(loss[PERSISTENCE] > 1e-6, 1 - lowest / loss[PERSISTENCE], 0.0)
    best = torch.where(enough & (skill >= SKILL), best, PERSISTENCE)
    # Models that do about as well speak together, so that a tie that turns moves no replicas.
    share = torch.exp(-SHARPNESS * (loss / lowest.clamp(min=1e-9) - 1))
    alone = torch.zeros_like(share).scatter(0, best.unsqueeze(0), 1.0)
    single = (best == PERSISTENCE) | (rising & (best == TREND))
    return Choice(best, torch.where(single, alone, share / share.sum(dim=0)), skill)
