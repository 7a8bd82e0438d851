"""Archives of jobs are unpacked into their own folder and nowhere else."""

import contextlib
import io
import tarfile
import zipfile

import pytest

from local.yandex.driver import _unpacked

BAD = ("../outside", "a/../../outside", "{outside}")


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_an_archive_writes_nothing_outside_of_its_folder(tmp_path, kind, name):
    archive, cache = tmp_path / f"job.{kind}", tmp_path / "cache" / "jobs"
    cache.mkdir(parents=True)
    entry = name.format(outside=tmp_path / "outside")
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as packed:
            packed.writestr(entry, "x")
    else:
        with tarfile.open(archive, "w:gz") as packed:
            info = tarfile.TarInfo(entry)
            info.size = 1
            packed.addfile(info, io.BytesIO(b"x"))
    with contextlib.suppress(Exception):  # refused or left out, as the format's reader does
        _unpacked(archive, cache)
    assert not [path for path in tmp_path.rglob("*outside*") if cache not in path.parents]


def test_a_link_that_leads_outside_is_not_written_through(tmp_path):
    archive, cache = tmp_path / "job.tar.gz", tmp_path / "cache"
    cache.mkdir()
    with tarfile.open(archive, "w:gz") as packed:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "elsewhere")
        packed.addfile(link)
        info = tarfile.TarInfo("link/outside")
        info.size = 1
        packed.addfile(info, io.BytesIO(b"x"))
    (tmp_path / "elsewhere").mkdir()
    with contextlib.suppress(Exception):
        _unpacked(archive, cache)
    assert not (tmp_path / "elsewhere" / "outside").exists()
