"""Checkpoints in the data lake: one file for each point from which training can go on, written atomically."""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import torch

from spark_jobs import storage
from spark_jobs.exceptions import FileMissingError, TrainingError
from spark_jobs.job import say

# Complete epochs, and batches of the next one.
NAME = re.compile(r"epoch-(\d{5})-batch-(\d{7})\.pt")
KEPT = 2
CONTENT = {"plan", "model", "progress", "learner", "stopping", "best"}


class UnreadableStateError(TrainingError):
    """A file that should hold tensors and plain data does not."""


def write_checkpoint(checkpoint_uri: str, *, epoch: int, batch: int, content: Mapping[str, Any]) -> None:
    """Write the state after `epoch` complete epochs and `batch` batches; delete all but the newest two."""
    write_state(storage.join(checkpoint_uri, f"epoch-{epoch:05d}-batch-{batch:07d}.pt"), content)
    for old in names(checkpoint_uri)[KEPT:]:
        storage.delete(storage.join(checkpoint_uri, old))


def newest_checkpoint(checkpoint_uri: str, plan: Mapping[str, Any]) -> str | None:
    """The name of the newest checkpoint that can be read, or None where there is no checkpoint at all.

    Raises TrainingError if none can be read, or if another plan wrote it.
    """
    found = names(checkpoint_uri)
    for name in found:
        try:
            read_checkpoint(checkpoint_uri, name, plan)
        except UnreadableStateError as error:
            say(f"{error}; trying the one before")
        else:
            return name
    if found:
        raise TrainingError(f"no checkpoint in {checkpoint_uri} can be read: delete them to train from the beginning")
    return None


def read_checkpoint(checkpoint_uri: str, name: str, plan: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a checkpoint; raises TrainingError if another plan wrote it."""
    uri = storage.join(checkpoint_uri, name)
    content = read_state(uri)
    if not content.keys() >= CONTENT:
        raise UnreadableStateError(f"{uri} is no checkpoint of this job: {', '.join(CONTENT - content.keys())} missing")
    if content["plan"] != dict(plan):
        keys = sorted(plan.keys() | content["plan"].keys())
        different = [
            f"{key} ({content['plan'].get(key)!r} there, {plan.get(key)!r} here)"
            for key in keys
            if content["plan"].get(key) != plan.get(key)
        ]
        raise TrainingError(
            f"{uri} was written with other values of {', '.join(different)}: start a new run, or use its values"
        )
    return content


def names(checkpoint_uri: str) -> list[str]:
    """The names of the checkpoints in a folder, the newest first; none where there is no such folder yet.

    A storage that does not answer is an error: taken for "none", it would let a training begin anew.
    """
    try:
        files = storage.list_files(checkpoint_uri)
    except FileMissingError:
        return []
    return sorted((file.path for file in files if NAME.fullmatch(file.path)), reverse=True)


def write_state(uri: str, content: Mapping[str, Any]) -> None:
    """Write tensors and plain data."""
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    storage.write_bytes(uri, buffer.getvalue())


def read_state(uri: str) -> dict[str, Any]:
    """Read tensors and plain data; nothing in the file is executed.

    Raises FileMissingError if there is no such file, UnreadableStateError if it holds something else, or other bytes
    than were written: every record carries a checksum, which torch itself does not compare.
    """
    content = storage.read_bytes(uri)
    try:
        if damaged := zipfile.ZipFile(io.BytesIO(content)).testzip():
            raise UnreadableStateError(f"{uri} ({len(content)} bytes) is damaged: the checksum of {damaged} differs")
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, EOFError, OSError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        reason = str(error).partition("\n")[0]
        raise UnreadableStateError(f"{uri} ({len(content)} bytes) cannot be read: {reason}") from error
    if not isinstance(state, dict):
        raise UnreadableStateError(f"{uri} holds a {type(state).__name__}, not a state")
    return state
