"""The stand-in of KServe's storage initializer: copies a model's folder into the pod. Runs as its own process."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path


def initialize(uri: str, directory: Path) -> None:
    """Copy the folder (or the one file) at `uri` into `directory`; SystemExit says what cannot be copied."""
    if not uri.startswith("file:///"):
        raise SystemExit(f"storageUri {uri!r} cannot be copied on the laptop: only file:///folder is served here")
    # As KServe's own does: the rest of the URI is the path, and nothing in it is decoded.
    source = Path(uri.removeprefix("file://"))
    if source.is_dir():
        shutil.copytree(source, directory, dirs_exist_ok=True)
    elif source.is_file():
        shutil.copy2(source, directory)
    else:
        raise SystemExit(f"storageUri {uri!r}: {source} does not exist")
    if not any(directory.iterdir()):
        raise SystemExit(f"storageUri {uri!r}: {source} is empty")


if __name__ == "__main__":
    initialize(sys.argv[1], Path(sys.argv[2]))
