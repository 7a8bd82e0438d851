"""Ingest: an image folder becomes a validated manifest and Parquet shards of a stable split.

`spark-submit ingest.py --specification '<JSON>'`. Re-ingesting an unchanged folder costs a listing; the same content
under new times or names is decoded, found to be known, and written nowhere.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from serving.preprocessing import UnreadableImageError, examine, fit
from spark_jobs import storage
from spark_jobs.dataset_files import MAX_FILE_BYTES, DatasetFile, divide, list_dataset
from spark_jobs.exceptions import DatasetError, StorageError
from spark_jobs.image_folder import class_of, side_file
from spark_jobs.job import open_session, run_job, satisfy_yarn, say
from spark_jobs.lockbox import export_secret
from spark_jobs.prepared import DOCUMENT, FORMAT, PIXELS
from spark_jobs.specification import IngestSpecification
from spark_jobs.splits import HOLDOUT, TRAIN, content_digest, listing_digest, rows_of_shard

SESSION = {"spark.sql.execution.arrow.pyspark.enabled": "true"}
# What a worker holds of prepared images before it passes them on.
BATCH_BYTES = 8 * 1024 * 1024
BATCH_FILES = 64
FILE_COLUMNS = ["path", "label", "sha256", "size", "width", "height", "reason", "damage"]
FILE_SCHEMA = (
    "path string, label string, sha256 string, size long, width long, height long, reason string, damage string"
)
# What a shard is made of: the image in its encoding, and the sums of its pixels' values and of their squares.
IMAGE_COLUMNS = ["image", "sums", "squares"]
IMAGE_SCHEMA = "image binary, sums array<long>, squares array<long>"
SHARD_SCHEMA = "file string, rows long, sums array<long>, squares array<long>"
VALUES = np.arange(256)
LEFT_OUT_SAID = 20
# What a file that is listed but cannot be read has in place of a digest; it fails the job.
LOST = "lost"


def ingest(specification: IngestSpecification) -> dict[str, Any]:
    """Prepare the dataset, or find it prepared."""
    files = list_dataset(specification.dataset_uri)
    if all(side_file(file.path) for file in files):
        raise DatasetError(f"{specification.dataset_uri} holds no file; expected are images at <class>/<file>")
    preparation = {
        "format": FORMAT,
        "encoding": specification.encoding,
        "image_size": specification.image_size,
        "channels": specification.channels,
        "holdout": specification.holdout,
        "shard_rows": specification.shard_rows,
    }
    # What the desktop writes beside images changes with every look at them.
    aside = {file.path for file in files if side_file(file.path)}
    states = [(file.path, 0, 0) if file.path in aside else (file.path, file.size, file.changed) for file in files]
    listing = listing_digest(states, preparation)
    listing_uri = storage.join(specification.prepared_base_uri, "listings", f"{listing}.json")
    known = _known(listing_uri, specification)
    if known is not None:
        say(f"{len(files)} files, unchanged: {known['prepared_uri']} is used again")
        _warn(known["warnings"])
        satisfy_yarn("ingest")
        return {**known, "reused": True}
    result, changed = _prepare(specification, preparation, files)
    if changed:
        say(f"the folder changed while it was read ({', '.join(changed[:3])}, …): the next ingest reads it again")
    else:
        storage.write_json(listing_uri, {key: value for key, value in result.items() if key != "reused"})
    return result


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
    specification: IngestSpecification, preparation: dict[str, Any], listed: list[DatasetFile]
) -> tuple[dict[str, Any], list[str]]:
    """What the job reports, and the paths of the files that changed while it read them."""
    from pyspark import StorageLevel

    from spark_jobs.manifest import build_manifest, quarantine, require_trainable, said, summarize, warnings_about

    session = open_session("ingest", SESSION)
    wanted = [file for file in listed if file.reason is None]
    images = _read_images(session, wanted, specification).persist(StorageLevel.MEMORY_AND_DISK)
    read = images.select(*FILE_COLUMNS).toPandas()
    _require_all(read, wanted)
    sizes = {file.path: file.size for file in wanted}
    changed = [row.path for row in read.itertuples() if row.size != sizes[row.path]]
    files = pd.concat([read, _unread([file for file in listed if file.reason is not None])], ignore_index=True)
    files = files.astype(dict.fromkeys(("size", "width", "height"), "int64"))
    manifest = build_manifest(files, holdout=specification.holdout, shard_rows=_shard_rows(files, specification))
    require_trainable(manifest, max_corrupt=specification.max_corrupt)
    summary = summarize(manifest)
    say(
        f"{len(manifest)} files: {summary['images']} images of {len(summary['classes'])} classes, "
        f"{summary['train_images']} to train on and {summary['holdout_images']} held out"
    )
    left_out = quarantine(manifest)
    for file in said(left_out)[:LEFT_OUT_SAID]:
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
        return {**result, "reused": True}, changed
    shards = _write_shards(session, images, kept, prepared_uri, specification)
    storage.write_json(storage.join(prepared_uri, DOCUMENT), _document(digest, summary, shards, specification))
    return {**result, "reused": False}, changed


def _shard_rows(files: pd.DataFrame, specification: IngestSpecification) -> int:
    readable = files[files["reason"].isna()]
    if specification.encoding == PIXELS or readable.empty:
        return rows_of_shard(specification.shard_rows, specification.image_size**2 * specification.channels)
    return rows_of_shard(specification.shard_rows, readable["size"].mean())


def _read_images(session: Any, files: Sequence[DatasetFile], specification: IngestSpecification) -> Any:
    """Every file of `files` read, checked and shrunk: FILE_COLUMNS and IMAGE_COLUMNS.

    Read by Python and not by Spark, which passes over names with `_`, takes `.crc` files for true, decodes names by the
    locale and URIs in its own way.
    """
    context = session.sparkContext
    tasks = divide(files, context.defaultParallelism)
    paths = context.broadcast([json.dumps(task).encode() for task in tasks])
    dataset_uri, secret_id = specification.dataset_uri, specification.secret_id
    image_size, channels, encoding = specification.image_size, specification.channels, specification.encoding

    def prepare(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        export_secret(secret_id)
        wanted = [path for batch in batches for task in batch["id"] for path in json.loads(paths.value[task])]
        rows: list[tuple[Any, ...]] = []
        held = 0
        for path in wanted:
            row = read_file(dataset_uri, path, image_size, channels, encoding)
            rows.append(row)
            held += len(row[len(FILE_COLUMNS)] or b"")
            if held >= BATCH_BYTES or len(rows) >= BATCH_FILES:
                yield pd.DataFrame(rows, columns=[*FILE_COLUMNS, *IMAGE_COLUMNS])
                rows, held = [], 0
        if rows:
            yield pd.DataFrame(rows, columns=[*FILE_COLUMNS, *IMAGE_COLUMNS])

    numbers = session.range(0, len(tasks), 1, max(1, len(tasks)))
    return numbers.mapInPandas(prepare, f"{FILE_SCHEMA}, {IMAGE_SCHEMA}")


def read_file(dataset_uri: str, path: str, image_size: int, channels: int, encoding: str) -> tuple[Any, ...]:
    """`prepare_file` of a file in the dataset; one that cannot be read is LOST, with the reason."""
    try:
        content = storage.read_bytes(storage.join(dataset_uri, path), most=MAX_FILE_BYTES)
    except StorageError as error:
        return path, class_of(path), LOST, 0, 0, 0, str(error), None, None, None, None
    return prepare_file(path, content, image_size, channels, encoding)


def _require_all(read: pd.DataFrame, wanted: Sequence[DatasetFile]) -> None:
    """Refuse to go on without a file that is listed; StorageError."""
    failed = read[read["sha256"] == LOST]
    lost = {row.path: row.reason for row in failed.itertuples()}
    lost |= dict.fromkeys(sorted({file.path for file in wanted} - set(read["path"])), "Spark lost it")
    if lost:
        first = "; ".join(f"{path}: {reason}" for path, reason in list(lost.items())[:LEFT_OUT_SAID])
        raise StorageError(
            f"{len(lost)} of {len(wanted)} files are listed but cannot be read, and none is left out in silence: "
            f"{first}; mend or remove them, or try again if the folder has changed since"
        )


def _unread(files: Sequence[DatasetFile]) -> pd.DataFrame:
    rows = [(file.path, class_of(file.path), "", file.size, 0, 0, file.reason, None) for file in files]
    return pd.DataFrame(rows, columns=FILE_COLUMNS)


def prepare_file(path: str, content: bytes, image_size: int, channels: int, encoding: str) -> tuple[Any, ...]:
    """One file, as a row of FILE_COLUMNS and IMAGE_COLUMNS; one that cannot be used has a reason and no image."""
    sha256, label = hashlib.sha256(content).hexdigest(), class_of(path)
    try:
        examined = examine(content, image_size, channels)
    except UnreadableImageError as error:
        return path, label, sha256, len(content), 0, 0, str(error), None, None, None, None
    height, width, _ = examined.pixels.shape
    pixels = fit(examined.pixels, image_size)
    image = pixels.tobytes() if encoding == PIXELS else content
    return path, label, sha256, len(content), width, height, None, examined.damage, image, *_sums(pixels)


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
