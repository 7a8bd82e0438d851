"""Challenger and champion before the same held-out images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from spark_jobs.contestant import Contestant
from spark_jobs.exceptions import DatasetError, ExportError
from spark_jobs.onnx_model import torch_answers
from spark_jobs.prepared import PreparedDataset, read_shard
from spark_jobs.samples import Samples
from spark_jobs.scores import Answers


@dataclass(frozen=True)
class Comparison:
    """What both models answered; `onnx_difference` is the largest between the challenger in ONNX and in torch."""

    challenger: Answers
    champion: Answers | None
    onnx_difference: float
    samples: Samples


def compare(
    dataset: PreparedDataset,
    batch_size: int,
    classifier: nn.Module,
    challenger: Contestant,
    champion: Contestant | None,
) -> Comparison:
    """Pass the hold-out by all of them once; ExportError where the challenger answers with NaN."""
    given: list[Answers] = []
    beside: list[Answers] = []
    difference = 0.0
    samples = Samples()
    for pixels, labels in _batches(dataset, batch_size):
        images = challenger.see(pixels)
        probabilities = challenger.classifier(images)
        if not np.isfinite(probabilities).all():
            raise ExportError("the ONNX model answers with NaN: the training has diverged; lower the learning rate")
        # numpy's maximum, unlike Python's, lets no NaN disappear.
        difference = float(np.maximum(difference, np.abs(probabilities - torch_answers(classifier, images)).max()))
        given.append(challenger.answers(probabilities, labels, dataset.classes))
        samples.add(pixels, given[-1])
        if champion is not None:
            answer = champion.classifier(champion.see(pixels))
            beside.append(champion.answers(answer, labels, dataset.classes))
    if not given:
        raise DatasetError(f"{dataset.uri} holds out no image: raise `holdout`, or add images")
    return Comparison(Answers.joined(given), Answers.joined(beside) if beside else None, difference, samples)


def _batches(dataset: PreparedDataset, batch_size: int) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """The hold-out, of which one shard at a time is in memory."""
    for shard in dataset.holdout:
        pixels, labels = read_shard(shard.uri, dataset.preprocessing)
        for start in range(0, len(labels), batch_size):
            yield pixels[start : start + batch_size], labels[start : start + batch_size]
