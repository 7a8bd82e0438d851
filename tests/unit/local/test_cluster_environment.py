"""The cluster's packed environment: what names it, and what it leaves out."""

from local.cluster_environment import LOCK, REQUIREMENTS, archive_name, build, shipped


def test_the_name_changes_with_what_is_inside():
    name = archive_name("torch==2", "torch==2", "3.11", None)
    assert name == archive_name("torch==2", "torch==2", "3.11", None)
    others = [
        archive_name("torch==3", "torch==2", "3.11", None),
        archive_name("torch==2", "torch==3", "3.11", None),
        archive_name("torch==2", "torch==2", "3.12", None),
        archive_name("torch==2", "torch==2", "3.11", "/opt/conda"),
    ]
    assert len({name, *others}) == 5


def test_the_clusters_own_spark_is_left_out():
    assert "pyspark==" in REQUIREMENTS.read_text()
    assert "pyspark==" not in shipped(REQUIREMENTS.read_text())
    assert "torch==" in shipped(REQUIREMENTS.read_text())


def test_an_archive_of_the_same_lock_is_not_built_again(tmp_path):
    name = archive_name(shipped(REQUIREMENTS.read_text()), LOCK.read_text(), "3.11", "/opt/conda")
    for version in ("3.11", "3.12"):
        found = tmp_path / archive_name(shipped(REQUIREMENTS.read_text()), LOCK.read_text(), version, "/opt/conda")
        found.write_bytes(b"built before")
    assert build(tmp_path, "/opt/conda").read_bytes() == b"built before"
    assert (tmp_path / name).exists()
