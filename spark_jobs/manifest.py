"""The manifest of a dataset: one row for every file, what became of it and why. Pure, on pandas.

Columns: `path` (relative), `label` (class), `sha256`, `size` (bytes), `width`, `height` (pixels, of
a large JPEG those of the smaller scale at which it is decoded), `status`, `reason`, `split`, `shard`; the last two are
None and -1 for files that are not kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import pandera.pandas as pa

from spark_jobs.exceptions import DatasetError
from spark_jobs.splits import HOLDOUT, TRAIN, shard_of, split_of

KEPT = "kept"
DUPLICATE = "duplicate"
CORRUPT = "corrupt"
MIN_CLASSES = 2
EXAMPLES = 5
# A class with less than this share of what an even division would give it is rare.
SKEWED = 1 / 3
MIN_HOLDOUT = 10

SCHEMA = pa.DataFrameSchema(
    {
        "path": pa.Column(str, unique=True),
        "label": pa.Column(str),
        "sha256": pa.Column(str, pa.Check.str_matches(r"^[0-9a-f]{64}$")),
        "size": pa.Column("int64", pa.Check.ge(0)),
        "width": pa.Column("int64", pa.Check.ge(0)),
        "height": pa.Column("int64", pa.Check.ge(0)),
        "status": pa.Column(str, pa.Check.isin([KEPT, DUPLICATE, CORRUPT])),
        "reason": pa.Column(str, nullable=True),
        "split": pa.Column(str, pa.Check.isin([TRAIN, HOLDOUT]), nullable=True),
        "shard": pa.Column("int64", pa.Check.ge(-1)),
    },
    checks=[
        pa.Check(lambda frame: frame["split"].notna() == (frame["status"] == KEPT), name="kept files have a split"),
        pa.Check(lambda frame: (frame["shard"] >= 0) == (frame["status"] == KEPT), name="kept files have a shard"),
        pa.Check(lambda frame: frame["reason"].notna() == (frame["status"] != KEPT), name="others have a reason"),
        pa.Check(lambda frame: not frame.loc[frame["status"] == KEPT, "sha256"].duplicated().any(), name="unique"),
    ],
    strict=True,
)


def build_manifest(files: pd.DataFrame, *, holdout: float, shard_rows: int) -> pd.DataFrame:
    """The manifest of `files` (path, label, sha256, size, width, height, reason: None if readable).

    Of exact duplicates the first by path is kept; a content that lies in several classes is kept in none. Raises
    DatasetError if the outcome breaks the schema.
    """
    manifest = files.sort_values("path", ignore_index=True)
    outcomes = _outcomes(manifest)
    manifest["status"] = [status for status, _ in outcomes]
    manifest["reason"] = pd.Series([reason for _, reason in outcomes], dtype=object)
    _assign_splits(manifest, holdout, shard_rows)
    try:
        return SCHEMA.validate(manifest, lazy=True)
    except pa.errors.SchemaErrors as error:
        raise DatasetError(f"the manifest breaks its schema: {error.failure_cases.head(EXAMPLES).to_dict()}") from error


def require_trainable(manifest: pd.DataFrame, *, max_corrupt: float) -> None:
    """Refuse a dataset with too many corrupt files, with one class only, or with an empty split; DatasetError."""
    corrupt = manifest[manifest["status"] == CORRUPT]
    share = len(corrupt) / max(1, len(manifest))
    if share > max_corrupt:
        examples = "; ".join(f"{row.path}: {row.reason}" for row in corrupt.head(EXAMPLES).itertuples())
        raise DatasetError(
            f"{len(corrupt)} of {len(manifest)} files ({share:.1%}) are corrupt, more than dataset.max_corrupt = "
            f"{max_corrupt:.1%} allows; the first: {examples}"
        )
    kept = manifest[manifest["status"] == KEPT]
    classes = sorted(kept["label"].unique())
    if len(classes) < MIN_CLASSES:
        raise DatasetError(f"the dataset has readable images of {len(classes)} class(es) {classes}; two are needed")
    train = kept[kept["split"] == TRAIN]
    if absent := sorted(set(classes) - set(train["label"])):
        raise DatasetError(f"class {absent[0]!r} has no image in the training split; add images or lower the hold-out")
    if len(train) == len(kept):
        raise DatasetError(f"none of the {len(kept)} images fell into the hold-out; add images or raise the hold-out")


def summarize(manifest: pd.DataFrame) -> dict[str, Any]:
    """Counts of the manifest, as they stand in the job's result."""
    kept = manifest[manifest["status"] == KEPT]
    counts = kept["label"].value_counts()
    return {
        "images": len(kept),
        "train_images": int((kept["split"] == TRAIN).sum()),
        "holdout_images": int((kept["split"] == HOLDOUT).sum()),
        "classes": sorted(counts.index),
        "class_images": {label: int(counts[label]) for label in sorted(counts.index)},
        "corrupt": int((manifest["status"] == CORRUPT).sum()),
        "duplicates": int((manifest["status"] == DUPLICATE).sum()),
    }


