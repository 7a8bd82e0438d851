"""Checkpoints in the data lake: one file an epoch, written atomically; the newest is resumed from."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any

import torch

from spark_jobs import storage
from spark_jobs.exceptions import StorageError, TrainingError

NAME = re.compile(r"epoch-(\d{5})\.pt")
KEPT = 2


def write_checkpoint(checkpoint_uri: str, epoch: int, content: Mapping[str, Any]) -> None:
    """Write the state after `epoch` (from 1) and delete all but the newest two."""
    write_state(storage.join(checkpoint_uri, f"epoch-{epoch:05d}.pt"), content)
    for old in _epochs(checkpoint_uri)[:-KEPT]:
        storage.delete(storage.join(checkpoint_uri, f"epoch-{old:05d}.pt"))


def read_checkpoint(checkpoint_uri: str, plan: Mapping[str, Any]) -> dict[str, Any] | None:
    """The newest checkpoint, or None; raises TrainingError if another plan wrote it."""
    epochs = _epochs(checkpoint_uri)
    if not epochs:
        return None
    uri = storage.join(checkpoint_uri, f"epoch-{epochs[-1]:05d}.pt")
    content = read_state(uri)
    if content["plan"] != dict(plan):
        different = sorted(key for key in plan if content["plan"].get(key) != plan[key])
        raise TrainingError(
            f"{uri} was written with other values of {', '.join(different)}: start a new run, or use its values"
        )
    return content


def write_state(uri: str, content: Mapping[str, Any]) -> None:
    """Write tensors and plain data."""
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    storage.write_bytes(uri, buffer.getvalue())


def read_state(uri: str) -> dict[str, Any]:
    """Read tensors and plain data; nothing in the file is executed. Raises StorageError."""
    content: dict[str, Any] = torch.load(io.BytesIO(storage.read_bytes(uri)), map_location="cpu", weights_only=True)
    return content


def _epochs(checkpoint_uri: str) -> list[int]:
    try:
        files = storage.list_files(checkpoint_uri)
    except StorageError:
        # No epoch has ended yet.
        return []
    return sorted(int(match[1]) for file in files if (match := NAME.fullmatch(file.path)))
