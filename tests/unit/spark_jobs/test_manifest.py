import hashlib

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spark_jobs.exceptions import DatasetError
from spark_jobs.image_folder import class_of, side_file
from spark_jobs.manifest import (
    CORRUPT,
    DUPLICATE,
    KEPT,
    build_manifest,
    quarantine,
    require_trainable,
    said,
    summarize,
    warnings_about,
)
from spark_jobs.splits import HOLDOUT, TRAIN

LOOK_ALIKE = ("caf\u00e9", "cafe\u0301", "caf\u00e9 ")


def files(*rows):
    """Rows of (path, content, reason)."""
    return pd.DataFrame(
        [
            {
                "path": path,
                "label": class_of(path),
                "sha256": hashlib.sha256(content.encode()).hexdigest(),
                "size": len(content),
                "width": 8,
                "height": 8,
                "reason": reason,
                "damage": None,
            }
            for path, content, reason in rows
        ]
    )


def many(count, classes=("cat", "dog")):
    return [(f"{classes[number % len(classes)]}/{number}.png", f"image {number}", None) for number in range(count)]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 8), st.booleans()), min_size=1, max_size=30))
def test_every_file_is_accounted_for_and_duplicates_never_straddle(rows):
    table = files(*[(f"{c}/{n}", f"{i}", "broken" if bad else None) for n, (c, i, bad) in enumerate(rows)])
    manifest = build_manifest(table, holdout=0.3, shard_rows=4)
    summary = summarize(manifest)
    assert summary["images"] + summary["duplicates"] + summary["corrupt"] == len(rows)
    assert summary["train_images"] + summary["holdout_images"] == summary["images"]
    kept = manifest[manifest["status"] == KEPT]
    assert kept["sha256"].is_unique
    assert len(quarantine(manifest)) == len(rows) - len(kept)


def test_the_first_of_duplicates_is_kept():
    manifest = build_manifest(
        files(("a/2", "x", None), ("a/1", "x", None), ("b/1", "y", None)), holdout=0.5, shard_rows=9
    )
    by_path = manifest.set_index("path")
    assert by_path.loc["a/1", "status"] == KEPT
    assert by_path.loc["a/2", "status"] == DUPLICATE
    assert by_path.loc["a/2", "reason"] == "same content as a/1"


def test_the_same_image_in_two_classes_is_kept_in_none():
    manifest = build_manifest(
        files(("a/1", "x", None), ("b/1", "x", None), ("b/2", "y", None)), holdout=0.5, shard_rows=9
    )
    assert list(manifest["status"]) == [CORRUPT, CORRUPT, KEPT]
    assert manifest["reason"][0] == "the same image lies in classes a, b"


def test_other_files_do_not_move_an_image():
    few = build_manifest(files(*many(40)), holdout=0.3, shard_rows=8).set_index("path")["split"]
    more = build_manifest(files(*many(90)), holdout=0.3, shard_rows=8).set_index("path")["split"]
    assert (few == more[few.index]).all()
    assert set(few) == {TRAIN, HOLDOUT}


def test_corrupt_files_above_the_limit_are_refused_by_name():
    manifest = build_manifest(files(*many(40), ("cat/bad.png", "?", "truncated")), holdout=0.3, shard_rows=8)
    require_trainable(manifest, max_corrupt=0.05)
    with pytest.raises(DatasetError, match=r"1 of 41 files \(2.4%\).*max_corrupt = 1.0%.*cat/bad.png: truncated"):
        require_trainable(manifest, max_corrupt=0.01)


def test_what_lies_beside_images_is_listed_and_does_not_count():
    rows = [(f"{label}/Thumbs.db", "t", "by its name no image") for label in ("cat", "dog")]
    rows += [("README.md", "r", "by its name no image"), ("__MACOSX/cat/._0.png", "x", "hidden: __MACOSX")]
    for row in rows:
        assert side_file(row[0]) == row[2]
    manifest = build_manifest(files(*many(200), *rows), holdout=0.3, shard_rows=64)
    require_trainable(manifest, max_corrupt=0.0)
    assert {row["path"] for row in quarantine(manifest)} == {path for path, _, _ in rows}
    assert summarize(manifest)["ignored"] == 4
    assert warnings_about(manifest, "file:///q.json") == []
    assert said(quarantine(manifest)) == []


