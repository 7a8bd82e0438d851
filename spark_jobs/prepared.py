"""The prepared dataset: what ingest writes and what training and evaluation read.

`prepared/<name>/<digest>/` holds `train/` and `holdout/` (Parquet shards of pixels and labels), `manifest.parquet`,
`quarantine.json` and, written last, `dataset.json`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from serving.preprocessing import Preprocessing
from spark_jobs import storage
from spark_jobs.exceptions import DatasetError

FORMAT = 1
DOCUMENT = "dataset.json"


@dataclass(frozen=True)
class Shard:
    """One Parquet file: its URI and its number of images."""

    uri: str
    rows: int


@dataclass(frozen=True)
class PreparedDataset:
    """The content of `dataset.json`."""

    uri: str
    digest: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    train: tuple[Shard, ...]
    holdout: tuple[Shard, ...]

    @property
    def train_images(self) -> int:
        """Images in the training split."""
        return sum(shard.rows for shard in self.train)

    @property
    def holdout_images(self) -> int:
        """Images held out."""
        return sum(shard.rows for shard in self.holdout)


def read_dataset(prepared_uri: str, *, image_size: int, channels: int) -> PreparedDataset:
    """Read `dataset.json`; raises DatasetError if it was prepared for other images than asked for."""
    document = storage.read_json(storage.join(prepared_uri, DOCUMENT))
    if document["format"] != FORMAT:
        raise DatasetError(f"{prepared_uri} has format {document['format']}, this job reads {FORMAT}: run ingest again")
    preprocessing = Preprocessing.from_document(document["preprocessing"])
    if (preprocessing.image_size, preprocessing.channels) != (image_size, channels):
        raise DatasetError(
            f"{prepared_uri} holds images of {preprocessing.image_size} pixels and {preprocessing.channels} channels, "
            f"not {image_size} and {channels}: run ingest again"
        )
    return PreparedDataset(
        uri=prepared_uri,
        digest=document["digest"],
        classes=tuple(document["classes"]),
        preprocessing=preprocessing,
        train=_shards(prepared_uri, document["train"]),
        holdout=_shards(prepared_uri, document["holdout"]),
    )


def write_shard(uri: str, labels: Sequence[int], pixels: Sequence[bytes]) -> None:
    """Write one shard: the index of the class and the raw `uint8 [size, size, channels]` pixels of every image."""
    table = pa.table({"label": pa.array(labels, pa.int32()), "pixels": pa.array(pixels, pa.binary())})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", use_dictionary=False)
    storage.write_bytes(uri, buffer.getvalue())


def read_shard(
    uri: str, preprocessing: Preprocessing, start: int = 0, stop: int | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Rows `start` to `stop` of a shard: pixels `uint8 [n, size, size, channels]` and labels `[n]`."""
    table = pq.read_table(io.BytesIO(storage.read_bytes(uri)), use_threads=False)
    table = table.slice(start, None if stop is None else stop - start)
    size, channels = preprocessing.image_size, preprocessing.channels
    pixels = np.frombuffer(b"".join(table["pixels"].to_pylist()), dtype=np.uint8)
    labels = np.asarray(table["label"].to_numpy(), dtype=np.int64)
    return pixels.reshape(-1, size, size, channels), labels


def _shards(prepared_uri: str, shards: Sequence[Mapping[str, Any]]) -> tuple[Shard, ...]:
    return tuple(Shard(storage.join(prepared_uri, shard["file"]), shard["rows"]) for shard in shards)
