import hashlib

from hypothesis import given, settings
from hypothesis import strategies as st

from spark_jobs.splits import HOLDOUT, TRAIN, content_digest, listing_digest, rows_of_shard, shard_of, split_of

hashes = st.binary(max_size=20).map(lambda content: hashlib.sha256(content).hexdigest())
shares = st.floats(min_value=0.01, max_value=0.99)


@given(hashes, shares, shares)
def test_a_larger_holdout_only_takes_more(sha256, one, other):
    small, large = sorted((one, other))
    if split_of(sha256, small) == HOLDOUT:
        assert split_of(sha256, large) == HOLDOUT


def test_the_share_is_kept():
    splits = [split_of(hashlib.sha256(str(number).encode()).hexdigest(), 0.2) for number in range(5000)]
    assert set(splits) == {TRAIN, HOLDOUT}
    assert 0.18 < splits.count(HOLDOUT) / len(splits) < 0.22


@settings(deadline=None)
@given(st.integers(1, 800), st.integers(1, 200))
def test_shards_are_even_and_as_few_as_allowed(rows, shard_rows):
    shards = [shard_of(row, rows, shard_rows) for row in range(rows)]
    sizes = [shards.count(shard) for shard in range(max(shards) + 1)]
    assert shards == sorted(shards)
    assert max(sizes) <= shard_rows
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) == -(-rows // shard_rows)


def test_digests_ignore_order_and_see_everything_else():
    images = [("a", "1"), ("b", "2")]
    assert content_digest(images, {"size": 8}) == content_digest(reversed(images), {"size": 8})
    assert content_digest(images, {"size": 8}) != content_digest(images, {"size": 9})
    assert content_digest(images, {}) != content_digest([("a", "1"), ("a", "2")], {})
    files = [("a/1.png", 10, 100), ("b/2.png", 20, 100)]
    assert listing_digest(files, {}) == listing_digest(files[::-1], {})
    assert listing_digest(files, {}) != listing_digest([("a/1.png", 10, 101), files[1]], {})
    assert listing_digest(files, {}) != listing_digest([("a/1.png", 11, 100), files[1]], {})


def test_a_shard_of_large_images_holds_fewer():
    assert rows_of_shard(512, 28 * 28) == 512
    assert rows_of_shard(512, 1024 * 1024 * 3) == 21
    assert rows_of_shard(512, 10**9) == 1
