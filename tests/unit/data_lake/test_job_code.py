from __future__ import annotations

import io
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ml_lifecycle.data_lake.client import DataLake
from ml_lifecycle.data_lake.job_code import (
    EnvironmentMissingError,
    code_version,
    pack_job_code,
    upload_environment,
    upload_job_code,
)


def test_equal_sources_give_equal_bytes() -> None:
    first, second = pack_job_code(), pack_job_code()

    assert first.files == second.files
    assert first.digest == second.digest
    assert re.fullmatch("[0-9a-f]{20}", first.digest)


def test_any_change_gives_another_digest() -> None:
    code = pack_job_code()
    changed = type(code)({**code.files, "train.py": code.files["train.py"] + b"\n"})

    assert changed.digest != code.digest


def test_the_archive_is_importable_without_the_checkout(tmp_path: Path) -> None:
    archive = tmp_path / "lifecycle_jobs.zip"
    archive.write_bytes(pack_job_code().files["lifecycle_jobs.zip"])
    probe = (
        "import sys; sys.path.insert(0, sys.argv[1]); import spark_jobs.specification, serving.preprocessing as p; "
        "print(p.__file__)"
    )

    said = subprocess.run(
        [sys.executable, "-I", "-c", probe, str(archive)], check=True, capture_output=True, text=True, cwd=tmp_path
    ).stdout

    assert said.startswith(str(archive))
    with zipfile.ZipFile(io.BytesIO(archive.read_bytes())) as packed:
        names = set(packed.namelist())
    assert {"spark_jobs/__init__.py", "spark_jobs/train.py", "serving/preprocessing.py"} <= names
    assert not [name for name in names if name.startswith("serving/") and "preprocessing" not in name][1:]


def test_the_code_is_uploaded_once_under_its_digest(tmp_path: Path) -> None:
    lake, code = DataLake(tmp_path.as_uri()), pack_job_code()
    uri = upload_job_code(lake, code)
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "jobs" / code.digest).iterdir()}

    assert uri == f"{tmp_path.as_uri()}/jobs/{code.digest}"
    assert upload_job_code(lake, code) == uri
    assert {file.name for file in times} == {
        "ingest.py",
        "train.py",
        "evaluate.py",
        "find_gpus.sh",
        "lifecycle_jobs.zip",
    }
    assert all(file.stat().st_mtime_ns == time for file, time in times.items())


def test_the_environment_is_uploaded_by_digest(tmp_path: Path) -> None:
    lake = DataLake((tmp_path / "lake").as_uri())
    archive = tmp_path / "environment.tar.gz"
    archive.write_bytes(b"packed python")

    uri = upload_environment(lake, str(archive))

    assert uri is not None
    assert re.search(r"/environments/[0-9a-f]{20}\.tar\.gz$", uri)
    assert lake.read_bytes(uri) == b"packed python"
    assert upload_environment(lake, None) is None
    assert upload_environment(lake, "s3://b/e.tar.gz") == "s3://b/e.tar.gz"
    with pytest.raises(EnvironmentMissingError, match=r"cluster.environment = '/nonexistent.tar.gz'.*allowed are"):
        upload_environment(lake, "/nonexistent.tar.gz")


def test_the_git_commit_is_known_in_a_checkout() -> None:
    assert re.fullmatch("[0-9a-f]{40}", code_version() or "")
