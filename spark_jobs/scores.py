"""How good the probabilities of a model are on labelled images. Pure, on numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SMALLEST = 1e-7


@dataclass(frozen=True)
class Scores:
    """Accuracy, mean negative log-likelihood, and accuracy within each class that the hold-out has."""

    accuracy: float
    loss: float
    per_class: dict[str, float]


def score(probabilities: NDArray[np.float32], labels: NDArray[np.int64], classes: Sequence[str]) -> Scores:
    """Scores of `probabilities [n, k]` against `labels [n]`, indices into `classes`, n above 0."""
    predicted = probabilities.argmax(axis=1)
    right = predicted == labels
    of_label = probabilities[np.arange(len(labels)), labels]
    per_class = {
        name: float(right[labels == index].mean()) for index, name in enumerate(classes) if (labels == index).any()
    }
    loss = float(-np.log(np.maximum(of_label, SMALLEST)).mean())
    return Scores(float(right.mean()), loss, per_class)


def confusion(probabilities: NDArray[np.float32], labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """`[true class, predicted class]` counts."""
    matrix = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(matrix, (labels, probabilities.argmax(axis=1)), 1)
    return matrix


def in_classes(probabilities: NDArray[np.float32], have: Sequence[str], want: Sequence[str]) -> NDArray[np.float32]:
    """Probabilities of the classes `have` as columns of the classes `want`; a class that a model lacks gets 0.

    What a model gives to classes outside `want` stays with it: it is a mistake, and not shared out.
    """
    columns = np.zeros((len(probabilities), len(want)), dtype=np.float32)
    for index, name in enumerate(want):
        if name in have:
            columns[:, index] = probabilities[:, list(have).index(name)]
    return columns
