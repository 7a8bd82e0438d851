"""One metric of the canary beside the stable side's: which of the three outcomes the counts allow after each look.

Vectorised: the looks are on the last axis, any number of rollouts on the axes before it. The verdict reads the last
look of one rollout; the benchmark simulates thousands with the very same function.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml_lifecycle.canary.sequential import Array, floor_evidence, ratio_evidence

Flags = NDArray[np.bool_]


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


def compare(canary_n: Array, canary_e: Array, stable_n: Array, stable_e: Array, harm: Harm) -> Comparison:
    """The comparison after each look, given requests (n) and errors (e) of each look on both sides."""
    counts = (canary_n, canary_e, stable_n, stable_e)
    enough = math.log(2 / harm.beta)
    more = ratio_evidence(*counts, ratio=1.0, direction=1) / math.log(1 / harm.alpha)
    less = ratio_evidence(*counts, ratio=harm.margin, direction=-1) / enough
    below = floor_evidence(canary_n, canary_e, floor=harm.floor) / enough
    canary_load, canary_bad, stable_load, stable_bad = (np.cumsum(each, axis=-1) for each in counts)
    worse = canary_bad * stable_load > stable_bad * canary_load
    better = canary_bad * stable_load < harm.margin * stable_bad * canary_load
    cleared = below >= 1
    roll_back = (more >= 1) & worse & ~cleared
    return Comparison(more, less, below, roll_back, (cleared | ((less >= 1) & better)) & ~roll_back)
