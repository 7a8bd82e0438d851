"""Writes one file whole or not at all, on S3 and on a disk alike: interrupted, it leaves what was there before."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

BLOCK = 8 * 1024 * 1024


def write_whole(filesystem: Any, path: str, source: io.BufferedIOBase) -> int:
    """Copy `source` to `path` of an fsspec file system; returns the bytes that were written.

    Closing a file of fsspec publishes what has come so far, after an error too (fsspec/s3fs#154): so it is told to
    wait, and published when all has come, or given up. Whatever interrupts it is raised.
    """
    if "file" in filesystem.protocol:
        return _write_local(Path(path), source)
    target = filesystem.open(path, "wb", autocommit=False)
    try:
        shutil.copyfileobj(source, target, BLOCK)
        size = int(target.tell())
        target.close()
    except BaseException:
        target.closed = True  # nothing is sent when the object is collected
        # An upload that cannot be given up either stays unseen: rules of the bucket remove it in time.
        with contextlib.suppress(Exception):
            target.discard()
        raise
    target.commit()
    return size


def _write_local(file: Path, source: io.BufferedIOBase) -> int:
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    try:
        with draft.open("wb") as target:
            shutil.copyfileobj(source, target, BLOCK)
            target.flush()
            os.fsync(target.fileno())
            size = target.tell()
        draft.replace(file)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return size
