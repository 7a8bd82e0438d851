"""The prepared dataset: what ingest writes and what training and evaluation read.

`prepared/<name>/<digest>/` holds `train/` and `holdout/` (Parquet shards of images and labels) and, written last,
`dataset.json`; beside them `manifest.parquet` and `quarantine.json` tell of the folder that was ingested last.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from serving.preprocessing import Preprocessing, UnreadableImageError, shrink
from spark_jobs import storage
from spark_jobs.exceptions import DatasetError
from spark_jobs.specification import ENCODINGS

FORMAT = 2
DOCUMENT = "dataset.json"
PIXELS = "pixels"
# Photographs hardly get smaller, whatever it costs; drawings and digits do, and lz4 costs next to nothing.
COMPRESSION = {PIXELS: "lz4", "files": "none"}
# A process or a fraction that needs part of a shard reads little more than that part.
ROW_GROUP_BYTES = 8 * 1024 * 1024


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
    encoding: str
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
        encoding=document["encoding"],
        classes=tuple(document["classes"]),
        preprocessing=preprocessing,
        train=_shards(prepared_uri, document["train"]),
        holdout=_shards(prepared_uri, document["holdout"]),
    )


def write_shard(uri: str, labels: Sequence[int], images: Sequence[bytes], encoding: str = PIXELS) -> None:
    """Write one shard: the index of the class of every image, and the image, in a column named by the encoding.

    `pixels` are raw `uint8 [size, size, channels]`; `files` are the encoded files as they were found.
    """
    table = pa.table({"label": pa.array(labels, pa.int32()), encoding: pa.array(images, pa.large_binary())})
    rows = max(1, ROW_GROUP_BYTES * len(images) // max(1, sum(map(len, images))))
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=rows, compression=COMPRESSION[encoding], use_dictionary=["label"])
    storage.write_bytes(uri, buffer.getvalue())


@dataclass(frozen=True)
class Rows:
    """Rows of a shard as they are stored: labels `[n]`, and the buffers of their images, in one of the encodings."""

    uri: str
    start: int
    labels: NDArray[np.int64]
    images: Sequence[Any]
    encoding: str

    def pixels(self, row: int, preprocessing: Preprocessing) -> NDArray[np.uint8]:
        """One image as training sees it: `uint8 [size, size, channels]`; raises DatasetError."""
        size, channels = preprocessing.image_size, preprocessing.channels
        if self.encoding == PIXELS:
            return np.frombuffer(self.images[row], dtype=np.uint8).reshape(size, size, channels)
        try:
            return shrink(self.images[row].to_pybytes(), size, channels)
        except UnreadableImageError as error:
            raise DatasetError(
                f"{self.uri}, row {self.start + row}: {error}; ingest could read it: give training the environment of "
                "ingest, or run ingest again"
            ) from error


def read_rows(uri: str, start: int = 0, stop: int | None = None) -> Rows:
    """Rows `start` to `stop` of a shard, reading no more than the row groups that hold them."""
    with storage.open_file(uri) as file, pq.ParquetFile(file, pre_buffer=True) as shard:
        groups = [shard.metadata.row_group(number).num_rows for number in range(shard.num_row_groups)]
        bounds = [0, *accumulate(groups)]
        stop = bounds[-1] if stop is None else min(stop, bounds[-1])
        needed = [n for n in range(len(groups)) if bounds[n] < stop and bounds[n + 1] > start]
        table = shard.read_row_groups(needed, use_threads=False)
    skipped = start - bounds[needed[0]] if needed else 0
    table = table.slice(skipped, stop - start)
    encoding = next(name for name in table.column_names if name in ENCODINGS)
    return Rows(
        uri=uri,
        start=start,
        labels=np.asarray(table["label"].to_numpy(), dtype=np.int64),
        images=[value.as_buffer() for chunk in table[encoding].chunks for value in chunk],
        encoding=encoding,
    )


def read_shard(
    uri: str, preprocessing: Preprocessing, start: int = 0, stop: int | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Rows `start` to `stop` of a shard: pixels `uint8 [n, size, size, channels]` and labels `[n]`."""
    rows = read_rows(uri, start, stop)
    return np.stack([rows.pixels(row, preprocessing) for row in range(len(rows.labels))]), rows.labels


def _shards(prepared_uri: str, shards: Sequence[Mapping[str, Any]]) -> tuple[Shard, ...]:
    return tuple(Shard(storage.join(prepared_uri, shard["file"]), shard["rows"]) for shard in shards)
