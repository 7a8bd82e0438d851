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

import pandas as pd

from serving.preprocessing import UnreadableImageError, decode, fit
from spark_jobs import storage
from spark_jobs.exceptions import DatasetError
from spark_jobs.job import open_session, run_job, satisfy_yarn, say
from spark_jobs.lockbox import export_secret
from spark_jobs.prepared import DOCUMENT, FORMAT
from spark_jobs.specification import IngestSpecification
from spark_jobs.splits import HOLDOUT, TRAIN, content_digest, listing_digest

SESSION = {
    # A folder of small files in a few tasks rather than in hundreds.
    "spark.sql.files.openCostInBytes": str(64 * 1024),
    "spark.sql.files.maxPartitionBytes": str(64 * 1024 * 1024),
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    # Large photographs travel in small batches: a batch lies in memory whole.
    "spark.sql.execution.arrow.maxRecordsPerBatch": "64",
}
FILE_COLUMNS = ["path", "label", "sha256", "size", "width", "height", "reason"]
FILE_SCHEMA = "path string, label string, sha256 string, size long, width long, height long, reason string"
SHARD_SCHEMA = "file string, rows long, pixels double, sums array<double>, squares array<double>"
NO_CLASS = "lies in no class folder"


def ingest(specification: IngestSpecification) -> dict[str, Any]:
    """Prepare the dataset, or find it prepared."""
    files = _dataset_files(specification)
    preparation = {
        "format": FORMAT,
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
        satisfy_yarn("ingest")
        return {**known, "reused": True}
    result = _prepare(specification, preparation)
    storage.write_json(listing_uri, {key: value for key, value in result.items() if key != "reused"})
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


def _prepare(specification: IngestSpecification, preparation: dict[str, Any]) -> dict[str, Any]:
    from pyspark import StorageLevel

    from spark_jobs.manifest import build_manifest, quarantine, require_trainable, summarize

    session = open_session("ingest", SESSION)
    images = _read_images(session, specification).persist(StorageLevel.MEMORY_AND_DISK)
    manifest = build_manifest(
        images.select(*FILE_COLUMNS).toPandas(),
        holdout=specification.holdout,
        shard_rows=specification.shard_rows,
    )
    require_trainable(manifest, max_corrupt=specification.max_corrupt)
    summary = summarize(manifest)
    kept = manifest[manifest["split"].notna()]
    digest = content_digest(zip(kept["label"], kept["sha256"], strict=True), preparation)
    prepared_uri = storage.join(specification.prepared_base_uri, digest)
    result = {"prepared_uri": prepared_uri, "digest": digest, **summary}
    say(f"{len(manifest)} files: {summary}")
    left_out = quarantine(manifest)
    for file in left_out[:20]:
        say(f"left out: {file['path']}: {file['reason']}")
    if storage.exists(storage.join(prepared_uri, DOCUMENT)):
        return {**result, "reused": True}
    shards = _write_shards(session, images, kept, prepared_uri, specification)
    buffer = io.BytesIO()
    manifest.to_parquet(buffer, index=False)
    storage.write_bytes(storage.join(prepared_uri, "manifest.parquet"), buffer.getvalue())
    storage.write_json(storage.join(prepared_uri, "quarantine.json"), left_out)
    storage.write_json(storage.join(prepared_uri, DOCUMENT), _document(digest, summary, shards, specification))
    return {**result, "reused": False}


def _read_images(session: Any, specification: IngestSpecification) -> Any:
    """Every file decoded, checked and shrunk: FILE_COLUMNS and `pixels`."""
    root = unquote(urlsplit(specification.dataset_uri).path).rstrip("/") + "/"
    image_size, channels = specification.image_size, specification.channels

    def prepare(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        for batch in batches:
            rows = [
                prepare_file(path.split(root, 1)[1], bytes(content), image_size, channels)
                for path, content in zip(batch["path"], batch["content"], strict=True)
            ]
            yield pd.DataFrame(rows, columns=[*FILE_COLUMNS, "pixels"])

    files = session.read.format("binaryFile").option("recursiveFileLookup", "true").load(specification.dataset_uri)
    return files.select("path", "content").mapInPandas(prepare, f"{FILE_SCHEMA}, pixels binary")


def prepare_file(path: str, content: bytes, image_size: int, channels: int) -> tuple[Any, ...]:
    """One file, as a row of FILE_COLUMNS and `pixels`; a file that cannot be used has a reason and no pixels."""
    sha256 = hashlib.sha256(content).hexdigest()
    label, separator, _ = path.partition("/")
    if not separator:
        return path, "", sha256, len(content), 0, 0, NO_CLASS, None
    try:
        image = decode(content, image_size, channels)
    except UnreadableImageError as error:
        return path, label, sha256, len(content), 0, 0, str(error), None
    height, width, _ = image.shape
    return path, label, sha256, len(content), width, height, None, fit(image, image_size).tobytes()


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
    secret_id, channels = specification.secret_id, specification.channels

    def write(rows: pd.DataFrame) -> pd.DataFrame:
        import numpy as np

        from spark_jobs.prepared import write_shard

        export_secret(secret_id)
        rows = rows.sort_values("sha256")
        file = rows["file"].iloc[0]
        write_shard(storage.join(prepared_uri, file), rows["class_index"].tolist(), rows["pixels"].tolist())
        pixels = np.frombuffer(b"".join(rows["pixels"]), dtype=np.uint8).reshape(-1, channels) / 255.0
        totals = [len(pixels), pixels.sum(axis=0).tolist(), np.square(pixels).sum(axis=0).tolist()]
        return pd.DataFrame([[file, len(rows), *totals]], columns=["file", "rows", "pixels", "sums", "squares"])

    columns = plan[["path", "sha256", "class_index", "file"]]
    planned = images.select("path", "pixels").join(functions.broadcast(session.createDataFrame(columns)), "path")
    return planned.groupBy("file").applyInPandas(write, SHARD_SCHEMA).toPandas().sort_values("file")


def shard_file(split: str, shard: int) -> str:
    """The path of a shard in the prepared dataset."""
    return f"{split}/shard-{shard:05d}.parquet"


def _document(
    digest: str, summary: dict[str, Any], shards: pd.DataFrame, specification: IngestSpecification
) -> dict[str, Any]:
    train = shards[shards["file"].str.startswith(f"{TRAIN}/")]
    count = train["pixels"].sum()
    mean = [sum(values) / count for values in zip(*train["sums"], strict=True)]
    variances = [
        sum(values) / count - average**2
        for values, average in zip(zip(*train["squares"], strict=True), mean, strict=True)
    ]
    return {
        "format": FORMAT,
        "digest": digest,
        "encoding": specification.encoding,
        "classes": summary["classes"],
        "preprocessing": {
            "image_size": specification.image_size,
            "channels": specification.channels,
            "mean": [round(value, 6) for value in mean],
            # A dataset of one flat colour must not divide by zero.
            "std": [round(max(value, 0.0) ** 0.5, 6) or 1.0 for value in variances],
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
