"""Which rows of which shards a process sees in an epoch, and in what order. Pure.

All shards, in an order drawn from seed and epoch, are laid end to end and cut into one stretch for each process, and
that into batches of even size: every process takes the same number of steps, which all-reduce needs, and no row is
seen twice.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np


@dataclass(frozen=True)
class Piece:
    """Rows `start` to `stop` (exclusive) of one shard."""

    shard: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return self.stop - self.start


@dataclass(frozen=True)
class Division:
    """The rows of the training split that are trained on, and those kept back to decide when to stop."""

    training: list[Piece]
    validation: list[Piece]


def divide(rows: Sequence[int], *, fraction: float, validation: float) -> Division:
    """Use the share `fraction` of shards with `rows` rows, and keep the share `validation` of that back.

    Training takes from the front, validation from the end: both are stable, disjoint, and as mixed as the split,
    which lies in order of hashes. A larger fraction holds the rows of a smaller one, on either side. At least one
    row is trained on, and with a validation above 0 and two rows used, one is kept back.
    """
    used = max(1, round(fraction * sum(rows)))
    kept_back = min(used - 1, max(1, round(validation * used))) if validation else 0
    return Division(head(rows, used - kept_back), tail(rows, kept_back))


def whole(rows: Sequence[int]) -> list[Piece]:
    """All rows of shards with `rows` rows."""
    return [Piece(shard, 0, count) for shard, count in enumerate(rows)]


def head(rows: Sequence[int], limit: int) -> list[Piece]:
    """The first `limit` rows of shards with `rows` rows: larger limits hold the smaller ones."""
    return cut(whole(rows), 0, limit)


def tail(rows: Sequence[int], limit: int) -> list[Piece]:
    """The last `limit` rows of shards with `rows` rows: larger limits hold the smaller ones."""
    return cut(whole(rows), sum(rows) - limit, sum(rows))


def shuffled(pieces: Sequence[Piece], seed: int, epoch: int) -> list[Piece]:
    """The pieces in the order of this epoch."""
    order = np.random.default_rng([seed, epoch]).permutation(len(pieces))
    return [pieces[index] for index in order]


def stretch(pieces: Sequence[Piece], part: int, parts: int) -> list[Piece]:
    """The `part`-th of `parts` stretches of equal length; fewer than `parts` rows at the end fall out."""
    length = sum(piece.rows for piece in pieces) // parts
    return cut(pieces, part * length, (part + 1) * length)


def share(pieces: Sequence[Piece], part: int, parts: int) -> list[Piece]:
    """The `part`-th of `parts` shares: all rows, but some shares have one more than others."""
    rows = sum(piece.rows for piece in pieces)
    return cut(pieces, part * rows // parts, (part + 1) * rows // parts)


def cut(pieces: Sequence[Piece], start: int, stop: int) -> list[Piece]:
    """The rows `start` to `stop` of the pieces laid end to end."""
    taken = []
    offset = 0
    for piece in pieces:
        first, last = max(start - offset, 0), min(stop - offset, piece.rows)
        if first < last:
            taken.append(Piece(piece.shard, piece.start + first, piece.start + last))
        offset += piece.rows
    return taken


def row_order(piece: Piece, seed: int, epoch: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """A permutation of the piece's rows, counted from its start."""
    return np.random.default_rng([seed, epoch, piece.shard, piece.start]).permutation(piece.rows)


def steps_of(rows: int, batch_size: int) -> int:
    """Batches of at most `batch_size` that `rows` rows make."""
    return -(-rows // batch_size)


def batches(pieces: Sequence[Piece], batch_size: int, first: int = 0) -> Iterator[list[tuple[int, slice]]]:
    """The batches from the `first` on: for each, the places in `pieces` that it takes from, and what in their order.

    Their sizes differ by one at most: batch normalisation bears no batch of one.
    """
    bounds = [0, *accumulate(piece.rows for piece in pieces)]
    steps = steps_of(bounds[-1], batch_size)
    for step in range(first, steps):
        start, stop = step * bounds[-1] // steps, (step + 1) * bounds[-1] // steps
        parts = []
        while start < stop:
            place = bisect_right(bounds, start) - 1
            last = min(stop, bounds[place + 1])
            parts.append((place, slice(start - bounds[place], last - bounds[place])))
            start = last
        yield parts
