"""The few held-out images that are kept while the rest streams past: for pictures, and for the golden cases."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from spark_jobs.scores import Answers

MISTAKES = 16
GOLDEN_CASES = 8


@dataclass(frozen=True)
class Mistake:
    """An image `uint8 [size, size, channels]`, its class, and the class that was taken for it, as indices."""

    pixels: NDArray[np.uint8]
    label: int
    predicted: int
    confidence: float


@dataclass
class Samples:
    """`mistakes`: those that the model was surest of, surest first. `varied`: images and labels of many classes."""

    mistakes: list[Mistake] = field(default_factory=list)
    varied: list[tuple[NDArray[np.uint8], int]] = field(default_factory=list)

    def add(self, pixels: NDArray[np.uint8], given: Answers) -> None:
        """Keep what matters of a batch `[n, size, size, channels]` and its answers."""
        wrong = np.flatnonzero(~given.right)
        for index in wrong[np.argsort(-given.confidence[wrong], kind="stable")][:MISTAKES]:
            label, predicted = int(given.labels[index]), int(given.predicted[index])
            self.mistakes.append(Mistake(pixels[index].copy(), label, predicted, float(given.confidence[index])))
        self.mistakes = sorted(self.mistakes, key=lambda mistake: -mistake.confidence)[:MISTAKES]
        labels = [label for _, label in self.varied] + given.labels.tolist()
        kept = len(self.varied)
        self.varied = [
            self.varied[index] if index < kept else (pixels[index - kept].copy(), labels[index])
            for index in first_of_each(labels)[:GOLDEN_CASES]
        ]


def first_of_each(labels: list[int]) -> list[int]:
    """Indices, the first of every class before any second."""
    seen: dict[int, int] = {}
    turns = []
    for index, label in enumerate(labels):
        seen[label] = seen.get(label, 0) + 1
        turns.append((seen[label], index))
    return [index for _, index in sorted(turns)]
