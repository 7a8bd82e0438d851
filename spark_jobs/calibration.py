"""Does a model that says 90 % get 90 % right? Pure, on numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spark_jobs.scores import Answers

BINS = 15


@dataclass(frozen=True)
class Calibration:
    """Answers in bins of equal width of the confidence, each of shape `[bins]`; empty bins hold zeros."""

    images: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]

    @property
    def error(self) -> float:
        """Expected calibration error: the mean distance of confidence and accuracy (Guo et al., ICML 2017)."""
        return float((self.images * np.abs(self.confidence - self.accuracy)).sum() / self.images.sum())


def calibration(given: Answers, bins: int = BINS) -> Calibration:
    """The calibration of one or more answers; a confidence of exactly 1 falls into the last bin."""
    place = np.minimum((given.confidence * bins).astype(np.int64), bins - 1)
    images = np.bincount(place, minlength=bins)
    filled = np.maximum(images, 1)
    confidence = np.bincount(place, weights=given.confidence, minlength=bins) / filled
    accuracy = np.bincount(place, weights=given.right, minlength=bins) / filled
    return Calibration(images, confidence, accuracy)
