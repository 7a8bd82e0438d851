"""What is served is what was promoted: the digest is kept where neither MLflow nor the files' folder decides it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from ml_lifecycle.data_lake.client import DataLake
from ml_lifecycle.data_lake.exceptions import NotPublishedError, ServingFilesChangedError
from ml_lifecycle.data_lake.published import keep_evaluation, keep_promotion, kept_evaluation, published

FILES = {"model.onnx": b"judged", "model.json": b"{}"}


@pytest.fixture
def lake(tmp_path: Path) -> DataLake:
    return DataLake(tmp_path.as_uri())


@pytest.fixture
def folder(lake: DataLake, tmp_path: Path) -> Path:
    lake.write_serving_files("digits", "1", FILES)
    return tmp_path / "models" / "digits" / "1"


def test_a_promoted_version_has_a_digest_that_stays(lake: DataLake, folder: Path, tmp_path: Path) -> None:
    digest = keep_promotion(lake, "digits", "1", by="run")

    assert digest == hashlib.sha256((folder / "checksums.json").read_bytes()).hexdigest()
    assert published(lake, "digits", "1") == digest == keep_promotion(lake, "digits", "1", by="another run")
    kept = json.loads((tmp_path / "promotions" / "digits" / "1.json").read_text())
    assert kept == {"digest": digest, "by": "run"}


def test_a_version_promoted_before_digests_were_kept_counts_by_its_checksums(lake: DataLake, folder: Path) -> None:
    assert published(lake, "digits", "1") == hashlib.sha256((folder / "checksums.json").read_bytes()).hexdigest()
    (folder / "model.onnx").write_bytes(b"another")
    with pytest.raises(ServingFilesChangedError, match=r"models/digits/1 is not what was promoted"):
        published(lake, "digits", "1")


@pytest.mark.parametrize("name", ["model.onnx", "model.json", "checksums.json"])
def test_files_that_changed_are_refused(lake: DataLake, folder: Path, name: str) -> None:
    keep_promotion(lake, "digits", "1", by="run")
    (folder / name).write_text('{"model.onnx": "0"}')
    with pytest.raises(ServingFilesChangedError):
        published(lake, "digits", "1")
    (folder / name).unlink()
    with pytest.raises((ServingFilesChangedError, NotPublishedError)):
        published(lake, "digits", "1")


def test_files_that_changed_together_with_their_checksums_are_refused(lake: DataLake, folder: Path) -> None:
    keep_promotion(lake, "digits", "1", by="run")
    (folder / "model.onnx").write_bytes(b"another")
    forged = {
        **json.loads((folder / "checksums.json").read_text()),
        "model.onnx": hashlib.sha256(b"another").hexdigest(),
    }
    (folder / "checksums.json").write_text(json.dumps(forged))
    with pytest.raises(ServingFilesChangedError, match="its digest is"):
        published(lake, "digits", "1")


def test_what_was_never_published_is_named(lake: DataLake) -> None:
    with pytest.raises(NotPublishedError, match="version 2 of 'digits' was never published"):
        published(lake, "digits", "2")


def test_an_evaluation_is_kept_for_the_run_it_is_of(lake: DataLake) -> None:
    keep_evaluation(lake, "abc", {"accuracy": 0.9}, asked_by="ann")
    assert kept_evaluation(lake, "abc") == {"evaluation": {"accuracy": 0.9}, "asked_by": "ann"}
    assert kept_evaluation(lake, "def") is None


@pytest.mark.parametrize("name", ["digits/2/model.onnx", "model.pkl"])
def test_a_file_that_came_later_is_refused(lake: DataLake, folder: Path, name: str) -> None:
    keep_promotion(lake, "digits", "1", by="run")
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"another")
    with pytest.raises(ServingFilesChangedError, match=f"{name} came later"):
        published(lake, "digits", "1")
