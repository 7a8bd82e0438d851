"""Are the files in the model's folder those of the version that was promoted?"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from serving.exceptions import ModelFilesError

CHECKSUMS = "checksums.json"
LOADED = ("model.onnx", "model.json")


def verify(folder: Path, digest: str) -> None:
    """ModelFilesError unless `checksums.json` has this sha256, and every file the one that stands there."""
    try:
        content = (folder / CHECKSUMS).read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if found != digest:
            raise ModelFilesError(f"{folder / CHECKSUMS} has the digest {found}, promoted was {digest}: {_REMEDY}")
        named = {str(name): str(checksum) for name, checksum in json.loads(content).items()}
        for name in sorted({*LOADED, *named}):
            if name not in named:
                raise ModelFilesError(f"{folder / CHECKSUMS} does not name {name}: {_REMEDY}")
            if _sha256(folder / name) != named[name]:
                raise ModelFilesError(f"{folder / name} is not the file that was promoted: {_REMEDY}")
    except OSError as error:
        raise ModelFilesError(f"{error.filename or folder} cannot be read: {error.strerror}; {_REMEDY}") from error
    except (ValueError, AttributeError) as error:
        raise ModelFilesError(f"{folder / CHECKSUMS} is no list of checksums: {error}") from error


_REMEDY = "nothing is served; find out who wrote there, and roll out a version that is whole"


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
