from hypothesis import given
from hypothesis import strategies as st

from spark_jobs import epochs
from spark_jobs.epochs import Piece

shard_sizes = st.lists(st.integers(1, 60), min_size=1, max_size=8)
seeds = st.integers(0, 5)


def rows_of(pieces):
    return [(piece.shard, row) for piece in pieces for row in range(piece.start, piece.stop)]


@given(shard_sizes, st.integers(1, 6), seeds, seeds)
def test_processes_take_equal_steps_and_share_no_row(sizes, processes, seed, epoch):
    pieces = epochs.shuffled(epochs.head(sizes, sum(sizes)), seed, epoch)
    stretches = [rows_of(epochs.stretch(pieces, rank, processes)) for rank in range(processes)]
    assert {len(stretch) for stretch in stretches} == {sum(sizes) // processes}
    seen = [row for stretch in stretches for row in stretch]
    assert len(seen) == len(set(seen))
    assert sum(sizes) - len(seen) < processes


@given(shard_sizes, st.integers(1, 6))
def test_shares_leave_no_row_out(sizes, parts):
    pieces = epochs.head(sizes, sum(sizes))
    seen = [row for part in range(parts) for row in rows_of(epochs.share(pieces, part, parts))]
    assert seen == rows_of(pieces)


@given(shard_sizes, st.integers(1, 300), st.integers(1, 300))
def test_a_smaller_limit_is_a_prefix(sizes, one, other):
    small, large = sorted((one, other))
    few, many = rows_of(epochs.head(sizes, small)), rows_of(epochs.head(sizes, large))
    assert many[: len(few)] == few
    assert len(few) == min(small, sum(sizes))


@given(st.integers(1, 500), st.integers(1, 64))
def test_batches_are_even_and_small_enough(rows, batch_size):
    sizes = list(epochs.batch_sizes(rows, batch_size))
    assert sum(sizes) == rows
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) == epochs.steps_of(rows, batch_size)


def test_the_order_follows_seed_and_epoch():
    pieces = epochs.head([5] * 20, 100)
    assert epochs.shuffled(pieces, 0, 1) == epochs.shuffled(pieces, 0, 1)
    assert epochs.shuffled(pieces, 0, 1) != epochs.shuffled(pieces, 0, 2)
    assert epochs.shuffled(pieces, 0, 1) != epochs.shuffled(pieces, 1, 1)
    piece = Piece(3, 10, 60)
    order = epochs.row_order(piece, 0, 1)
    assert sorted(order) == list(range(50))
    assert order.tolist() == epochs.row_order(piece, 0, 1).tolist()
    assert order.tolist() != epochs.row_order(piece, 0, 2).tolist()
