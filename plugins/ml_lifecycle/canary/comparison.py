"""One metric of the canary beside the stable side's: which of the three outcomes the counts allow after each look.

Vectorised: the looks are on the last axis, any number of rollouts on the axes before it. The verdict reads the last
look of one rollout; the benchmark simulates thousands with the very same function.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml_lifecycle.canary.dispersion import Array, Looks, dispersion_bound
from ml_lifecycle.canary.sequential import above_floor_evidence, floor_evidence, harm_evidence, margin_evidence

Flags = NDArray[np.bool_]

# Looks of the stable side alone to begin with: they tell its level, how much it varies, and how long its bursts last.
HISTORY_LOOKS = 240


@dataclass(frozen=True)
class Harm:
    """What counts as harm, and the risks: of a false roll-back (`alpha`), of promoting harm (`beta`).

    Harm is a canary rate of at least `margin` times the stable side's and of at least `floor`.
    """

    margin: float
    floor: float
    alpha: float
    beta: float


@dataclass(frozen=True)
class Comparison:
    """After each look: logarithms of e-values over those they must reach, and what they allow."""

    harm: Array
    ratio: Array
    floor: Array
    roll_back: Flags
    promote: Flags


def compare(looks: Looks, harm: Harm, *, only_last: bool = False) -> Comparison:
    """The comparison after each look, given requests and errors of each look on both sides.

    With `only_last` the last look alone is as said: the others are taken to vary as it does, which is much faster.
    Rolling back asks for both, a rate above the stable side's and above the floor, each at α: the smaller evidence is
    evidence against "one of them is not so". Clearing asks for either, so β is split over them where there is a floor.
    """
    bound = dispersion_bound(looks)
    bound = bound.everywhere_as_last() if only_last else bound
    enough = math.log((2 if harm.floor > 0 else 1) / harm.beta)
    above = above_floor_evidence(looks, bound, floor=harm.floor)
    more = np.minimum(harm_evidence(looks, bound), above) / math.log(1 / harm.alpha)
    less = margin_evidence(looks, bound, margin=harm.margin) / enough
    below = floor_evidence(looks.canary_n, looks.canary_e, floor=harm.floor) / enough
    roll_back = (more >= 1) & (below < 1)
    return Comparison(more, less, below, roll_back, ((below >= 1) | (less >= 1)) & ~roll_back)


def without_noise(canary_n: Array, stable_n: Array, error_rate: float) -> Looks:
    """The looks of a rollout in which both sides err exactly as expected, after the stable side's history."""
    past = np.full(HISTORY_LOOKS, canary_n[0] + stable_n[0])
    counts = (np.concatenate([np.zeros(HISTORY_LOOKS), canary_n]), np.concatenate([past, stable_n]))
    return Looks(counts[0], error_rate * counts[0], counts[1], error_rate * counts[1])
