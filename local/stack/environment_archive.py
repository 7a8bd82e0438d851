"""The cluster's packed Python environment, as the laptop has it: a python that leads to the venv.

It travels the same way as a real one (uploaded by digest, unpacked beside the job, named by
`spark.yarn.dist.archives`), but is a few hundred bytes instead of gigabytes.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

from local.stack.layout import REPOSITORY


def build_environment_archive(folder: Path) -> Path:
    """Write `environment.tar.gz` into `folder`; equal content gives an equal file."""
    folder.mkdir(parents=True, exist_ok=True)
    python = REPOSITORY / ".venv" / "bin" / "python"
    script = f'#!/bin/sh\nexec "{python}" "$@"\n'.encode()
    entry = tarfile.TarInfo("bin/python")
    entry.size, entry.mode = len(script), 0o755
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.addfile(entry, io.BytesIO(script))
    file = folder / "environment.tar.gz"
    file.write_bytes(gzip.compress(packed.getvalue(), mtime=0))
    return file
