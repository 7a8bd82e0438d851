"""Batches from Parquet shards: split by process and loader worker, shuffled by seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from serving.preprocessing import Preprocessing
from spark_jobs import epochs
from spark_jobs.prepared import Shard, read_shard


@dataclass(frozen=True)
class Part:
    """Which process this is, of how many."""

    rank: int = 0
    processes: int = 1


class ShardBatches(IterableDataset[tuple[Tensor, Tensor]]):
    """Iterates over batches: images `float32 [n, channels, size, size]`, normalised, and labels `int64 [n]`.

    With a seed the order is that of the epoch (see `set_epoch`) and every process takes the same number of steps, at
    the cost of a few rows; without one the order is the shards' own, and no row is left out.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        preprocessing: Preprocessing,
        *,
        batch_size: int,
        limit: int | None = None,
        part: Part | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self._shards = list(shards)
        self._preprocessing = preprocessing
        self._batch_size = batch_size
        self._part = part or Part()
        self._seed = seed
        self._epoch = 0
        total = sum(shard.rows for shard in shards)
        self._pieces = epochs.head([shard.rows for shard in shards], total if limit is None else limit)

    @property
    def rows(self) -> int:
        """Rows that this process sees in an epoch."""
        return sum(piece.rows for piece in self._share())

    @property
    def steps(self) -> int:
        """Batches that this process sees in an epoch, when loaded without workers."""
        return epochs.steps_of(self.rows, self._batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the coming iteration."""
        self._epoch = epoch

    def _share(self) -> list[epochs.Piece]:
        if self._seed is None:
            return epochs.share(self._pieces, self._part.rank, self._part.processes)
        pieces = epochs.shuffled(self._pieces, self._seed, self._epoch)
        return epochs.stretch(pieces, self._part.rank, self._part.processes)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        mine = self._share()
        rows = sum(piece.rows for piece in mine)
        worker = get_worker_info()
        sizes = list(epochs.batch_sizes(rows, self._batch_size))
        if worker is not None:
            # Whole batches, so that workers change neither the number of steps nor what is in them.
            bounds = np.cumsum([0, *sizes])
            first = worker.id * len(sizes) // worker.num_workers
            last = (worker.id + 1) * len(sizes) // worker.num_workers
            mine = epochs.cut(mine, int(bounds[first]), int(bounds[last]))
            sizes = sizes[first:last]
        return self._batches(mine, sizes)

    def _batches(self, pieces: Sequence[epochs.Piece], sizes: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        parts = (self._read(piece) for piece in pieces)
        pixels, labels = next(parts, (None, None))
        for size in sizes:
            while pixels is not None and labels is not None and len(labels) < size:
                more_pixels, more_labels = next(parts)
                pixels, labels = np.concatenate([pixels, more_pixels]), np.concatenate([labels, more_labels])
            if pixels is None or labels is None:
                return
            images = torch.from_numpy(self._preprocessing.normalise(pixels[:size]))
            yield images, torch.from_numpy(labels[:size].copy())
            pixels, labels = pixels[size:], labels[size:]

    def _read(self, piece: epochs.Piece) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        shard = self._shards[piece.shard]
        pixels, labels = read_shard(shard.uri, self._preprocessing, piece.start, piece.stop)
        if self._seed is None:
            return pixels, labels
        order = epochs.row_order(piece, self._seed, self._epoch)
        return pixels[order], labels[order]


def loader(batches: ShardBatches, *, gpu: bool = False) -> DataLoader[tuple[Tensor, Tensor]]:
    """A loader over `batches`: beside a GPU two workers prepare them, on CPU the cores belong to the network."""
    return DataLoader(batches, batch_size=None, num_workers=2 if gpu else 0, pin_memory=gpu)
