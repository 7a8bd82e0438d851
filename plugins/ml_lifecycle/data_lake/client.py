"""Reads and writes the data lake through Airflow's object storage; works the same on s3:// and file:///."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_lifecycle.data_lake.exceptions import (
    BrokenJsonError,
    DataLakeConnectionError,
    DataLakeUnreachableError,
    DatasetError,
    ObjectMissingError,
    OutsideDataLakeError,
    ServingFilesDifferError,
    WriteMismatchError,
)
from ml_lifecycle.data_lake.image_folder import are_splits, class_of, is_hidden, side_file
from ml_lifecycle.data_lake.layout import CHECKSUMS, Layout, join, storage_uri
from ml_lifecycle.data_lake.writing import write_whole

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

log = logging.getLogger(__name__)

ENOUGH_CLASSES = 2


class DataLake:
    """The data lake at `base_uri`; `connection_id` (type aws) is used for s3:// alone.

    Every method takes full URIs, `s3a://` too, or paths below the base; OutsideDataLakeError where it lies elsewhere.
    """

    def __init__(self, base_uri: str, connection_id: str | None = None) -> None:
        self.layout = Layout(base_uri)
        self._connection_id = connection_id

    def exists(self, uri: str) -> bool:
        """Whether a file or folder lies there."""
        with self._reaching(uri):
            return bool(self._path(uri).exists())

    def read_bytes(self, uri: str) -> bytes:
        """The file's content; ObjectMissingError where there is none."""
        with self._reaching(uri):
            return bytes(self._path(uri).read_bytes())

    def read_json(self, uri: str) -> dict[str, Any]:
        """The JSON object of a file; ObjectMissingError, BrokenJsonError."""
        try:
            document = json.loads(self.read_bytes(uri))
        except ValueError as error:
            raise BrokenJsonError(uri, error) from error
        if not isinstance(document, dict):
            raise BrokenJsonError(uri, TypeError(f"found a {type(document).__name__}"))
        return document

    def write_bytes(self, uri: str, content: bytes) -> str:
        """Write a whole file atomically; returns its URI."""
        return self._write(uri, io.BytesIO(content))

    def remove(self, uri: str) -> None:
        """Delete a file; absent is success."""
        with self._reaching(uri):
            self._path(uri).unlink(missing_ok=True)

    def write_once(self, uri: str, content: io.BufferedIOBase) -> str:
        """Write a file, of any size, unless the same content lies there already; returns its URI."""
        return self._absolute(uri) if self._holds(uri, content) else self._write(uri, content)

    def list_classes(self, dataset: str) -> dict[str, bool]:
        """The classes of a data set, and whether each holds what may be an image, at any depth and by its name.

        Ingest looks at the same files by the same rule, and decides. DatasetError if the data set cannot be read.
        """
        uri = self.layout.dataset(dataset)
        try:
            with self._reaching(uri):
                classes: dict[str, bool] = {}
                for name in self._list(uri):
                    if label := class_of(f"{_shown(name)}/"):
                        classes[label] = classes.get(label, False) or self._holds_image(join(uri, name), name)
                return dict(sorted(classes.items()))
        except ObjectMissingError as error:
            known = ", ".join(self._datasets()) or "none"
            raise DatasetError(
                f"dataset.name = {dataset!r}: there is no folder {uri}; the data sets there are: {known}"
            ) from error
        except NotADirectoryError as error:
            raise DatasetError(
                f"dataset.name = {dataset!r}: {uri} is a file; allowed is a folder of images, <class>/<file>.png|jpg"
            ) from error

    def check_dataset(self, dataset: str) -> list[str]:
        """The names of its classes; DatasetError unless there are two at least, each with an image."""
        classes = self.list_classes(dataset)
        where = f"dataset.name = {dataset!r} ({self.layout.dataset(dataset)})"
        allowed = "allowed is a folder of images, <class>/<file>.png|jpg, of two classes at least"
        if not classes:
            raise DatasetError(f"{where}: the folder is empty; {allowed}")
        if empty := [name for name, filled in classes.items() if not filled]:
            raise DatasetError(f"{where}: no image in class {', '.join(empty)}; {allowed}, each with an image")
        if are_splits(classes):
            raise DatasetError(
                f"{where}: {', '.join(classes)} look like parts of a split, not like classes; put the class folders "
                "themselves there: dataset.holdout chooses what is held out"
            )
        if len(classes) < ENOUGH_CLASSES:
            raise DatasetError(f"{where}: only the class {next(iter(classes))!r}; {allowed}")
        return list(classes)

    def write_serving_files(self, model: str, version: str, files: Mapping[str, bytes]) -> str:
        """Publish a version's serving files; returns their folder's URI.

        Equal content may be published again; other content under the same version is refused
        (ServingFilesDifferError). Every file is read back and compared; `checksums.json` comes last, so a folder
        without it is an interrupted publication and is written anew.
        """
        uri = self.layout.serving_files(model, version)
        checksums = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
        marker = join(uri, CHECKSUMS)
        if self.exists(marker):
            published = self.read_json(marker)
            if published != checksums:
                names = sorted(name for name, _ in published.items() ^ checksums.items())
                raise ServingFilesDifferError(uri, list(dict.fromkeys(names)))
            self.verify_serving_files(uri, checksums)
            return uri
        for name, content in files.items():
            self.write_bytes(join(uri, name), content)
        self.verify_serving_files(uri, checksums)
        self.write_bytes(marker, json.dumps(checksums, indent=1).encode())
        return uri

    def verify_serving_files(self, uri: str, checksums: Mapping[str, str] | None = None) -> None:
        """WriteMismatchError unless the files at `uri` have the checksums given, or those published with them."""
        for name, checksum in (checksums or self.read_json(join(uri, CHECKSUMS))).items():
            if self.sha256(join(uri, name)) != checksum:
                raise WriteMismatchError(join(uri, name))

    def sha256(self, uri: str) -> str:
        """The hex digest of a file of any size; ObjectMissingError where there is none."""
        digest = hashlib.sha256()
        with self._reaching(uri), self._path(uri).open("rb") as source:
            while block := source.read(8 * 1024 * 1024):
                digest.update(block)
        return digest.hexdigest()

    def list_files(self, uri: str) -> list[str]:
        """All files below a folder, by their paths from there; hidden ones, as unfinished writes are, left out."""
        with self._reaching(uri):
            path = self._path(uri)
            found = path.fs.find(path.path)
        below = [str(name).removeprefix(path.path.rstrip("/")).lstrip("/") for name in found]
        return sorted(name for name in below if not name.rpartition("/")[2].startswith("."))

    def _datasets(self) -> list[str]:
        try:
            with self._reaching(self.layout.datasets):
                return sorted(name for name in self._list(self.layout.datasets) if not is_hidden(name))
        except ObjectMissingError:
            return []

    def _list(self, uri: str) -> list[str]:
        """The names of the folders in a folder."""
        return [name for name, size in self._entries(uri) if size is None]

    def _holds_image(self, uri: str, path: str) -> bool:
        """Whether a file below the folder may be an image; `path` is the folder's in the data set."""
        if _shown(path) != path:
            return False  # jobs cannot read what has no name in UTF-8
        entries = self._entries(uri)
        if any(size and not side_file(f"{path}/{name}") for name, size in entries):
            return True
        folders = [name for name, size in entries if size is None and not is_hidden(name)]
        return any(self._holds_image(join(uri, name), f"{path}/{name}") for name in folders)

    def _entries(self, uri: str) -> list[tuple[str, int | None]]:
        """Name and bytes of what lies in a folder, None for folders; links are followed, but not in circles."""
        path = self._path(uri)
        if path.protocol in ("file", ""):
            return list(_local_entries(Path(path.path)))
        entries = path.fs.ls(path.path, detail=True)
        found = [(entry["name"].rstrip("/").rsplit("/", 1)[-1], entry) for entry in entries]
        return [(name, None if entry["type"] == "directory" else entry["size"] or 0) for name, entry in found if name]

    def _write(self, uri: str, source: io.BufferedIOBase) -> str:
        with self._reaching(uri):
            path = self._path(uri)
            written = write_whole(path.fs, path.path, source)
            path.fs.invalidate_cache()
            if path.fs.info(path.path)["size"] != written:
                path.unlink()
                raise WriteMismatchError(uri)
        return self._absolute(uri)

    def _holds(self, uri: str, content: io.BufferedIOBase) -> bool:
        """Whether exactly this content lies there; what else does is an interrupted upload, or somebody else's."""
        digest = hashlib.file_digest(content, "sha256").hexdigest()
        size = content.seek(0, io.SEEK_END)
        content.seek(0)
        try:
            with self._reaching(uri):
                path = self._path(uri)
                path.fs.invalidate_cache()
                same = path.fs.info(path.path)["size"] == size
            if same and self.sha256(uri) == digest:
                return True
        except ObjectMissingError:
            return False
        log.warning("%s holds other content than it was written with: it is written anew", uri)
        return False

    def _absolute(self, uri: str) -> str:
        base = storage_uri(self.layout.base_uri)
        absolute = storage_uri(uri) if "://" in uri else join(base, uri)
        inside = absolute == base or absolute.startswith(join(base, ""))
        if not (inside and base.startswith(("s3://", "file:///")) and ".." not in absolute.split("/")):
            raise OutsideDataLakeError(uri, base)
        return absolute

    def _path(self, uri: str) -> ObjectStoragePath:
        from airflow.sdk import ObjectStoragePath

        absolute = self._absolute(uri)
        if not absolute.startswith("s3://"):
            return ObjectStoragePath(absolute)
        self._require_connection()
        return ObjectStoragePath(absolute, conn_id=self._connection_id)

    def _require_connection(self) -> None:
        """Airflow takes the machine's own credentials where there is no connection of this id."""
        from airflow.providers.common.compat.sdk import AirflowNotFoundException
        from airflow.sdk import BaseHook

        if self._connection_id is None:
            return
        try:
            BaseHook.get_connection(self._connection_id)
        except AirflowNotFoundException as error:
            raise DataLakeConnectionError(self._connection_id) from error

    @contextmanager
    def _reaching(self, uri: str) -> Iterator[None]:
        from airflow.sdk.exceptions import AirflowRuntimeError
        from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

        try:
            yield
        except FileNotFoundError as error:
            raise ObjectMissingError(uri) from error
        except NotADirectoryError:
            raise
        except (OSError, BotoCoreError, ClientError, AirflowRuntimeError) as error:
            raise DataLakeUnreachableError(uri, self._connection_id, error) from error


def _local_entries(folder: Path) -> Iterator[tuple[str, int | None]]:
    for entry in os.scandir(folder):
        if entry.is_dir():
            if not folder.resolve().is_relative_to(Path(entry.path).resolve()):
                yield entry.name, None
        elif entry.is_file():
            yield entry.name, entry.stat().st_size


def _shown(name: str) -> str:
    """A name as it can be printed: bytes that are no UTF-8 are written out, as ingest writes them."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")
