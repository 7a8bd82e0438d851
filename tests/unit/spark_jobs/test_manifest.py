import hashlib

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spark_jobs.exceptions import DatasetError
from spark_jobs.manifest import (
    CORRUPT,
    DUPLICATE,
    KEPT,
    build_manifest,
    quarantine,
    require_trainable,
    summarize,
    warnings_about,
)
from spark_jobs.splits import HOLDOUT, TRAIN


def files(*rows):
    """Rows of (path, content, reason)."""
    return pd.DataFrame(
        [
            {
                "path": path,
                "label": path.partition("/")[0],
                "sha256": hashlib.sha256(content.encode()).hexdigest(),
                "size": len(content),
                "width": 8,
                "height": 8,
                "reason": reason,
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
