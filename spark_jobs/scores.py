"""How good a model's answers on labelled images are. Pure, on numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

SMALLEST = 1e-7
UNKNOWN = -1


@dataclass(frozen=True)
class Answers:
    """What is kept of a model's answers to n images, all of shape `[n]`.

    `labels` and `predicted` are indices of classes; a predicted class that the data set has not got is UNKNOWN.
    `confidence` is the probability of the predicted class, `of_label` that of the label.
    """

    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float32]
    of_label: NDArray[np.float32]

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The answers of all parts, which are one or more."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each answer is right."""
        return self.predicted == self.labels


def answers(
    probabilities: NDArray[np.float32], labels: NDArray[np.int64], known: Sequence[str], classes: Sequence[str]
) -> Answers:
    """Answers from `probabilities [n, k]` of a model that tells the k classes `known` apart.

    `labels [n]` are indices into `classes`. A label that the model does not know gets probability 0.
    """
    places = {name: index for index, name in enumerate(classes)}
    columns = {name: index for index, name in enumerate(known)}
    as_class = np.array([places.get(name, UNKNOWN) for name in known])
    column = np.array([columns.get(name, UNKNOWN) for name in classes])[labels]
    of_label = np.where(column == UNKNOWN, 0, probabilities[np.arange(len(labels)), column])
    best = probabilities.argmax(axis=1)
    return Answers(labels, as_class[best], probabilities[np.arange(len(labels)), best], of_label.astype(np.float32))


@dataclass(frozen=True)
class Scores:
    """Accuracy, mean negative log-likelihood, and accuracy within each class that the hold-out has."""

    accuracy: float
    loss: float
    per_class: dict[str, float]


def score(given: Answers, classes: Sequence[str]) -> Scores:
    """Scores of one or more answers."""
    per_class = {
        name: float(given.right[given.labels == index].mean())
        for index, name in enumerate(classes)
        if (given.labels == index).any()
    }
    loss = float(-np.log(np.maximum(given.of_label, SMALLEST)).mean())
    return Scores(float(given.right.mean()), loss, per_class)


def class_images(given: Answers, classes: Sequence[str]) -> dict[str, int]:
    """How many images each class has, those without any as well."""
    return dict(zip(classes, np.bincount(given.labels, minlength=len(classes)).tolist(), strict=True))


def confusion(given: Answers, classes: int) -> NDArray[np.int64]:
    """`[true class, predicted class]` counts, of a model that knows no other classes."""
    matrix = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(matrix, (given.labels, given.predicted), 1)
    return matrix


def pairs(challenger: Answers, champion: Answers) -> dict[str, int]:
    """How many of the same images both models, only one, or neither got right."""
    won, kept = challenger.right, champion.right
    return {
        "both_right": int((won & kept).sum()),
        "only_challenger_right": int((won & ~kept).sum()),
        "only_champion_right": int((~won & kept).sum()),
        "both_wrong": int((~won & ~kept).sum()),
    }
