import pandas as pd
import pytest

from spark_jobs.dataset_files import DatasetFile
from spark_jobs.exceptions import StorageError
from spark_jobs.ingest import FILE_COLUMNS, _require_all, read_file


def test_a_file_that_is_listed_and_cannot_be_read_fails_the_job_by_name(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "0.png").write_bytes(b"no image")
    listed = [DatasetFile(f"cat/{name}.png", 8, 0) for name in ("0", "gone", "passed over")]
    rows = [read_file(f"file://{tmp_path}", file.path, 8, 1, "pixels") for file in listed[:2]]
    read = pd.DataFrame([row[: len(FILE_COLUMNS)] for row in rows], columns=FILE_COLUMNS)
    with pytest.raises(
        StorageError, match=r"^2 of 3 files .*cat/gone.png: .* does not exist; cat/passed over.png: Spark lost it"
    ):
        _require_all(read, listed)
    _require_all(read[:1], listed[:1])


def test_a_file_that_grew_too_large_is_not_read(tmp_path, monkeypatch):
    (tmp_path / "0.png").write_bytes(b"12345")
    monkeypatch.setattr("spark_jobs.ingest.MAX_FILE_BYTES", 4)
    row = read_file(f"file://{tmp_path}", "0.png", 8, 1, "pixels")
    assert row[2] == "lost"
    assert "has 5 bytes, more than 4" in row[6]
