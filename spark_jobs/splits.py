"""Which image goes where: stable splits, duplicates and shards, from content hashes alone. Pure.

An image's split depends on nothing but its bytes: it never moves between train and hold-out when others come or go,
and exact duplicates, having the same hash, cannot straddle the two.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

TRAIN = "train"
HOLDOUT = "holdout"
HASH_DIGITS = 13
# A shard lies in memory whole, several times while it is written.
SHARD_BYTES = 64 * 1024 * 1024


def split_of(sha256: str, holdout: float) -> str:
    """`holdout` for a share `holdout` of all hashes, else `train`; `sha256` is hexadecimal."""
    position = int(sha256[:HASH_DIGITS], 16) / 16**HASH_DIGITS
    return HOLDOUT if position < holdout else TRAIN


def rows_of_shard(shard_rows: int, image_bytes: float) -> int:
    """Rows of a shard of images with `image_bytes` each: `shard_rows`, or what SHARD_BYTES hold if that is less."""
    return max(1, min(shard_rows, int(SHARD_BYTES / max(1.0, image_bytes))))


def shard_of(row: int, rows: int, shard_rows: int) -> int:
    """The shard of the row-th of `rows` rows: as few shards as `shard_rows` allows, of even size."""
    shards = -(-rows // shard_rows)
    return row * shards // rows


def content_digest(images: Iterable[tuple[str, str]], preparation: Mapping[str, Any]) -> str:
    """Name of the prepared data: (class, sha256) of every image in any order, and how they are prepared."""
    digest = hashlib.sha256(json.dumps(preparation, sort_keys=True).encode())
    for name, sha256 in sorted(images):
        digest.update(f"\n{name}\t{sha256}".encode())
    return digest.hexdigest()[:16]


def listing_digest(files: Iterable[tuple[str, int, int]], preparation: Mapping[str, Any]) -> str:
    """Name of a listing: (path, size, time of change) of every file, and how they are prepared."""
    digest = hashlib.sha256(json.dumps(preparation, sort_keys=True).encode())
    for path, size, changed in sorted(files):
        digest.update(f"\n{path}\t{size}\t{changed}".encode())
    return digest.hexdigest()[:16]