def test_a_class_that_loses_all_its_files_is_refused_by_name():
    rows = [*many(90), ("emu/1.png", "?", "truncated"), ("emu/labels.csv", "", "by its name no image")]
    with pytest.raises(DatasetError, match=r"class 'emu' has no image left of 2 files \(emu/1.png: truncated; emu/lab"):
        require_trainable(build_manifest(files(*rows), holdout=0.3, shard_rows=8), max_corrupt=1.0)


def test_names_that_look_alike_are_one_class_and_damage_is_told():
    rows = [(f"{name}/{number}", f"{name} {number}", None) for number in range(60) for name in LOOK_ALIKE]
    table = files(*rows, *[(f"Dog/{number}", f"dog {number}", None) for number in range(60)])
    table["label"] = table["path"].map(class_of)
    table.loc[table["path"] == "Dog/0", "damage"] = "Corrupt JPEG data"
    table = pd.concat([table, files(*[(f"dog/{number}", f"small {number}", None) for number in range(60)])])
    manifest = build_manifest(table, holdout=0.3, shard_rows=64)
    assert summarize(manifest)["classes"] == ["Dog", "café", "dog"]
    damaged, one, case = warnings_about(manifest, "")
    assert damaged == "1 images are damaged and used as far as they can be read; the first: Dog/0: Corrupt JPEG data"
    assert one.startswith("the folders 'cafe\\u0301', 'caf\\xe9', 'caf\\xe9 ' are one class, 'café'")
    assert case.startswith("the classes 'Dog', 'dog' are told apart by")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (many(20, ("cat",)), r"1 class\(es\) \['cat'\]; two are needed"),
        ([("cat/1", "1", "broken")], "0 class"),
    ],
)
def test_one_class_is_refused(rows, message):
    manifest = build_manifest(files(*rows), holdout=0.3, shard_rows=8)
    with pytest.raises(DatasetError, match=message):
        require_trainable(manifest, max_corrupt=1.0)


def test_an_empty_split_is_refused():
    everything = build_manifest(files(*many(6)), holdout=0.999999, shard_rows=8)
    with pytest.raises(DatasetError, match="'cat' has no image in the training split"):
        require_trainable(everything, max_corrupt=0)
    nothing = build_manifest(files(*many(6)), holdout=0.000001, shard_rows=8)
    with pytest.raises(DatasetError, match="none of the 6 images fell into the hold-out"):
        require_trainable(nothing, max_corrupt=0)


def test_an_even_dataset_needs_no_warning():
    manifest = build_manifest(files(*many(200)), holdout=0.3, shard_rows=64)
    assert warnings_about(manifest, "file:///q.json") == []
    assert summarize(manifest)["class_images"] == {"cat": 100, "dog": 100}


def test_warnings_name_rare_classes_and_what_was_left_out():
    rows = [
        *many(286),
        *[(f"emu/{number}.png", f"emu {number}", None) for number in range(10)],
        ("cat/again.png", "image 0", None),
        ("cat/bad.png", "?", "truncated"),
        ("cat/both.png", "b", None),
        ("dog/both.png", "b", None),
    ]
    manifest = build_manifest(files(*rows), holdout=0.3, shard_rows=64)
    held_out = (manifest[manifest["label"] == "emu"]["split"] == HOLDOUT).sum()
    rare, scarce, corrupt, duplicates = warnings_about(manifest, "file:///q.json")
    assert rare == (
        "class 'emu' has 10 of 296 images (3.4%, where an even share is 33.3%): training.class_weights = balanced is "
        "worth a try"
    )
    assert scarce.startswith(
        f"the hold-out has fewer than 10 images of 1 class(es) ('emu': {held_out}): their accuracy"
    )
    assert corrupt == "3 of 300 files (1.0%) are corrupt or contradict each other and are left out: file:///q.json"
    assert duplicates == "1 of 300 files (0.3%) are exact duplicates and are left out: file:///q.json"
