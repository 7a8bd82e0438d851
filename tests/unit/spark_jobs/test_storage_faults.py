"""The job's storage on an S3 that throttles, breaks off, refuses; and on a disk that is full."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from spark_jobs import checkpoints, storage
from spark_jobs.checkpoints import UnreadableStateError, newest_checkpoint, read_state, write_checkpoint, write_state
from spark_jobs.exceptions import FileMissingError, StorageError, StorageUnreachableError
from spark_jobs.prepared import read_rows, write_shard
from tests.object_storage import ObjectStorage

PLAN = {"seed": 1}
CONTENT = {key: {} for key in checkpoints.CONTENT} | {"plan": PLAN, "best": torch.arange(1000.0)}
FOLDER = "s3a://bucket/lake/checkpoints/run"


@pytest.fixture
def s3(monkeypatch):
    with ObjectStorage() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_REGION", "ru-central1")
        storage._s3.cache_clear()
        yield server
        storage._s3.cache_clear()


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(storage, "RETRIES", 0)
    storage._s3.cache_clear()


@pytest.mark.parametrize("what", [503, 500, 429, "reset", "truncate"])
def test_what_passes_is_tried_again_and_ends_no_job(s3, what):
    storage.write_bytes("s3a://bucket/lake/x", b"x" * 1000)
    s3.fail(5, what, method="GET" if what == "truncate" else "")
    assert storage.read_bytes("s3a://bucket/lake/x") == b"x" * 1000


def test_patience_with_a_storage_that_throttles_lasts_for_minutes():
    waits = [0.025 * 2**attempt for attempt in range(storage.RETRIES)]
    assert 180 <= sum(waits) <= 900


def test_shards_are_read_through_throttling_in_the_middle(s3):
    write_shard("s3a://bucket/lake/s.parquet", [0, 1], [b"a" * 10, b"b" * 10])
    s3.fail(4, 503, method="GET")
    assert read_rows("s3a://bucket/lake/s.parquet").labels.tolist() == [0, 1]


def test_a_listing_that_fails_is_not_a_folder_without_checkpoints(s3, impatient):
    write_checkpoint(FOLDER, epoch=40, batch=0, content=CONTENT)
    s3.fail(100, 503, method="GET", part="list-type")
    with pytest.raises(StorageUnreachableError):
        newest_checkpoint(FOLDER, PLAN)
    s3.fail(0, 503)
    assert newest_checkpoint(FOLDER, PLAN) == "epoch-00040-batch-0000000.pt"
    assert newest_checkpoint(FOLDER + "-other", PLAN) is None


@pytest.mark.parametrize("what", [503, 403, "reset"])
def test_absent_and_unreachable_are_told_apart(s3, impatient, what):
    with pytest.raises(FileMissingError):
        storage.read_bytes("s3a://bucket/lake/none")
    with pytest.raises(FileMissingError):
        storage.list_files("s3a://bucket/lake/none")
    assert not storage.exists("s3a://bucket/lake/none")
    for ask in (storage.read_bytes, storage.list_files, storage.exists, storage.delete):
        s3.fail(100, what)
        with pytest.raises(StorageUnreachableError):
            ask("s3a://bucket/lake/none")


def test_a_local_listing_that_fails_is_not_a_folder_without_checkpoints(tmp_path, monkeypatch):
    folder = f"file://{tmp_path}/run"
    write_checkpoint(folder, epoch=40, batch=0, content=CONTENT)

    def refuse(_uri):
        raise StorageUnreachableError("throttled")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "list_files", refuse)
        with pytest.raises(StorageUnreachableError):
            newest_checkpoint(folder, PLAN)
    assert newest_checkpoint(folder, PLAN) == "epoch-00040-batch-0000000.pt"


@pytest.mark.parametrize("fault", [{"method": "PUT"}, {"method": "POST", "part": "uploadId"}, {"method": "HEAD"}])
def test_an_upload_that_fails_leaves_what_was_there(s3, impatient, fault):
    uri = "s3a://bucket/lake/runs/train.json"
    storage.write_bytes(uri, b"old")
    s3.fail(100, 403, **fault)
    with pytest.raises(StorageUnreachableError):
        storage.write_bytes(uri, b"new" * 5_000_000)
    assert s3.objects["lake/runs/train.json"] == b"old"


def test_an_upload_that_arrives_in_part_is_never_seen_under_its_name(s3):
    s3.fail(1, "truncate", method="PUT", part="partNumber")
    with pytest.raises(StorageError, match=r"500 of 1000 bytes were written"):
        storage.write_bytes("s3a://bucket/lake/x", b"x" * 1000)
    assert [key for key, content in s3.objects.items() if content] == []


def test_a_disk_that_is_full_leaves_no_half_file(tmp_path, monkeypatch):
    uri = f"file://{tmp_path}/x.json"
    storage.write_bytes(uri, b"old")

    class FullDisk:
        def __init__(self, filesystem):
            self._filesystem = filesystem

        def __getattr__(self, name):
            return getattr(self._filesystem, name)

        def open_output_stream(self, path):
            Path(path).write_bytes(b"ne")
            raise OSError(errno.ENOSPC, "No space left on device")

    locate = storage.locate
    monkeypatch.setattr(storage, "locate", lambda uri: (FullDisk(locate(uri)[0]), locate(uri)[1]))
    with pytest.raises(StorageUnreachableError, match="No space left"):
        storage.write_bytes(uri, b"new")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"x.json": b"old"}


@pytest.mark.parametrize("damage", ["truncated", "one bit"])
def test_a_damaged_checkpoint_is_never_resumed_from(tmp_path, capsys, damage):
    folder = f"file://{tmp_path}"
    write_checkpoint(folder, epoch=1, batch=0, content=CONTENT)
    write_checkpoint(folder, epoch=2, batch=0, content=CONTENT)
    newest = tmp_path / "epoch-00002-batch-0000000.pt"
    content = bytearray(newest.read_bytes())
    if damage == "truncated":
        del content[len(content) // 2 :]
    else:
        content[content.find(torch.arange(1000.0).numpy().tobytes()) + 2000] ^= 1
    newest.write_bytes(content)
    assert newest_checkpoint(folder, PLAN) == "epoch-00001-batch-0000000.pt"
    assert "trying the one before" in capsys.readouterr().out


def test_a_state_of_other_bytes_than_were_written_is_refused(tmp_path):
    uri = f"file://{tmp_path}/state.pt"
    write_state(uri, {"state": torch.arange(1000.0)})
    content = bytearray((tmp_path / "state.pt").read_bytes())
    content[content.find(torch.arange(1000.0).numpy().tobytes()) + 2000] ^= 1
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(UnreadableStateError, match="is damaged"):
        read_state(uri)
