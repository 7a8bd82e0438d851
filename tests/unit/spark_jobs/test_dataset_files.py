"""Every file of a dataset folder is listed, and what cannot be read has its reason."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spark_jobs.dataset_files import MAX_FILE_BYTES, DatasetFile, divide, list_dataset
from spark_jobs.exceptions import StorageError
from spark_jobs.image_folder import are_splits, class_of, side_file

REPOSITORY = Path(__file__).parents[3]
# What a name on disk may hold: anything but a slash and a zero byte, of at most 255 bytes.
NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=40).filter(
    lambda name: name not in (".", "..")
)


def write(root, path, content=b"image"):
    target = Path(root, os.fsdecode(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


def reasons(root):
    return {file.path: file.reason for file in list_dataset(f"file://{root}")}


def test_names_of_cameras_and_archives_are_read(tmp_path):
    names = ["cat/_DSC0001.JPG", "_background/_MG_1.jpg", "кот 1/a#b?c%20d.png", "cat/a:b*[1]{2}.jfif", "cat/deep/er/x"]
    for name in names:
        write(tmp_path, name)
    assert reasons(tmp_path) == dict.fromkeys(names)


def test_what_is_not_read_has_its_reason(tmp_path):
    write(tmp_path, "cat/empty.png", b"")
    write(tmp_path, "stray.png")
    write(tmp_path, " /blank.png")
    write(tmp_path, "cat/Thumbs.db")
    write(tmp_path, "cat/.0.png.crc")
    write(tmp_path, "__MACOSX/cat/._0.png")
    write(tmp_path, b"cat/caf\xe9.png")
    write(tmp_path, b"d\xf6g/1.png")
    write(tmp_path, "cat/backup.zip")
    os.truncate(tmp_path / "cat/backup.zip", MAX_FILE_BYTES + 1)
    os.mkfifo(tmp_path / "cat" / "pipe")
    found = reasons(tmp_path)
    assert found == {
        "cat/empty.png": "the file is empty",
        "stray.png": "lies in no class folder",
        " /blank.png": "lies in no class folder",
        "cat/Thumbs.db": "by its name no image",
        "cat/.0.png.crc": "hidden: .0.png.crc",
        "__MACOSX/cat/._0.png": "hidden: __MACOSX",
        "cat/caf\\xe9.png": "its name is no UTF-8: rename it",
        "d\\xf6g/1.png": "its name is no UTF-8: rename it",
        "cat/backup.zip": f"too large to be read: {MAX_FILE_BYTES + 1} bytes, of {MAX_FILE_BYTES} that are allowed",
        "cat/pipe": "no file, but a device, a pipe or a socket",
    }


def test_links_are_followed_and_those_that_lead_nowhere_are_said(tmp_path):
    write(tmp_path, "blobs/0a1b")
    root = tmp_path / "snapshot"
    (root / "cat").mkdir(parents=True)
    (root / "cat" / "relative.png").symlink_to("../../blobs/0a1b")
    (root / "cat" / "absolute.png").symlink_to(tmp_path / "blobs" / "0a1b")
    (root / "dog").symlink_to(tmp_path / "blobs", target_is_directory=True)
    (root / "cat" / "broken.png").symlink_to("nowhere")
    (root / "cat" / "itself.png").symlink_to("itself.png")
    (root / "cat" / "up").symlink_to("..")
    assert reasons(root) == {
        "cat/relative.png": None,
        "cat/absolute.png": None,
        "dog/0a1b": None,
        "cat/broken.png": "a link that leads nowhere",
        "cat/itself.png": "a link that leads nowhere",
        "cat/up": "a link to a folder that it lies in",
    }


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path):
    with pytest.raises(StorageError, match="nowhere does not exist"):
        list_dataset(f"file://{tmp_path}/nowhere")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="file: Not a directory"):
        list_dataset(f"file://{tmp_path}/file")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=5))
def test_every_file_is_listed_under_any_name(tmp_path_factory, names):
    root = tmp_path_factory.mktemp("any")
    written = set()
    for folder, name in names:
        path = f"{folder}/{name}"
        if max(len(folder.encode()), len(name.encode())) <= 255:
            write(root, path)
            written.add(path)
    assert set(reasons(root)) == written


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40_000_000), max_size=60), st.integers(1, 16))
def test_every_file_is_in_one_task(sizes, processes):
    files = [DatasetFile(f"c/{number}", size, 0) for number, size in enumerate(sizes)]
    tasks = divide(files, processes)
    assert sorted(path for task in tasks for path in task) == sorted(file.path for file in files)
    assert all(tasks)


def test_few_small_files_are_spread_over_the_processes():
    assert len(divide([DatasetFile(f"c/{number}", 1000, 0) for number in range(40)], 4)) == 4


def test_the_rule_is_one_text_in_both_places():
    ours, theirs = (
        REPOSITORY / place / "image_folder.py" for place in ("spark_jobs", "plugins/ml_lifecycle/data_lake")
    )
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize("path", ["cat/x.jfif", "cat/x.webp", "cat/x.tiff", "cat/x", "cat/README.jpg", "_x/_y.png"])
def test_whatever_may_be_an_image_is_no_side_file(path):
    assert side_file(path) is None
    assert class_of(path)


def test_folders_of_a_split_are_told_from_classes():
    assert are_splits(["train", "Test", "val"])
    assert not are_splits(["train", "bus"])
