"""The bodies that the load generator sends: Open Inference v2 requests, one image each."""

from __future__ import annotations

import base64
import json
from pathlib import Path

SUFFIXES = (".png", ".jpg", ".jpeg")


class NoImagesError(ValueError):
    """The folder of images cannot be used."""


def infer_body(image: bytes) -> bytes:
    """The JSON of one v2 infer request with `image` (an encoded PNG or JPEG)."""
    data = base64.b64encode(image).decode()
    return json.dumps({"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [data]}]}).encode()


def read_bodies(folder: Path, limit: int = 256) -> list[bytes]:
    """One body for each of at most `limit` images, spread evenly over `folder`; NoImagesError if there is none."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise NoImagesError(f"--images {folder}: no file ends in {', '.join(SUFFIXES)}; give a folder of images")
    step = max(1, len(files) // limit)
    return [infer_body(path.read_bytes()) for path in files[::step][:limit]]
