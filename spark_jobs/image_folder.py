"""What belongs to a folder of images, `<class>/…/<file>`, as far as names tell. Pure.

One text in two places, `spark_jobs/` and `plugins/ml_lifecycle/data_lake/`, because neither may import the other: what
is checked before a cluster exists is what ingest does. A test compares the two.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

# What archives, file managers and people leave beside images; by the end of the name, in lower case.
SIDE_SUFFIXES = (
    *(".cfg", ".crc", ".csv", ".db", ".doc", ".docx", ".htm", ".html", ".ini", ".ipynb", ".json", ".jsonl", ".lnk"),
    *(".log", ".md", ".md5", ".ods", ".pdf", ".py", ".rst", ".sha1", ".sha256", ".tsv", ".txt", ".url", ".xls"),
    *(".xlsx", ".xml", ".yaml", ".yml"),
)
SIDE_NAMES = {"readme", "license", "licence", "copying", "changelog", "manifest", "icon\r", "_success"}
# What a zip made on a Mac brings beside the images.
SIDE_FOLDERS = {"__MACOSX"}
SPLITS = {"train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval", "holdout"}


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden; those that begin with `_` are not: cameras write them."""
    return name.startswith(".") or name in SIDE_FOLDERS


def side_file(path: str) -> str | None:
    """Why a file at `path`, relative to the folder, is not meant as an image; None if it may be one."""
    parts = path.split("/")
    if hidden := next((part for part in parts if is_hidden(part)), None):
        return f"hidden: {hidden}"
    name = parts[-1].lower()
    if name in SIDE_NAMES or name.endswith(SIDE_SUFFIXES):
        return "by its name no image"
    return None


def class_of(path: str) -> str:
    """The class of a file at `path`: the first folder's name, or "" where that is none.

    Composed (NFC) and without blanks around it, so that names that look alike are one class, whatever packed them.
    """
    folder, separator, _ = path.partition("/")
    return unicodedata.normalize("NFC", folder).strip() if separator and not is_hidden(folder) else ""


def are_splits(classes: Iterable[str]) -> bool:
    """Whether the folders look like parts of a dataset that somebody has split, and not like classes."""
    return all(name.lower() in SPLITS for name in classes)
