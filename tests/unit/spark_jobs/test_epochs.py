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
    pieces = epochs.shuffled(epochs.whole(sizes), seed, epoch)
    stretches = [rows_of(epochs.stretch(pieces, rank, processes)) for rank in range(processes)]
    assert {len(stretch) for stretch in stretches} == {sum(sizes) // processes}
    seen = [row for stretch in stretches for row in stretch]
    assert len(seen) == len(set(seen))
    assert sum(sizes) - len(seen) < processes


@given(shard_sizes, st.integers(1, 6))
def test_shares_leave_no_row_out(sizes, parts):
    pieces = epochs.whole(sizes)
    seen = [row for part in range(parts) for row in rows_of(epochs.share(pieces, part, parts))]
    assert seen == rows_of(pieces)


@given(shard_sizes, st.integers(1, 300), st.integers(1, 300))
def test_a_smaller_limit_is_a_prefix(sizes, one, other):
    small, large = sorted((one, other))
    few, many = rows_of(epochs.head(sizes, small)), rows_of(epochs.head(sizes, large))
    assert many[: len(few)] == few
    assert len(few) == min(small, sum(sizes))


@given(shard_sizes, st.integers(1, 64), st.data())
def test_batches_are_even_small_enough_and_begin_anywhere(sizes, batch_size, data):
    pieces = epochs.whole(sizes)
    plan = list(epochs.batches(pieces, batch_size))
    taken = [sum(which.stop - which.start for _, which in parts) for parts in plan]
    assert sum(taken) == sum(sizes)
    assert max(taken) <= batch_size
    assert max(taken) - min(taken) <= 1
    assert len(plan) == epochs.steps_of(sum(sizes), batch_size)
    rows = [(place, row) for parts in plan for place, which in parts for row in range(which.start, which.stop)]
    assert rows == [(place, row) for place, piece in enumerate(pieces) for row in range(piece.rows)]
    first = data.draw(st.integers(0, len(plan)))
    assert list(epochs.batches(pieces, batch_size, first)) == plan[first:]


@given(shard_sizes, st.floats(0.01, 1), st.floats(0, 0.5), st.floats(0.01, 1))
def test_training_and_validation_are_stable_and_disjoint(sizes, fraction, validation, other):
    division = epochs.divide(sizes, fraction=fraction, validation=validation)
    training, kept_back = rows_of(division.training), rows_of(division.validation)
    everything = rows_of(epochs.whole(sizes))
    assert training
    assert len(training) + len(kept_back) == max(1, round(fraction * sum(sizes)))
    assert everything[: len(training)] == training
    assert everything[len(everything) - len(kept_back) :] == kept_back
    assert bool(kept_back) == (validation > 0 and len(training) + len(kept_back) > 1)
    larger = epochs.divide(sizes, fraction=max(fraction, other), validation=validation)
    assert set(kept_back) <= set(rows_of(larger.validation))


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
