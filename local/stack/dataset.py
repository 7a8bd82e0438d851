"""What is trained on the laptop: the digits, or an image folder of the user's own."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from local.dataset import write_digits
from local.stack.exceptions import StackError


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
        write_digits(folder)
        return Subject("digits", "digits", folder)
    if not source.is_dir():
        raise StackError(f"DATASET={source} is no folder: give a folder of images by class, <class>/<file>.png or .jpg")
    name = re.sub(r"[^-_.A-Za-z0-9]+", "-", source.resolve().name).strip("-._") or "images"
    folder = data_lake / "datasets" / name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder, copy_function=_link)
    return Subject(model_name(name), name, folder)


def model_name(dataset: str) -> str:
    """A name that Kubernetes and Yandex take: lower-case letters, digits and hyphens, at most 40."""
    name = re.sub(r"[^-a-z0-9]+", "-", dataset.lower()).strip("-")
    return (name if name[:1].isalpha() else f"model-{name}")[:40].strip("-")


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)
    return target
