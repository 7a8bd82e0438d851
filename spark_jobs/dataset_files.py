"""Every file of a dataset by its listing, with the reason why one cannot be read; nothing is opened here."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pyarrow import fs

from spark_jobs import storage
from spark_jobs.exceptions import StorageError
from spark_jobs.image_folder import class_of, side_file
from spark_jobs.splits import SHARD_BYTES

# A file lies in memory whole, several times while it is decoded; none may be larger than a shard of many.
MAX_FILE_BYTES = SHARD_BYTES
NO_CLASS = "lies in no class folder"
# A folder of small files in a few tasks rather than in hundreds; large ones in so many that cores end together.
OPEN_BYTES = 64 * 1024
TASK_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class DatasetFile:
    """A file by its path relative to the dataset, its bytes, and its time of change in nanoseconds.

    `reason` says why it is not read; None if it is.
    """

    path: str
    size: int
    changed: int
    reason: str | None = None


def list_dataset(uri: str) -> list[DatasetFile]:
    """Every file below the folder, by path; links are followed. Raises StorageError if it cannot be listed whole."""
    filesystem, root = storage.locate(uri)
    if isinstance(filesystem, fs.LocalFileSystem):
        found = list(_walk(root.encode(), b"", frozenset()))
    else:
        found = [DatasetFile(file.path, file.size, file.changed) for file in storage.list_files(uri)]
    return sorted((_judged(file) for file in found), key=lambda file: file.path)


def divide(files: Sequence[DatasetFile], processes: int) -> list[list[str]]:
    """The paths of the files to read, in tasks of about as many bytes; large files come first: tasks end together.

    `processes` is how many tasks run at once.
    """
    costs = sorted(((file.size + OPEN_BYTES, file.path) for file in files), reverse=True)
    most = min(TASK_BYTES, -(-sum(cost for cost, _ in costs) // max(1, processes)))
    tasks: list[list[str]] = []
    filled = most
    for cost, path in costs:
        if filled + cost > most:
            tasks.append([])
            filled = 0
        tasks[-1].append(path)
        filled += cost
    return tasks


def _judged(file: DatasetFile) -> DatasetFile:
    reason = side_file(file.path) or file.reason or _unread(file)
    return DatasetFile(file.path, file.size, file.changed, reason)


def _unread(file: DatasetFile) -> str | None:
    if not class_of(file.path):
        return NO_CLASS
    if not all(part not in ("", ".", "..") for part in file.path.split("/")):
        return "a part of its path is empty or only dots"
    if not file.size:
        return "the file is empty"
    if file.size > MAX_FILE_BYTES:
        return f"too large to be read: {file.size} bytes, of {MAX_FILE_BYTES} that are allowed"
    return None


def _walk(folder: bytes, prefix: bytes, above: frozenset[tuple[int, int]]) -> Iterator[DatasetFile]:
    """The files below a local folder. `above` are the folders that it lies in, as device and inode."""
    try:
        state = os.stat(folder)  # noqa: PTH116
        entries = list(os.scandir(folder))
    except OSError as error:
        raise StorageError(_explained(folder, error)) from error
    above |= {(state.st_dev, state.st_ino)}
    for entry in entries:
        path = prefix + entry.name
        try:
            state = entry.stat()
        except OSError as error:
            nowhere = isinstance(error, FileNotFoundError) or error.errno == errno.ELOOP
            yield _left_out(path, "a link that leads nowhere" if nowhere else f"cannot be seen: {error.strerror}")
            continue
        if stat.S_ISDIR(state.st_mode):
            if (state.st_dev, state.st_ino) in above:
                yield _left_out(path, "a link to a folder that it lies in")
            else:
                yield from _walk(os.path.join(folder, entry.name), path + b"/", above)  # noqa: PTH118
        elif stat.S_ISREG(state.st_mode):
            yield _file(path, state)
        else:
            yield _left_out(path, "no file, but a device, a pipe or a socket")


def _file(path: bytes, state: os.stat_result) -> DatasetFile:
    try:
        return DatasetFile(path.decode(), state.st_size, state.st_mtime_ns)
    except UnicodeDecodeError:
        return _left_out(path, "its name is no UTF-8: rename it")


def _left_out(path: bytes, reason: str) -> DatasetFile:
    return DatasetFile(path.decode(errors="backslashreplace"), 0, 0, reason)


def _explained(folder: bytes, error: OSError) -> str:
    uri = f"file://{folder.decode(errors='backslashreplace')}"
    return f"{uri} does not exist" if isinstance(error, FileNotFoundError) else f"{uri}: {error.strerror}"
