"""Which rows of which shards a process sees in an epoch, and in what order. Pure.

All shards, in an order drawn from seed and epoch, are laid end to end and cut into one stretch for each process, and
that into batches of even size: every process takes the same number of steps, which all-reduce needs, and no row is
seen twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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


def head(rows: Sequence[int], limit: int) -> list[Piece]:
    """The first `limit` rows of shards with `rows` rows: larger limits hold the smaller ones."""
    pieces = []
    for shard, count in enumerate(rows):
        taken = min(count, limit)
        if taken > 0:
            pieces.append(Piece(shard, 0, taken))
            limit -= taken
    return pieces


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


def batch_sizes(rows: int, batch_size: int) -> Iterator[int]:
    """Their sizes, which differ by one at most: batch normalisation bears no batch of one."""
    steps = steps_of(rows, batch_size)
    for step in range(steps):
        yield (step + 1) * rows // steps - step * rows // steps
