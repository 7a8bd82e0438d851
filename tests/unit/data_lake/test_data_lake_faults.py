"""The data lake on an S3 that breaks off, throttles, refuses; with writers that are interrupted; on a full disk."""

from __future__ import annotations

import errno
import io
import json
from pathlib import Path

import pytest

from ml_lifecycle.data_lake import writing
from ml_lifecycle.data_lake.client import DataLake
from ml_lifecycle.data_lake.exceptions import DataLakeConnectionError, DataLakeUnreachableError, ObjectMissingError
from ml_lifecycle.data_lake.job_code import EnvironmentChangedError, JobCode, upload_environment, upload_job_code
from tests.object_storage import ObjectStorage

MEGABYTE = 1024 * 1024


class Interrupted(BaseException):
    """As AirflowTaskTimeout and KeyboardInterrupt are: no Exception."""


class Source(io.BytesIO):
    """Gives 20 of its 40 megabytes, then raises."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(b"x" * 40 * MEGABYTE)
        self._error = error

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() >= 20 * MEGABYTE:
            raise self._error
        return super().read(min(size or -1, 4 * MEGABYTE))


@pytest.fixture
def s3(monkeypatch):
    with ObjectStorage() as server:
        extra = {"endpoint_url": server.endpoint, "region_name": "ru-central1"}
        document = {"conn_type": "aws", "login": "key", "password": "secret", "extra": extra}
        monkeypatch.setenv(f"AIRFLOW_CONN_{connection_of(server).upper()}", json.dumps(document))
        yield server


def connection_of(server: ObjectStorage) -> str:
    """One id for each server: Airflow keeps file systems by the id of their connection."""
    return f"aws_{server.endpoint.rpartition(':')[2]}"


@pytest.fixture
def lake(s3) -> DataLake:
    return DataLake("s3://bucket/lake", connection_of(s3))


def test_files_are_written_and_read_on_s3(lake, s3):
    uri = lake.write_bytes("runs/k/train.json", b'{"a": 1}')
    large = lake.write_once("environments/e.tar.gz", io.BytesIO(b"x" * 20 * MEGABYTE))
    assert lake.read_json(uri) == {"a": 1}
    assert s3.objects["lake/environments/e.tar.gz"] == b"x" * 20 * MEGABYTE
    assert lake.exists(large)
    assert lake.write_bytes("empty", b"") == "s3://bucket/lake/empty"
    assert s3.objects["lake/empty"] == b""
    assert s3.uploads == {}


@pytest.mark.parametrize("error", [OSError("gone"), Interrupted(), KeyboardInterrupt()])
def test_an_interrupted_upload_leaves_nothing_under_its_name(lake, s3, error):
    with pytest.raises((DataLakeUnreachableError, Interrupted, KeyboardInterrupt)):
        lake._write("environments/e.tar.gz", Source(error))
    assert s3.objects == {}
    assert s3.uploads == {}


@pytest.mark.parametrize("error", [OSError("gone"), Interrupted()])
def test_an_interrupted_write_to_a_disk_leaves_what_was_there(tmp_path, error):
    lake = DataLake(f"file://{tmp_path}")
    lake.write_bytes("x", b"old")
    with pytest.raises((DataLakeUnreachableError, Interrupted)):
        lake._write("x", Source(error))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"x": b"old"}


def test_a_full_disk_leaves_no_half_file(tmp_path, monkeypatch):
    def full(_source, target, _block):
        target.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing.shutil, "copyfileobj", full)
    with pytest.raises(DataLakeUnreachableError, match="No space left"):
        DataLake(f"file://{tmp_path}").write_bytes("x", b"whole")
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_file_do_not_share_a_draft(tmp_path):
    lake = DataLake(f"file://{tmp_path}")

    class Slow(io.BytesIO):
        def read(self, size=-1, /):
            if self.tell() == 0:
                lake.write_bytes("x", b"b" * 100)
            return super().read(size)

    lake._write("x", Slow(b"a" * 10))
    assert (tmp_path / "x").read_bytes() == b"a" * 10
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("there", [b"packed pyt", b"packed pythOn", b""])
def test_a_broken_environment_is_not_trusted_because_its_name_is_there(lake, s3, tmp_path, there):
    archive = tmp_path / "environment.tar.gz"
    archive.write_bytes(b"packed python")
    uri = upload_environment(lake, str(archive)) or ""
    key = uri.removeprefix("s3://bucket/")
    s3.objects[key] = there
    assert upload_environment(lake, str(archive)) == uri
    assert s3.objects[key] == b"packed python"
    puts = [asked for asked in s3.asked if asked.method in ("PUT", "POST")]
    assert upload_environment(lake, str(archive)) == uri
    assert [asked for asked in s3.asked if asked.method in ("PUT", "POST")] == puts


def test_an_environment_that_was_changed_under_its_digest_is_refused(lake, s3, tmp_path):
    archive = tmp_path / "environment.tar.gz"
    archive.write_bytes(b"packed python")
    uri = upload_environment(lake, str(archive)) or ""
    assert upload_environment(lake, uri) == uri
    assert upload_environment(lake, uri.replace("s3://", "s3a://")) is not None
    s3.objects[uri.removeprefix("s3://bucket/")] = b"something else"
    with pytest.raises(EnvironmentChangedError, match=r"cluster.environment = .*its content has the digest"):
        upload_environment(lake, uri)


def test_job_code_that_lies_there_already_is_read_before_it_runs(lake, s3):
    code = JobCode({"train.py": b"train()", "lifecycle_jobs.zip": b"zip"})
    uri = upload_job_code(lake, code)
    key = f"{uri.removeprefix('s3://bucket/')}/train.py"
    s3.objects[key] = b"steal()"
    assert upload_job_code(lake, code) == uri
    assert s3.objects[key] == b"train()"


@pytest.mark.parametrize("what", [403])
def test_absent_and_unreachable_are_told_apart(lake, s3, what):
    assert not lake.exists("x")
    with pytest.raises(ObjectMissingError):
        lake.read_bytes("x")
    with pytest.raises(ObjectMissingError):
        lake.sha256("x")
    s3.fail(1000, what)
    for ask in (lake.exists, lake.read_bytes, lake.sha256, lake.remove):
        with pytest.raises(DataLakeUnreachableError):
            ask("x")


def test_a_connection_that_is_not_there_is_not_replaced_by_the_machines_own_credentials(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ambient")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "ambient")
    with pytest.raises(DataLakeConnectionError, match=r"connections.storage = 'aws_typo': there is no such connection"):
        DataLake("s3://bucket/lake", "aws_typo").write_bytes("x", b"x")
    assert s3.asked == []


def test_a_file_that_arrives_in_part_is_taken_back(lake, s3):
    s3.fail(1, "truncate", method="PUT")
    with pytest.raises(Exception, match="reads back differently"):
        lake.write_bytes("x", b"x" * 1000)
    assert s3.objects == {}


def test_the_disk_is_told_from_s3(tmp_path: Path):
    lake = DataLake(f"file://{tmp_path}", "aws_typo")
    assert lake.read_bytes(lake.write_bytes("a/b", b"x")) == b"x"