def warnings_about(manifest: pd.DataFrame, quarantine_uri: str) -> list[str]:
    """What a user must know about a dataset that can be trained on, in sentences; `quarantine_uri` lists the files."""
    kept = manifest[manifest["status"] == KEPT]
    found = []
    counts = kept["label"].value_counts()
    even = len(kept) / len(counts)
    few = counts[counts < SKEWED * even]
    if len(few):
        others = f", and {len(few) - 1} more classes are as rare" if len(few) > 1 else ""
        found.append(
            f"class {few.index[-1]!r} has {few.iloc[-1]} of {len(kept)} images ({few.iloc[-1] / len(kept):.1%}, where "
            f"an even share is {1 / len(counts):.1%}){others}: training.class_weights = balanced is worth a try"
        )
    held_out = kept[kept["split"] == HOLDOUT]["label"].value_counts().reindex(sorted(counts.index), fill_value=0)
    scarce = held_out[held_out < MIN_HOLDOUT]
    if len(scarce):
        listed = ", ".join(f"{label!r}: {count}" for label, count in scarce.head(EXAMPLES).items())
        found.append(
            f"the hold-out has fewer than {MIN_HOLDOUT} images of {len(scarce)} class(es) ({listed}): their accuracy "
            "says little; add images or raise dataset.holdout"
        )
    for status, said in ((CORRUPT, "are corrupt or contradict each other"), (DUPLICATE, "are exact duplicates")):
        if count := int((manifest["status"] == status).sum()):
            share = count / len(manifest)
            found.append(f"{count} of {len(manifest)} files ({share:.1%}) {said} and are left out: {quarantine_uri}")
    return found


def quarantine(manifest: pd.DataFrame) -> list[Mapping[str, str]]:
    """The files that were left out, each with its path, status and reason."""
    left_out = manifest[manifest["status"] != KEPT]
    return [{"path": row.path, "status": row.status, "reason": row.reason} for row in left_out.itertuples()]


def _outcomes(manifest: pd.DataFrame) -> list[tuple[str, str | None]]:
    """Status and reason of every file, in order."""
    readable = manifest[manifest["reason"].isna()]
    first: dict[str, str] = {}
    labels: dict[str, set[str]] = {}
    for path, label, sha256 in zip(readable["path"], readable["label"], readable["sha256"], strict=True):
        first.setdefault(sha256, path)
        labels.setdefault(sha256, set()).add(label)
    outcomes: list[tuple[str, str | None]] = []
    for path, sha256, reason in zip(manifest["path"], manifest["sha256"], manifest["reason"], strict=True):
        if not pd.isna(reason):
            outcomes.append((CORRUPT, reason))
        elif len(labels[sha256]) > 1:
            outcomes.append((CORRUPT, f"the same image lies in classes {', '.join(sorted(labels[sha256]))}"))
        elif first[sha256] != path:
            outcomes.append((DUPLICATE, f"same content as {first[sha256]}"))
        else:
            outcomes.append((KEPT, None))
    return outcomes


def _assign_splits(manifest: pd.DataFrame, holdout: float, shard_rows: int) -> None:
    splits: list[str | None] = [None] * len(manifest)
    shards = [-1] * len(manifest)
    # In order of hashes the classes are mixed, and stay so in every prefix that a run on a fraction takes.
    kept = manifest.loc[manifest["status"] == KEPT, "sha256"].sort_values()
    rows: dict[str, list[int]] = {TRAIN: [], HOLDOUT: []}
    for row, sha256 in kept.items():
        rows[split_of(sha256, holdout)].append(row)
    for split, members in rows.items():
        for number, row in enumerate(members):
            splits[row] = split
            shards[row] = shard_of(number, len(members), shard_rows)
    manifest["split"] = pd.Series(splits, dtype=object)
    manifest["shard"] = pd.Series(shards, dtype="int64")
