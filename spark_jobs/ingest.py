"""Ingest: an image folder becomes a validated manifest and Parquet shards of a stable split.

`spark-submit ingest.py --specification '<JSON>'`. Re-ingesting an unchanged folder costs a listing; the same content
under new times or names is decoded, found to be known, and written nowhere.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from serving.preprocessing import UnreadableImageError, decode, fit
from spark_jobs import storage
from spark_jobs.exceptions import DatasetError
from spark_jobs.job import open_session, run_job, satisfy_yarn, say
from spark_jobs.lockbox import export_secret
from spark_jobs.prepared import DOCUMENT, FORMAT, PIXELS
from spark_jobs.specification import IngestSpecification
from spark_jobs.splits import HOLDOUT, TRAIN, content_digest, listing_digest, rows_of_shard

SESSION = {
    # A folder of small files in a few tasks rather than in hundreds; large ones in so many that cores end together.
    "spark.sql.files.openCostInBytes": str(64 * 1024),
    "spark.sql.files.maxPartitionBytes": str(16 * 1024 * 1024),
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    # Large photographs travel in small batches: a batch lies in memory whole.
    "spark.sql.execution.arrow.maxRecordsPerBatch": "64",
}
FILE_COLUMNS = ["path", "label", "sha256", "size", "width", "height", "reason"]
FILE_SCHEMA = "path string, label string, sha256 string, size long, width long, height long, reason string"
# What a shard is made of: the image in its encoding, and the sums of its pixels' values and of their squares.
IMAGE_COLUMNS = ["image", "sums", "squares"]
IMAGE_SCHEMA = "image binary, sums array<long>, squares array<long>"
SHARD_SCHEMA = "file string, rows long, sums array<long>, squares array<long>"
NO_CLASS = "lies in no class folder"
VALUES = np.arange(256)
LEFT_OUT_SAID = 20


def ingest(specification: IngestSpecification) -> dict[str, Any]:
    """Prepare the dataset, or find it prepared."""
    files = _dataset_files(specification)
    preparation = {
        "format": FORMAT,
        "encoding": specification.encoding,
        "image_size": specification.image_size,
        "channels": specification.channels,
        "holdout": specification.holdout,
        "shard_rows": specification.shard_rows,
    }
    listing = listing_digest([(file.path, file.size, file.changed) for file in files], preparation)
    listing_uri = storage.join(specification.prepared_base_uri, "listings", f"{listing}.json")
    known = _known(listing_uri, specification)
    if known is not None:
        say(f"{len(files)} files, unchanged: {known['prepared_uri']} is used again")
        _warn(known["warnings"])
        satisfy_yarn("ingest")
        return {**known, "reused": True}
    result, seen = _prepare(specification, preparation, files)
    if seen == {(file.path, file.size) for file in files}:
        storage.write_json(listing_uri, {key: value for key, value in result.items() if key != "reused"})
    else:
        say("the folder changed while it was read: the next ingest reads it again")
    return result


def _dataset_files(specification: IngestSpecification) -> list[storage.ListedFile]:
    files = [file for file in storage.list_files(specification.dataset_uri) if not _is_hidden(file.path)]
    if not files:
        raise DatasetError(f"{specification.dataset_uri} holds no file; expected are images at <class>/<file>")
    return files


def _is_hidden(path: str) -> bool:
    """Spark skips such files too."""
    return any(part.startswith((".", "_")) for part in PurePosixPath(path).parts)


def _known(listing_uri: str, specification: IngestSpecification) -> dict[str, Any] | None:
    if not storage.exists(listing_uri):
        return None
    result: dict[str, Any] = storage.read_json(listing_uri)
    files = result["images"] + result["duplicates"] + result["corrupt"]
    complete = storage.exists(storage.join(result["prepared_uri"], DOCUMENT))
    # A limit that was lowered since is for the full path to judge, which explains the refusal.
    return result if complete and result["corrupt"] <= specification.max_corrupt * files else None


def _warn(warnings: list[str]) -> None:
    for warning in warnings:
        say(f"warning: {warning}")


def _prepare(
    specification: IngestSpecification, preparation: dict[str, Any], listed: list[storage.ListedFile]
) -> tuple[dict[str, Any], set[tuple[str, int]]]:
    """What the job reports, and the path and size of every file that it saw."""
    from pyspark import StorageLevel

    from spark_jobs.manifest import build_manifest, quarantine, require_trainable, summarize, warnings_about

    session = open_session("ingest", SESSION)
    images = _read_images(session, specification).persist(StorageLevel.MEMORY_AND_DISK)
    files = _with_empty(images.select(*FILE_COLUMNS).toPandas(), listed, specification)
    seen = set(zip(files["path"], files["size"].tolist(), strict=True))
    manifest = build_manifest(files, holdout=specification.holdout, shard_rows=_shard_rows(files, specification))
    require_trainable(manifest, max_corrupt=specification.max_corrupt)
    summary = summarize(manifest)
    say(
        f"{len(manifest)} files: {summary['images']} images of {len(summary['classes'])} classes, "
        f"{summary['train_images']} to train on and {summary['holdout_images']} held out"
    )
    left_out = quarantine(manifest)
    for file in left_out[:LEFT_OUT_SAID]:
        say(f"left out: {file['path']}: {file['reason']}")
    kept = manifest[manifest["split"].notna()]
    digest = content_digest(zip(kept["label"], kept["sha256"], strict=True), preparation)
    prepared_uri = storage.join(specification.prepared_base_uri, digest)
    quarantine_uri = storage.join(prepared_uri, "quarantine.json")
    warnings = warnings_about(manifest, quarantine_uri)
    _warn(warnings)
    result = {"prepared_uri": prepared_uri, "digest": digest, **summary, "warnings": warnings}
    buffer = io.BytesIO()
    manifest.to_parquet(buffer, index=False)
    storage.write_bytes(storage.join(prepared_uri, "manifest.parquet"), buffer.getvalue())
    storage.write_json(quarantine_uri, left_out)
    if storage.exists(storage.join(prepared_uri, DOCUMENT)):
        return {**result, "reused": True}, seen
    shards = _write_shards(session, images, kept, prepared_uri, specification)
    storage.write_json(storage.join(prepared_uri, DOCUMENT), _document(digest, summary, shards, specification))
    return {**result, "reused": False}, seen


def _shard_rows(files: pd.DataFrame, specification: IngestSpecification) -> int:
    readable = files[files["reason"].isna()]
    if specification.encoding == PIXELS or readable.empty:
        return rows_of_shard(specification.shard_rows, specification.image_size**2 * specification.channels)
    return rows_of_shard(specification.shard_rows, readable["size"].mean())


def _read_images(session: Any, specification: IngestSpecification) -> Any:
    """Every file decoded, checked and shrunk: FILE_COLUMNS and IMAGE_COLUMNS."""
    root = unquote(urlsplit(specification.dataset_uri).path).rstrip("/") + "/"
    image_size, channels, encoding = specification.image_size, specification.channels, specification.encoding

    def prepare(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        for batch in batches:
            rows = [
                prepare_file(path.split(root, 1)[1], bytes(content), image_size, channels, encoding)
                for path, content in zip(batch["path"], batch["content"], strict=True)
            ]
            yield pd.DataFrame(rows, columns=[*FILE_COLUMNS, *IMAGE_COLUMNS])

    files = session.read.format("binaryFile").option("recursiveFileLookup", "true").load(specification.dataset_uri)
    return files.select("path", "content").mapInPandas(prepare, f"{FILE_SCHEMA}, {IMAGE_SCHEMA}")


def _with_empty(
    files: pd.DataFrame, listed: list[storage.ListedFile], specification: IngestSpecification
) -> pd.DataFrame:
    """The files and, after them, the empty ones, which Spark passes over without a word."""
    size, channels = specification.image_size, specification.channels
    rows = [prepare_file(file.path, b"", size, channels, specification.encoding) for file in listed if not file.size]
    empty = pd.DataFrame([row[: len(FILE_COLUMNS)] for row in rows], columns=FILE_COLUMNS)
    return pd.concat([files, empty], ignore_index=True) if rows else files


def prepare_file(path: str, content: bytes, image_size: int, channels: int, encoding: str) -> tuple[Any, ...]:
    """One file, as a row of FILE_COLUMNS and IMAGE_COLUMNS; one that cannot be used has a reason and no image."""
    sha256 = hashlib.sha256(content).hexdigest()
    label, separator, _ = path.partition("/")
    if not separator:
        return path, "", sha256, len(content), 0, 0, NO_CLASS, None, None, None
    try:
        decoded = decode(content, image_size, channels)
    except UnreadableImageError as error:
        return path, label, sha256, len(content), 0, 0, str(error), None, None, None
    height, width, _ = decoded.shape
    pixels = fit(decoded, image_size)
    image = pixels.tobytes() if encoding == PIXELS else content
    return path, label, sha256, len(content), width, height, None, image, *_sums(pixels)


def _sums(pixels: NDArray[np.uint8]) -> tuple[list[int], list[int]]:
    """For every channel of `[h, w, channels]`, the sum of its values and that of their squares."""
    channels = pixels.shape[2]
    picture = Image.fromarray(pixels if channels == 3 else pixels[:, :, 0])
    histogram = np.asarray(picture.histogram()).reshape(channels, len(VALUES))
    return (histogram @ VALUES).tolist(), (histogram @ VALUES**2).tolist()


def _write_shards(
    session: Any, images: Any, kept: pd.DataFrame, prepared_uri: str, specification: IngestSpecification
) -> pd.DataFrame:
    """Write every shard where it belongs; one row a shard, with the sums that mean and deviation are made of."""
    from pyspark.sql import functions

    classes = sorted(kept["label"].unique())
    index = {label: number for number, label in enumerate(classes)}
    plan = kept[["path", "sha256", "split", "shard"]].assign(
        class_index=kept["label"].map(index), file=[shard_file(row.split, row.shard) for row in kept.itertuples()]
    )
    secret_id, encoding = specification.secret_id, specification.encoding

    def write(rows: pd.DataFrame) -> pd.DataFrame:
        import numpy as np

        from spark_jobs.prepared import write_shard

        export_secret(secret_id)
        rows = rows.sort_values("sha256")
        file = rows["file"].iloc[0]
        write_shard(storage.join(prepared_uri, file), rows["class_index"].tolist(), rows["image"].tolist(), encoding)
        sums = [np.stack(rows[column]).sum(axis=0).tolist() for column in ("sums", "squares")]
        return pd.DataFrame([[file, len(rows), *sums]], columns=["file", "rows", "sums", "squares"])

    columns = plan[["path", "sha256", "class_index", "file"]]
    planned = images.select("path", *IMAGE_COLUMNS).join(functions.broadcast(session.createDataFrame(columns)), "path")
    return planned.groupBy("file").applyInPandas(write, SHARD_SCHEMA).toPandas().sort_values("file")


def shard_file(split: str, shard: int) -> str:
    """The path of a shard in the prepared dataset."""
    return f"{split}/shard-{shard:05d}.parquet"


def _document(
    digest: str, summary: dict[str, Any], shards: pd.DataFrame, specification: IngestSpecification
) -> dict[str, Any]:
    train = shards[shards["file"].str.startswith(f"{TRAIN}/")]
    pixels = int(train["rows"].sum()) * specification.image_size**2
    mean = np.stack(train["sums"]).sum(axis=0) / (255 * pixels)
    variance = np.stack(train["squares"]).sum(axis=0) / (255**2 * pixels) - mean**2
    return {
        "format": FORMAT,
        "digest": digest,
        "encoding": specification.encoding,
        "classes": summary["classes"],
        "preprocessing": {
            "image_size": specification.image_size,
            "channels": specification.channels,
            "mean": mean.round(6).tolist(),
            # A dataset of one flat colour must not divide by zero.
            "std": [round(value, 6) or 1.0 for value in np.sqrt(variance.clip(0)).tolist()],
        },
        **{
            split: [
                {"file": row.file, "rows": int(row.rows)}
                for row in shards[shards["file"].str.startswith(f"{split}/")].itertuples()
            ]
            for split in (TRAIN, HOLDOUT)
        },
    }


if __name__ == "__main__":
    run_job(IngestSpecification, ingest)
