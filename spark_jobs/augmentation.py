"""Small changes to training images that do not change what they show. Pure, on numpy.

What happens to a row follows from seed, epoch and row alone, so that a resumed training and any number of loader
workers see the very same images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FLIP_SHARE = 0.5
# Keeps these draws apart from those of `epochs`, which come from the same seed.
STREAM = 1


@dataclass(frozen=True)
class Augmentation:
    """`flip`: mirror half of the images left to right; `shift`: move by up to this share of the side, 0 to 0.5."""

    flip: bool
    shift: float

    def chances(self, seed: int, epoch: int, shard: int, rows: int) -> NDArray[np.float64]:
        """What chance holds for the first `rows` rows of a shard: `[rows, 3]`, each 0 to 1."""
        return np.random.default_rng([seed, epoch, shard, STREAM]).random((rows, 3))

    def __call__(self, pixels: NDArray[np.uint8], chances: NDArray[np.float64]) -> NDArray[np.uint8]:
        """One image `[h, w, channels]`, mirrored and moved as its `chances [3]` say; edges are reflected."""
        height, width, _ = pixels.shape
        down, right = np.round((2 * chances[1:] - 1) * self.shift * (height, width)).astype(int)
        columns = _moved(width, right)
        if self.flip and chances[0] < FLIP_SHARE:
            columns = columns[::-1]
        return pixels[_moved(height, down)].take(columns, axis=1)


def _moved(side: int, by: int) -> NDArray[np.int64]:
    """Where each of `side` places takes its pixel from after a move, reflected at the edges."""
    places = np.abs(np.arange(side) - by)
    return np.where(places < side, places, 2 * (side - 1) - places)
