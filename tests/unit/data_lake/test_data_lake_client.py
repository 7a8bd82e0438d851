from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml_lifecycle.data_lake.client import DataLake
from ml_lifecycle.data_lake.exceptions import (
    BrokenJsonError,
    DataLakeUnreachableError,
    DatasetError,
    ObjectMissingError,
    OutsideDataLakeError,
    ServingFilesDifferError,
    WriteMismatchError,
)
from ml_lifecycle.settings import parse_settings
from spark_jobs import storage
from spark_jobs.dataset_files import list_dataset

FILES = {"model.onnx": b"\x08weights", "model.json": b"{}", "golden.json": b'{"cases": []}'}


@pytest.fixture
def lake(tmp_path: Path) -> DataLake:
    return DataLake(tmp_path.as_uri())


def dataset(root: Path, name: str, **classes: int) -> None:
    for class_name, count in classes.items():
        folder = root / "datasets" / name / class_name
        folder.mkdir(parents=True)
        for number in range(count):
            (folder / f"{number}.PNG").write_bytes(b"png")


def test_files_are_written_whole_and_read_back(lake: DataLake, tmp_path: Path) -> None:
    uri = lake.write_bytes("runs/k/train.json", b'{"a": 1}')

    assert uri == f"{tmp_path.as_uri()}/runs/k/train.json"
    assert lake.exists(uri)
    assert lake.read_json(uri) == {"a": 1}
    assert [file.name for file in (tmp_path / "runs" / "k").iterdir()] == ["train.json"]


def test_what_is_missing_or_broken_is_named(lake: DataLake) -> None:
    with pytest.raises(ObjectMissingError, match=r"runs/none\.json"):
        lake.read_json("runs/none.json")
    for content in (b"{", b"[1]"):
        lake.write_bytes("broken.json", content)
        with pytest.raises(BrokenJsonError, match=r"broken\.json"):
            lake.read_json("broken.json")


def test_a_good_dataset_gives_its_classes(lake: DataLake, tmp_path: Path) -> None:
    dataset(tmp_path, "digits", three=2, one=1)
    (tmp_path / "datasets" / "digits" / "README.md").write_text("not a class")

    assert lake.check_dataset("digits") == ["one", "three"]


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ({"cats": 1}, "only the class 'cats'"),
        ({"cats": 1, "dogs": 0}, "no image in class dogs"),
    ],
)
def test_a_dataset_that_cannot_be_trained_is_refused(
    lake: DataLake, tmp_path: Path, classes: dict[str, int], said: str
) -> None:
    dataset(tmp_path, "pets", **classes)

    with pytest.raises(DatasetError, match=r"dataset.name = 'pets' .*allowed is a folder of images") as raised:
        lake.check_dataset("pets")
    assert said in str(raised.value)


def write(root: Path, *paths: str) -> None:
    for path in paths:
        file = root / "datasets" / "pets" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"image")


@pytest.mark.parametrize("name", ["0.webp", "0.TIFF", "0.jfif", "0", "deep/er/0.gif", "_DSC1.JPG"])
def test_what_ingest_may_read_is_not_refused(lake: DataLake, tmp_path: Path, name: str) -> None:
    write(tmp_path, f"_cats/{name}", f"caf\u00e9/{name}", f"cafe\u0301/{name}", ".git/x.png", "__MACOSX/x.png")

    assert lake.check_dataset("pets") == ["_cats", "café"]


@pytest.mark.parametrize("name", ["Thumbs.db", "labels.csv", ".0.png", "README", ".thumbnails/0.png"])
def test_a_class_of_side_files_has_no_image(lake: DataLake, tmp_path: Path, name: str) -> None:
    write(tmp_path, "cats/0.png", "dogs/0.png", f"emus/{name}")

    with pytest.raises(DatasetError, match="no image in class emus"):
        lake.check_dataset("pets")


def test_folders_of_a_split_are_refused(lake: DataLake, tmp_path: Path) -> None:
    write(tmp_path, "train/cats/0.png", "test/dogs/0.png")

    with pytest.raises(DatasetError, match="test, train look like parts of a split"):
        lake.check_dataset("pets")


def test_links_are_followed_but_not_in_circles(lake: DataLake, tmp_path: Path) -> None:
    write(tmp_path, "cats/0.png", "emus/Thumbs.db")
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "a1").write_bytes(b"image")
    root = tmp_path / "datasets" / "pets"
    (root / "dogs").mkdir()
    (root / "dogs" / "0.png").symlink_to("../../../blobs/a1")
    (root / "owls").symlink_to(tmp_path / "blobs")
    (root / "emus" / "up").symlink_to("..")
    assert lake.list_classes("pets") == {"cats": True, "dogs": True, "emus": False, "owls": True}


def test_a_name_that_is_no_utf_8_is_said(lake: DataLake, tmp_path: Path) -> None:
    write(tmp_path, "cats/0.png", os.fsdecode(b"caf\xe9/0.png"))

    with pytest.raises(DatasetError, match=r"no image in class caf\\xe9"):
        lake.check_dataset("pets")


