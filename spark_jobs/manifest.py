"""The manifest of a dataset: one row for every file, what became of it and why. Pure, on pandas.

Columns: `path` (relative), `label` (class), `sha256`, `size` (bytes), `width`, `height` (pixels, of
a large JPEG those of the smaller scale at which it is decoded), `reason`, `damage` (what a strict decoder says against
a file that is used all the same), `status`, `split`, `shard`; the last two are None and -1 for files that are not kept.
A file that was not read has no `sha256`. What lies beside images by custom (`side_file`) is `ignored`: it is listed,
and counts neither as a file of the dataset nor as corrupt.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import pandera.pandas as pa

from spark_jobs.exceptions import DatasetError
from spark_jobs.image_folder import side_file
from spark_jobs.splits import HOLDOUT, TRAIN, shard_of, split_of

KEPT = "kept"
DUPLICATE = "duplicate"
CORRUPT = "corrupt"
IGNORED = "ignored"
MIN_CLASSES = 2
EXAMPLES = 5
# A class with less than this share of what an even division would give it is rare.
SKEWED = 1 / 3
MIN_HOLDOUT = 10

SCHEMA = pa.DataFrameSchema(
    {
        "path": pa.Column(str, unique=True),
        "label": pa.Column(str),
        "sha256": pa.Column(str, pa.Check.str_matches(r"^([0-9a-f]{64})?$")),
        "size": pa.Column("int64", pa.Check.ge(0)),
        "width": pa.Column("int64", pa.Check.ge(0)),
        "height": pa.Column("int64", pa.Check.ge(0)),
        "status": pa.Column(str, pa.Check.isin([KEPT, DUPLICATE, CORRUPT, IGNORED])),
        "reason": pa.Column(str, nullable=True),
        "damage": pa.Column(str, nullable=True),
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
    """The manifest of `files` (path, label, sha256, size, width, height, reason: None if readable, damage).

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
    """Refuse too many corrupt files, a class without images, one class only, or an empty split; DatasetError."""
    corrupt, files = manifest[manifest["status"] == CORRUPT], int((manifest["status"] != IGNORED).sum())
    share = len(corrupt) / max(1, files)
    if share > max_corrupt:
        raise DatasetError(
            f"{len(corrupt)} of {files} files ({share:.1%}) are corrupt, more than dataset.max_corrupt = "
            f"{max_corrupt:.1%} allows; the first: {_examples(corrupt)}"
        )
    kept = manifest[manifest["status"] == KEPT]
    classes = sorted(kept["label"].unique())
    if len(classes) < MIN_CLASSES:
        raise DatasetError(f"the dataset has readable images of {len(classes)} class(es) {classes}; two are needed")
    if lost := sorted(set(manifest["label"]) - set(classes) - {""}):
        theirs = manifest[manifest["label"] == lost[0]]
        raise DatasetError(
            f"class {lost[0]!r} has no image left of {len(theirs)} files ({_examples(theirs)}); add images, or remove "
            f"the folder{f', and those of {len(lost) - 1} more classes' if len(lost) > 1 else ''}"
        )
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
        "ignored": int((manifest["status"] == IGNORED).sum()),
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
    files = int((manifest["status"] != IGNORED).sum())
    for status, what in ((CORRUPT, "are corrupt or contradict each other"), (DUPLICATE, "are exact duplicates")):
        if count := int((manifest["status"] == status).sum()):
            found.append(f"{count} of {files} files ({count / files:.1%}) {what} and are left out: {quarantine_uri}")
    damaged = kept[kept["damage"].notna()]
    if len(damaged):
        first = "; ".join(f"{row.path}: {row.damage}" for row in damaged.head(EXAMPLES).itertuples())
        found.append(f"{len(damaged)} images are damaged and used as far as they can be read; the first: {first}")
    return [*found, *_alike(kept)]


def _alike(kept: pd.DataFrame) -> list[str]:
    """Sentences about folders that are one class, and about classes that may be meant as one."""
    folders = kept["path"].str.partition("/")[0].groupby(kept["label"]).unique()
    found = [
        f"the folders {', '.join(map(ascii, sorted(names)))} are one class, {label!r}: their names differ in what is "
        "not seen"
        for label, names in folders.items()
        if len(names) > 1
    ]
    spellings: dict[str, list[str]] = {}
    for label in folders.index:
        spellings.setdefault(unicodedata.normalize("NFKC", label).casefold(), []).append(label)
    return found + [
        f"the classes {', '.join(map(repr, names))} are told apart by their letters' case or form alone: are they one?"
        for names in spellings.values()
        if len(names) > 1
    ]


def quarantine(manifest: pd.DataFrame) -> list[Mapping[str, str]]:
    """The files that were left out, each with its path, status and reason."""
    left_out = manifest[manifest["status"] != KEPT]
    return [{"path": row.path, "status": row.status, "reason": row.reason} for row in left_out.itertuples()]


def said(left_out: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """Those of `quarantine` that are worth a line in the log."""
    return [file for file in left_out if file["status"] != IGNORED]


def _examples(files: pd.DataFrame) -> str:
    return "; ".join(f"{row.path}: {row.reason}" for row in files.head(EXAMPLES).itertuples())


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
        if side_file(path):
            outcomes.append((IGNORED, reason))
        elif not pd.isna(reason):
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
