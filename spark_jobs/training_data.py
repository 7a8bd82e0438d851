"""The three parts of the prepared dataset that a training uses: to learn from, to decide when to stop, to report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from spark_jobs.augmentation import Augmentation
from spark_jobs.class_weights import balanced, count_labels
from spark_jobs.epochs import divide
from spark_jobs.exceptions import TrainingError
from spark_jobs.job import say
from spark_jobs.loading import Batch, Part, ShardBatches, loader
from spark_jobs.prepared import Shard, read_dataset
from spark_jobs.specification import TrainSpecification

MIN_ROWS = 2
EXAMPLES = 5


class TrainingData:
    """Batches of this process's part; raises TrainingError if there are too few images to learn from."""

    def __init__(self, specification: TrainSpecification, part: Part) -> None:
        self._specification = specification
        self._part = part
        self.dataset = read_dataset(
            specification.prepared_uri, image_size=specification.image_size, channels=specification.channels
        )
        rows = [shard.rows for shard in self.dataset.train]
        self._division = divide(rows, fraction=specification.fraction, validation=specification.validation)
        self.images = sum(piece.rows for piece in self._division.training)
        augmented = specification.flip or specification.shift
        self.training = self._batches(
            self.dataset.train,
            pieces=self._division.training,
            seed=specification.seed,
            augmentation=Augmentation(specification.flip, specification.shift) if augmented else None,
        )
        self.validation = self._batches(self.dataset.train, pieces=self._division.validation)
        self.holdout = self._batches(self.dataset.holdout)
        # Of an epoch of this process. They follow from the rows alone, and the training asks for them often.
        self.rows, self.batches = self.training.rows, self.training.steps
        self._say_what_is_missing()
        if self.rows < MIN_ROWS:
            raise TrainingError(
                f"{self.images} training images are too few for {part.processes} processes: raise training.fraction or "
                "lower training.processes"
            )

    def load(self, batches: ShardBatches) -> Iterator[Batch]:
        """Iterate over `batches`, prepared ahead as the settings say."""
        return loader(batches, gpu=self._specification.gpu, workers=self._specification.loader_workers)

    def class_weights(self) -> Tensor | None:
        """What an image of each class weighs in the loss; None where all weigh the same."""
        if self._specification.class_weights == "none":
            return None
        counts = count_labels(self.dataset.train, self._division.training, len(self.dataset.classes))
        return torch.from_numpy(balanced(counts))

    def _say_what_is_missing(self) -> None:
        """Warn of classes that the model will not see, because it learns from a part of the training split."""
        specification = self._specification
        if self._part.rank or (specification.fraction == 1 and not specification.validation):
            return  # ingest has seen to it that each class is in the whole
        counts = count_labels(self.dataset.train, self._division.training, len(self.dataset.classes))
        if missing := [name for name, count in zip(self.dataset.classes, counts, strict=True) if not count]:
            more = f" and {len(missing) - EXAMPLES} more" if len(missing) > EXAMPLES else ""
            say(
                f"warning: no image to learn from is left of class {', '.join(map(repr, missing[:EXAMPLES]))}{more}: "
                f"training.fraction = {specification.fraction}, training.validation = {specification.validation}; the "
                "model cannot answer it"
            )

    def _batches(self, shards: Sequence[Shard], **options: Any) -> ShardBatches:
        size = self._specification.batch_size
        return ShardBatches(shards, self.dataset.preprocessing, batch_size=size, part=self._part, **options)
