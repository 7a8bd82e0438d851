"""The cluster's packed environment: what names it, and what it leaves out."""

from local.cluster_environment import LOCK, archive_name, build, shipped


def test_the_name_changes_with_what_is_inside():
    name = archive_name("torch==2", "3.11", None)
    assert name == archive_name("torch==2", "3.11", None)
    others = [
        archive_name("torch==3", "3.11", None),
        archive_name("torch==2", "3.12", None),
        archive_name("torch==2", "3.11", "/opt/conda"),
    ]
    assert len({name, *others}) == 4


def test_the_clusters_own_spark_is_left_out_with_its_hashes():
    lock = LOCK.read_text()
    left = lock.splitlines()[len(shipped(lock).splitlines()) :]
    assert "\npyspark==" in lock
    assert "\npyspark==" not in shipped(lock)
    assert "\ntorch==" in shipped(lock)
    hashes = lock.partition("\npyspark==")[2].partition("\n")[2].partition("\n")[0].strip(" \\")
    assert hashes.startswith("--hash=")
    assert hashes not in shipped(lock)
    assert 0 < len(left) < 10


def test_an_archive_of_the_same_lock_is_not_built_again(tmp_path):
    name = archive_name(shipped(LOCK.read_text()), "3.11", "/opt/conda")
    for version in ("3.11", "3.12"):
        found = tmp_path / archive_name(shipped(LOCK.read_text()), version, "/opt/conda")
        found.write_bytes(b"built before")
    assert build(tmp_path, "/opt/conda").read_bytes() == b"built before"
    assert (tmp_path / name).exists()
