from PIL import Image

from local.dataset import write_digits


def test_digits_are_written_once(tmp_path):
    assert write_digits(tmp_path) == 1797
    assert sorted(path.name for path in tmp_path.iterdir()) == list("0123456789")
    some = next(iter((tmp_path / "3").iterdir()))
    assert Image.open(some).size == (8, 8)
    before = some.stat().st_mtime_ns
    some_other = next(iter((tmp_path / "4").iterdir()))
    some_other.write_bytes(b"broken")
    assert write_digits(tmp_path) == 1
    assert some.stat().st_mtime_ns == before
    assert len({path.read_bytes() for path in tmp_path.rglob("*.png")}) == 1797
