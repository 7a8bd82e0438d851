"""The code that runs on the cluster, packed so that equal sources give equal bytes and one digest."""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ml_lifecycle.data_lake.client import DataLake
from ml_lifecycle.data_lake.layout import GPU_SCRIPT, JOB_ARCHIVE, join, storage_uri
from ml_lifecycle.exceptions import SettingsError
from ml_lifecycle.resources import resource

MAIN_FILES = ("ingest.py", "train.py", "evaluate.py", GPU_SCRIPT)
SERVING_FILES = ("serving/__init__.py", "serving/preprocessing.py")
_DIGEST = re.compile(r"[0-9a-f]{20}")
_EPOCH = (1980, 1, 1, 0, 0, 0)


class EnvironmentMissingError(SettingsError):
    """The packed Python environment that settings name is not there."""

    def __init__(self, environment: str) -> None:
        super().__init__(
            f"cluster.environment = {environment!r}: no such file; allowed are a .tar.gz on the machine that runs the "
            "task, a URI of one, or null for the image's own Python"
        )


class EnvironmentChangedError(SettingsError):
    """The packed Python environment is not the one that its name says."""

    def __init__(self, environment: str, found: str) -> None:
        super().__init__(
            f"cluster.environment = {environment!r}: its content has the digest {found}, so it was changed or its "
            "upload broke off; allowed is what its name says: upload it anew, or name the local file"
        )


@dataclass(frozen=True)
class JobCode:
    """The main files, and the archive with all modules they import."""

    files: Mapping[str, bytes]

    @cached_property
    def digest(self) -> str:
        """Changes with any byte of any file."""
        digest = hashlib.sha256()
        for name, content in sorted(self.files.items()):
            digest.update(f"{name}\0{len(content)}\0".encode())
            digest.update(content)
        return digest.hexdigest()[:20]


def pack_job_code() -> JobCode:
    """The job code of this installation."""
    jobs = resource("spark_jobs")
    modules = {f"spark_jobs/{file.relative_to(jobs).as_posix()}": file for file in jobs.rglob("*.py")}
    modules |= {name: resource(name) for name in SERVING_FILES}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, file in sorted(modules.items()):
            packed.writestr(zipfile.ZipInfo(name, _EPOCH), file.read_bytes(), zipfile.ZIP_DEFLATED)
    mains = {name: (jobs / name).read_bytes() for name in MAIN_FILES}
    return JobCode({**mains, JOB_ARCHIVE: archive.getvalue()})


def upload_job_code(lake: DataLake, code: JobCode) -> str:
    """Write the code to `jobs/<digest>/` unless it is there, which is read and compared; returns that folder's URI.

    What lies there runs with the rights of the cluster: other content under this digest is replaced.
    """
    uri = lake.layout.job_code(code.digest)
    for name in (*sorted(set(code.files) - {JOB_ARCHIVE}), JOB_ARCHIVE):
        lake.write_once(join(uri, name), io.BytesIO(code.files[name]))
    return uri


def check_environment(environment: str | None) -> None:
    """EnvironmentMissingError if settings name a local file that is not there."""
    if environment is not None and "://" not in environment and not Path(environment).is_file():
        raise EnvironmentMissingError(environment)


def upload_environment(lake: DataLake, environment: str | None) -> str | None:
    """URI of the packed Python environment: a local file is uploaded once, under its digest; a URI is kept.

    What lies under the digest already is read and compared. EnvironmentChangedError where a URI in the data lake names
    a digest that its content has not.
    """
    check_environment(environment)
    if environment is None:
        return None
    if "://" in environment:
        named = Path(environment).name.removesuffix(".tar.gz")
        if storage_uri(environment) == storage_uri(lake.layout.environment(named)) and _DIGEST.fullmatch(named):
            found = lake.sha256(environment)[: len(named)]
            if found != named:
                raise EnvironmentChangedError(environment, found)
        return environment
    with Path(environment).open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()[:20]
        content.seek(0)
        return lake.write_once(lake.layout.environment(digest), content)


def code_version() -> str | None:
    """The git commit of this installation: `GIT_COMMIT` in a bundle, the checkout's HEAD else; None if unknown."""
    root = resource("spark_jobs").parent
    if (written := root / "GIT_COMMIT").is_file():
        return written.read_text().strip()
    head = root / ".git" / "HEAD"
    if not head.is_file():
        return None
    name = head.read_text().strip().removeprefix("ref: ")
    if (reference := root / ".git" / name).is_file():
        return reference.read_text().strip()
    packed = root / ".git" / "packed-refs"
    lines = packed.read_text().splitlines() if packed.is_file() else []
    found = [line.split()[0] for line in lines if line.endswith(f" {name}")]
    return found[0] if found else (name if len(name) == hashlib.sha1(usedforsecurity=False).digest_size * 2 else None)