@pytest.mark.parametrize("folder", ["My Projects", "иван", "a+b", "c&d (1)"])
def test_a_lake_below_any_folder_that_settings_take_is_read(tmp_path: Path, folder: str) -> None:
    write(tmp_path / folder, "cats/0.png", "dogs/0.png")
    settings = parse_settings({"defaults": {"data_lake": f"file://{tmp_path}/{folder}"}}, "pets")
    lake = DataLake(settings.data_lake)

    assert lake.check_dataset("pets") == ["cats", "dogs"]
    lake.write_bytes("runs/x.json", b"{}")
    assert (tmp_path / folder / "runs" / "x.json").read_bytes() == b"{}"
    assert storage.read_json(f"{settings.data_lake}/runs/x.json") == {}
    assert [file.path for file in list_dataset(lake.layout.dataset("pets"))] == ["cats/0.png", "dogs/0.png"]


def test_an_empty_or_missing_dataset_is_refused(lake: DataLake, tmp_path: Path) -> None:
    (tmp_path / "datasets" / "empty").mkdir(parents=True)
    (tmp_path / "datasets" / "flat").write_text("a file")

    with pytest.raises(DatasetError, match="the folder is empty"):
        lake.check_dataset("empty")
    with pytest.raises(DatasetError, match=r"no folder file:.*/nothing; the data sets there are: empty"):
        lake.check_dataset("nothing")
    with pytest.raises(DatasetError, match="is a file; allowed is a folder"):
        lake.check_dataset("flat")


def test_a_data_lake_without_datasets_says_so(lake: DataLake) -> None:
    with pytest.raises(DatasetError, match="the data sets there are: none"):
        lake.check_dataset("digits")


def test_an_unreadable_folder_names_setting_and_reason(
    lake: DataLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset(tmp_path, "secret", a=1, b=1)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("ml_lifecycle.data_lake.client.os.scandir", refuse)
    with pytest.raises(DataLakeUnreachableError, match=r"datasets/secret cannot be reached: PermissionError"):
        lake.check_dataset("secret")


def test_unreachable_s3_names_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"endpoint_url": "http://127.0.0.1:9", "config_kwargs": {"retries": {"max_attempts": 0}}}
    document = {"conn_type": "aws", "login": "key", "password": "hidden", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_AWS_TESTED", json.dumps(document))

    with pytest.raises(DataLakeUnreachableError, match="through connection 'aws_tested'") as raised:
        DataLake("s3://bucket/prefix", "aws_tested").check_dataset("digits")
    assert "hidden" not in str(raised.value)


def test_serving_files_are_published_once(lake: DataLake, tmp_path: Path) -> None:
    uri = lake.write_serving_files("digits", "1", FILES)
    again = lake.write_serving_files("digits", "1", dict(reversed(FILES.items())))

    assert uri == again == f"{tmp_path.as_uri()}/models/digits/1"
    assert lake.read_bytes(f"{uri}/model.onnx") == FILES["model.onnx"]
    assert set(lake.read_json(f"{uri}/checksums.json")) == set(FILES)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["model.onnx", "model.json", "golden.json", "extra"]), st.binary(max_size=8)
    ).filter(lambda files: files != FILES)
)
def test_published_files_never_change(tmp_path: Path, files: dict[str, bytes]) -> None:
    lake = DataLake(tmp_path.as_uri())
    uri = lake.write_serving_files("digits", "2", FILES)

    with pytest.raises(ServingFilesDifferError, match="models/digits/2 already holds other content"):
        lake.write_serving_files("digits", "2", files)
    assert {name: lake.read_bytes(f"{uri}/{name}") for name in FILES} == FILES


def test_an_interrupted_publication_is_written_anew(lake: DataLake) -> None:
    lake.write_bytes("models/digits/3/model.onnx", b"half")

    uri = lake.write_serving_files("digits", "3", FILES)

    assert lake.read_bytes(f"{uri}/model.onnx") == FILES["model.onnx"]


def test_a_damaged_publication_is_found(lake: DataLake, tmp_path: Path) -> None:
    uri = lake.write_serving_files("digits", "4", FILES)
    (tmp_path / "models" / "digits" / "4" / "model.onnx").write_bytes(b"damaged")

    with pytest.raises(WriteMismatchError, match=r"models/digits/4/model.onnx"):
        lake.verify_serving_files(uri)
    with pytest.raises(WriteMismatchError):
        lake.write_serving_files("digits", "4", FILES)


@pytest.mark.parametrize(
    "uri",
    [
        "http://169.254.169.254/latest/meta-data/",
        "ftp://elsewhere/x",
        "memory://x",
        "pvc://claim/x",
        "gs://bucket/x",
        "github://owner:repo@main/x",
        "s3://elsewhere/models/digits/1",
        "file:///etc/passwd",
        "../outside",
        "models/../../outside",
    ],
)
def test_nothing_outside_of_the_data_lake_is_touched(
    lake: DataLake, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    def touched(*_: object, **__: object) -> None:
        raise AssertionError("a file system was opened")

    monkeypatch.setattr(fsspec, "filesystem", touched)
    for ask in (lake.read_bytes, lake.exists, lake.read_json, lake.remove, lake.sha256):
        with pytest.raises(OutsideDataLakeError):
            ask(uri)
    with pytest.raises(OutsideDataLakeError):
        lake.write_bytes(uri, b"")
