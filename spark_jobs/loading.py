"""Batches from Parquet shards: split by process and loader worker, shuffled by seed and epoch, resumable anywhere.

Workers are threads: reading, decoding and resizing leave Python's lock, a shard is read once however many workers
there are, and no memory is copied between processes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from serving.preprocessing import Preprocessing
from spark_jobs import epochs
from spark_jobs.augmentation import Augmentation
from spark_jobs.epochs import Piece
from spark_jobs.prepared import Rows, Shard, read_rows

GPU_WORKERS = 2
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Part:
    """Which process this is, of how many."""

    rank: int = 0
    processes: int = 1


class ShardBatches(IterableDataset[Batch]):
    """Iterates over batches: images `float32 [n, channels, size, size]`, normalised, and labels `int64 [n]`.

    With a seed the order is that of the epoch (see `set_epoch`) and every process takes the same number of steps, at
    the cost of a few rows; without one the order is the shards' own, and no row is left out. `pieces` choose the rows
    (see `epochs.divide`, which parts training from validation); without them it is all.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        preprocessing: Preprocessing,
        *,
        batch_size: int,
        pieces: Sequence[Piece] | None = None,
        part: Part | None = None,
        seed: int | None = None,
        augmentation: Augmentation | None = None,
    ) -> None:
        super().__init__()
        self._shards = list(shards)
        self._preprocessing = preprocessing
        self._batch_size = batch_size
        self._part = part or Part()
        self._seed = seed
        self._augmentation = augmentation
        self._epoch = 0
        self._first_batch = 0
        self._pieces = epochs.whole([shard.rows for shard in shards]) if pieces is None else list(pieces)

    @property
    def rows(self) -> int:
        """Rows that this process sees in a whole epoch."""
        return sum(piece.rows for piece in self._share())

    @property
    def steps(self) -> int:
        """Batches that this process sees in a whole epoch."""
        return epochs.steps_of(self.rows, self._batch_size)

    def set_epoch(self, epoch: int, *, first_batch: int = 0) -> None:
        """Choose the order of the coming iterations, and the batch at which they begin.

        The batches from `first_batch` on are bit for bit those of a whole epoch; what lies before is not decoded.
        """
        self._epoch = epoch
        self._first_batch = first_batch

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        if worker is None:
            return self.made_by(_AtOnce(), ahead=0)
        # A DataLoader asks its processes in turn, so that their number does not change the order.
        return self.made_by(_AtOnce(), ahead=0, worker=worker.id, workers=worker.num_workers)

    def made_by(
        self, executor: Executor, *, ahead: int, worker: int = 0, workers: int = 1, pin: bool = False
    ) -> Iterator[Batch]:
        """The batches, in order, of which `executor` makes up to `ahead` before they are asked for.

        Every `workers`-th batch from the `worker`-th on; in pinned memory if `pin`.
        """
        pieces = self._share()
        shards: dict[int, Future[_Shuffled]] = {}
        made: deque[Future[Batch]] = deque()
        plan = epochs.batches(pieces, self._batch_size, self._first_batch)
        for parts in islice(plan, worker, None, workers):
            first, last = parts[0][0], parts[-1][0]
            for place in range(first, min(last + 1 + bool(ahead), len(pieces))):
                if place not in shards:
                    shards[place] = executor.submit(self._read, pieces[place])
            shards = {place: shard for place, shard in shards.items() if place >= first}
            # A batch waits for shards that were submitted before it, so even a single worker gets through.
            made.append(executor.submit(self._make, [(shards[place], which) for place, which in parts], pin))
            if len(made) > ahead:
                yield made.popleft().result()
        while made:
            yield made.popleft().result()

    def _share(self) -> list[Piece]:
        if self._seed is None:
            return epochs.share(self._pieces, self._part.rank, self._part.processes)
        pieces = epochs.shuffled(self._pieces, self._seed, self._epoch)
        return epochs.stretch(pieces, self._part.rank, self._part.processes)

    def _read(self, piece: Piece) -> _Shuffled:
        rows = read_rows(self._shards[piece.shard].uri, piece.start, piece.stop)
        if self._seed is None:
            return _Shuffled(rows, np.arange(piece.rows), None)
        chances = None
        if self._augmentation is not None:
            chances = self._augmentation.chances(self._seed, self._epoch, piece.shard, piece.stop)[piece.start :]
        return _Shuffled(rows, epochs.row_order(piece, self._seed, self._epoch), chances)

    def _make(self, parts: Sequence[tuple[Future[_Shuffled], slice]], pin: bool) -> Batch:  # noqa: FBT001
        images, labels = [], []
        for future, which in parts:
            shard = future.result()
            for row in shard.order[which]:
                image = shard.rows.pixels(row, self._preprocessing)
                if self._augmentation is not None and shard.chances is not None:
                    image = self._augmentation(image, shard.chances[row])
                images.append(image)
                labels.append(shard.rows.labels[row])
        batch = torch.from_numpy(self._preprocessing.normalise(images)), torch.tensor(labels)
        return (batch[0].pin_memory(), batch[1].pin_memory()) if pin else batch


@dataclass(frozen=True)
class _Shuffled:
    """Rows of a piece, the order in which the epoch takes them, and what chance holds for each."""

    rows: Rows
    order: np.ndarray[tuple[int], np.dtype[np.int64]]
    chances: np.ndarray[tuple[int, int], np.dtype[np.float64]] | None


class _AtOnce(Executor):
    """Does what it is given when it is given it."""

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(work(*args, **kwargs))
        return future


def loader(batches: ShardBatches, *, gpu: bool = False, workers: int | None = None) -> Iterator[Batch]:
    """Iterate over `batches`, made ahead by `workers` threads; None: two beside a GPU, and none on CPU.

    On CPU the cores belong to the network. Beside a GPU the batches lie in pinned memory.
    """
    if workers is None:
        workers = GPU_WORKERS if gpu else 0
    if not workers:
        yield from batches
        return
    # Pinned memory belongs to a device, and a new thread begins with the first.
    device = (torch.cuda.set_device, (torch.cuda.current_device(),)) if gpu else (None, ())
    executor = ThreadPoolExecutor(workers, "loader", *device)
    try:
        yield from batches.made_by(executor, ahead=2 * workers, pin=gpu)
    finally:
        executor.shutdown(cancel_futures=True)
