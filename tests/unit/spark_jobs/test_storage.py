import pytest

from spark_jobs import storage
from spark_jobs.exceptions import StorageError
from spark_jobs.prepared import read_rows


def test_files_are_written_listed_and_deleted(tmp_path):
    root = f"file://{tmp_path}/lake with space"
    storage.write_json(storage.join(root, "b", "x.json"), {"a": 1})
    storage.write_bytes(storage.join(root, "a.bin"), b"123")
    storage.write_bytes(storage.join(root, "a.bin"), b"4567")
    assert storage.read_json(storage.join(root, "b", "x.json")) == {"a": 1}
    listed = storage.list_files(root)
    assert [(file.path, file.size) for file in listed] == [("a.bin", 4), ("b/x.json", 12)]
    assert listed[0].changed > 10**18
    storage.delete(storage.join(root, "a.bin"))
    storage.delete(storage.join(root, "a.bin"))
    assert not storage.exists(storage.join(root, "a.bin"))
    assert storage.exists(storage.join(root, "b", "x.json"))


def test_what_is_absent_is_named(tmp_path):
    with pytest.raises(StorageError, match=r"nothing\.json does not exist"):
        storage.read_bytes(f"file://{tmp_path}/nothing.json")
    with pytest.raises(StorageError, match=r"nothing\.parquet does not exist"):
        read_rows(f"file://{tmp_path}/nothing.parquet")
    (tmp_path / "half.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(StorageError, match=r"half\.parquet: .*Parquet"):
        read_rows(f"file://{tmp_path}/half.parquet")
    with pytest.raises(StorageError, match="nowhere does not exist"):
        storage.list_files(f"file://{tmp_path}/nowhere")
    with pytest.raises(StorageError, match="only file:///"):
        storage.read_bytes("https://example.org/x")


@pytest.mark.parametrize("name", ["my%20lake", "a#b", "a?b", "[v2]", "a//b/../c", "иван петров"])
def test_a_uri_is_plain_text(tmp_path, name):
    (tmp_path / "a").mkdir()
    storage.write_bytes(f"file://{tmp_path}/{name}/x", b"1")
    assert (tmp_path / name / "x").read_bytes() == b"1"
    assert storage.read_bytes(f"file://{tmp_path}/{name}/x") == b"1"
    assert [file.path for file in storage.list_files(f"file://{tmp_path}/{name}")] == ["x"]


@pytest.mark.parametrize(
    "address", ["storage.example.net", "https://storage.example.net/bucket", "ftp://x", "https://"]
)
def test_an_address_of_s3_that_is_none_is_named(address, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    storage._s3.cache_clear()
    with pytest.raises(StorageError, match=r"AWS_ENDPOINT_URL = .*it must be https://host"):
        storage.locate("s3://bucket/key")


def test_s3_and_s3a_are_one(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_REGION", "ru-central1")
    storage._s3.cache_clear()
    first, path = storage.locate("s3a://bucket/prefix/x")
    assert path == "bucket/prefix/x"
    assert storage.locate("s3://bucket/prefix/x") == (first, path)
    assert first.region == "ru-central1"
    storage._s3.cache_clear()
