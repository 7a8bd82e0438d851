"""What is trained on the laptop: the digits, or an image folder of the user's own."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from local.dataset import write_digits
from local.stack.exceptions import StackError

# What the settings take for the name of a data set.
LONGEST_NAME = 63


@dataclass(frozen=True)
class Subject:
    """A registered model's name, its data set's name in the data lake, and the folder."""

    model: str
    dataset: str
    folder: Path


def provide(data_lake: Path, source: Path | None) -> Subject:
    """Bring the folder into the data lake as `datasets/<name>`; without one, write the digits.

    StackError where `source` is no folder.
    """
    if source is None:
        folder = data_lake / "datasets" / "digits"
        if folder.is_symlink():
            folder.unlink()  # a folder of the user's, in which nothing is written
        write_digits(folder)
        return Subject("digits", "digits", folder)
    if not source.is_dir():
        raise StackError(f"DATASET={source} is no folder: give a folder of images by class, <class>/<file>.png or .jpg")
    name = re.sub(r"[^-_.A-Za-z0-9]+", "-", source.resolve().name)[:LONGEST_NAME].strip("-._") or "images"
    folder = data_lake / "datasets" / name
    if folder.resolve() == source.resolve():
        return Subject(model_name(name), name, folder)
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)
    folder.unlink(missing_ok=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # One link to the whole: the folder is only read, and links in it lead where they led.
    folder.symlink_to(source.resolve(), target_is_directory=True)
    return Subject(model_name(name), name, folder)


def model_name(dataset: str) -> str:
    """A name that Kubernetes and Yandex take: lower-case letters, digits and hyphens, at most 40."""
    name = re.sub(r"[^-a-z0-9]+", "-", dataset.lower()).strip("-")
    return (name if name[:1].isalpha() else f"model-{name}")[:40].strip("-")
