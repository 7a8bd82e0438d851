"""Files of the data lake, on `file://` and `s3://` (`s3a://`) alike, through pyarrow.

S3 is addressed with the usual AWS environment variables, which the Lockbox secret brings. What passes (503 SlowDown,
5xx, a connection that breaks) is tried again for minutes. What stays is one of two: FileMissingError, where the storage
said that there is nothing, or StorageUnreachableError, where it said nothing that counts.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pyarrow import ArrowInvalid, fs

from spark_jobs.exceptions import FileMissingError, StorageError, StorageUnreachableError

# Waits double from 25 ms, so they last for minutes. AWS' standard strategy would stop after some hundred retries in
# the life of a process.
RETRIES = 14


@dataclass(frozen=True)
class ListedFile:
    """One file below a folder: its path relative to the folder, bytes, and time of change in nanoseconds."""

    path: str
    size: int
    changed: int


def join(uri: str, *parts: str) -> str:
    """`uri` with path parts appended."""
    return "/".join([uri.rstrip("/"), *parts])


def locate(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system of `uri` and the path in it; raises StorageError for a scheme that is not known.

    A URI of the data lake is plain text, as Airflow and KServe read it: nothing in it is decoded, and `#`, `?` and `%`
    are characters of a file's name.
    """
    scheme, separator, path = uri.partition("://")
    if separator and scheme == "file" and path.startswith("/"):
        return fs.LocalFileSystem(), path
    if separator and scheme in ("s3", "s3a"):
        return _s3(), path
    raise StorageError(f"{uri!r}: only file:///… and s3://bucket/… are known")


def list_files(folder_uri: str) -> list[ListedFile]:
    """All files below the folder, by path; raises FileMissingError if there is no such folder."""
    filesystem, root = locate(folder_uri)
    selector = fs.FileSelector(root, recursive=True)
    with _explained(folder_uri):
        entries = filesystem.get_file_info(selector)
    start = len(root.rstrip("/")) + 1
    files = [
        ListedFile(entry.path[start:], entry.size, entry.mtime_ns or 0)
        for entry in entries
        if entry.type == fs.FileType.File
    ]
    return sorted(files, key=lambda file: file.path)


def exists(uri: str) -> bool:
    """Whether there is a file of this name."""
    filesystem, path = locate(uri)
    with _explained(uri):
        return bool(filesystem.get_file_info(path).type == fs.FileType.File)


def read_bytes(uri: str, *, most: int | None = None) -> bytes:
    """The whole content of a file; raises FileMissingError, or StorageError if it has more than `most` bytes."""
    with open_file(uri) as stream:
        if most is not None and stream.size() > most:
            raise StorageError(f"{uri} has {stream.size()} bytes, more than {most}")
        return bytes(stream.read())


@contextlib.contextmanager
def open_file(uri: str) -> Iterator[Any]:
    """The file, for reading in any order; raises FileMissingError if it is not there, StorageError if it breaks off."""
    filesystem, path = locate(uri)
    if isinstance(filesystem, fs.LocalFileSystem):
        filesystem = fs.LocalFileSystem(use_mmap=True)
    with _explained(uri), filesystem.open_input_file(path) as stream:
        yield stream


def write_bytes(uri: str, content: bytes) -> None:
    """Write a file so that readers see either nothing, or what was there before, or all of it."""
    filesystem, path = locate(uri)
    folder, _, name = path.rpartition("/")
    # A stream that is closed after an error publishes what it has (apache/arrow#40502): so never under the file's name.
    draft = f"{folder}/.{name}.{uuid.uuid4().hex}"
    with _explained(uri):
        try:
            if isinstance(filesystem, fs.LocalFileSystem):
                Path(folder).mkdir(parents=True, exist_ok=True)
            with filesystem.open_output_stream(draft) as stream:
                stream.write(content)
            _require_size(uri, filesystem.get_file_info(draft).size, len(content))
            filesystem.move(draft, path)
        except BaseException:
            with contextlib.suppress(OSError):
                filesystem.delete_file(draft)
            raise


def read_json(uri: str) -> Any:
    """The JSON in a file; raises FileMissingError if it is not there, StorageError if it is no JSON."""
    try:
        return json.loads(read_bytes(uri))
    except ValueError as error:
        raise StorageError(f"{uri} holds no JSON: {error}") from error


def write_json(uri: str, document: Any) -> None:
    """Write JSON, atomically."""
    write_bytes(uri, json.dumps(document, indent=2, sort_keys=True).encode())


def delete(uri: str) -> None:
    """Delete a file if it is there."""
    filesystem, path = locate(uri)
    if exists(uri):
        with _explained(uri):
            filesystem.delete_file(path)


def _require_size(uri: str, size: int | None, expected: int) -> None:
    if size != expected:
        raise StorageError(f"{uri}: {size} of {expected} bytes were written; nothing was changed there")


@functools.cache
def _s3() -> fs.FileSystem:
    environment = os.environ
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    options: dict[str, Any] = {"region": region} if region else {}
    if endpoint:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/") or parts.query:
            raise StorageError(
                f"AWS_ENDPOINT_URL = {endpoint!r} is no address of an S3 server: it must be "
                "https://host or http://host:port, without a path"
            )
        options |= {"endpoint_override": parts.netloc, "scheme": parts.scheme}
    return fs.S3FileSystem(**options, retry_strategy=fs.AwsDefaultS3RetryStrategy(max_attempts=RETRIES))


@contextlib.contextmanager
def _explained(uri: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise FileMissingError(f"{uri} does not exist") from error
    except OSError as error:
        raise StorageUnreachableError(f"{uri}: {error}") from error
    except ArrowInvalid as error:
        raise StorageError(f"{uri}: {error}") from error
