"""How much an image of each class weighs in the loss, where some classes have far fewer images than others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from spark_jobs import storage
from spark_jobs.epochs import Piece
from spark_jobs.prepared import Shard


def balanced(counts: NDArray[np.int64]) -> NDArray[np.float32]:
    """Weights by which all classes with images count the same, and the mean over all images is 1.

    Source: King & Zeng, "Logistic Regression in Rare Events Data" (2001), §4.1.
    """
    present = counts > 0
    weights = np.zeros(len(counts), dtype=np.float32)
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights


def count_labels(shards: Sequence[Shard], pieces: Sequence[Piece], classes: int) -> NDArray[np.int64]:
    """How many rows of the pieces each class has; reads no column but that of the labels."""
    counts = np.zeros(classes, dtype=np.int64)
    for piece in pieces:
        with storage.open_file(shards[piece.shard].uri) as file:
            labels = pq.read_table(file, columns=["label"], use_threads=False)["label"].to_numpy()
        counts += np.bincount(labels[piece.start : piece.stop], minlength=classes)
    return counts
