from __future__ import annotations

import pytest

from ml_lifecycle.data_lake.exceptions import PathPartError
from ml_lifecycle.data_lake.layout import Layout, join, spark_uri, storage_uri


def test_everything_lies_below_the_base() -> None:
    layout = Layout("s3://bucket/prefix")

    assert layout.dataset("digits") == "s3://bucket/prefix/datasets/digits"
    assert layout.prepared("digits") == "s3://bucket/prefix/prepared/digits"
    assert layout.checkpoints("r1") == "s3://bucket/prefix/checkpoints/r1"
    assert layout.serving_files("digits", "3") == "s3://bucket/prefix/models/digits/3"
    assert layout.job_code("abc") == "s3://bucket/prefix/jobs/abc"
    assert layout.environment("abc") == "s3://bucket/prefix/environments/abc.tar.gz"
    assert layout.results("abc") == "s3://bucket/prefix/runs/abc"


@pytest.mark.parametrize(
    ("uri", "for_spark"),
    [("s3://b/k", "s3a://b/k"), ("file:///lake/k", "file:///lake/k"), ("s3a://b/k", "s3a://b/k")],
)
def test_spark_reads_s3a(uri: str, for_spark: str) -> None:
    assert spark_uri(uri) == for_spark
    assert storage_uri(for_spark) == uri.replace("s3a", "s3")


def test_join_has_single_slashes() -> None:
    assert join("file:///lake/", "a", "b") == "file:///lake/a/b"


@pytest.mark.parametrize("name", ["", "..", "../2", "a/b", "2\n", "%2e", "a?b", "модель", ".hidden", "a b"])
def test_a_name_that_others_chose_is_one_part_of_a_path_or_refused(name: str) -> None:
    layout = Layout("s3://bucket/prefix")
    for place in (
        lambda: layout.serving_files("digits", name),
        lambda: layout.serving_files(name, "2"),
        lambda: layout.promotion("digits", name),
        lambda: layout.evaluation(name),
    ):
        with pytest.raises(PathPartError):
            place()
