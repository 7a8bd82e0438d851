"""The bodies that the load generator sends: Open Inference v2 requests, one image each."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

from PIL import Image


class NoImagesError(ValueError):
    """The folder of images cannot be used."""


def infer_body(image: bytes) -> bytes:
    """The JSON of one v2 infer request with `image` (an encoded PNG or JPEG)."""
    data = base64.b64encode(image).decode()
    return json.dumps({"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [data]}]}).encode()


def read_bodies(folder: Path, limit: int = 256) -> list[bytes]:
    """One body for each of at most `limit` images, spread evenly over `folder`; NoImagesError if there is none.

    A broken file is no request of a user: a server rightly refuses it, which would count as a failure.
    """
    files = sorted(
        Path(place, name)
        for place, _, names in os.walk(folder, followlinks=True)
        for name in names
        if not name.startswith(".")
    )
    step = max(1, len(files) // limit)
    bodies = [infer_body(path.read_bytes()) for path in files[::step][:limit] if _is_image(path)]
    if not bodies:
        raise NoImagesError(f"--images {folder}: holds no image that can be read; name another folder")
    return bodies


def _is_image(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            image.verify()
    except (OSError, SyntaxError):  # Pillow raises SyntaxError for a broken PNG
        return False
    return True
