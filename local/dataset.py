"""The demo's input: the 1,797 scanned handwritten digits that scikit-learn carries, as a folder of PNG files.

`python -m local.dataset <folder>` writes `<folder>/<class>/<file>.png`. Files that are there already and hold the
same bytes are left alone, so that a second run changes nothing, not even a time.

Source of the data: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998 (CC BY 4.0).
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

BRIGHTEST = 16


def write_digits(folder: Path) -> int:
    """Write the digits below `folder`; returns how many files were written anew."""
    digits = load_digits()
    written = 0
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        buffer = io.BytesIO()
        Image.fromarray(np.round(pixels * (255 / BRIGHTEST)).astype(np.uint8)).save(buffer, format="PNG")
        path = folder / str(label) / f"digit-{number:04d}.png"
        if not path.exists() or path.read_bytes() != buffer.getvalue():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(buffer.getvalue())
            written += 1
    return written


def main() -> None:
    """Write the digits into the folder of the command line."""
    parser = argparse.ArgumentParser(description="write scikit-learn's digits as PNG files by class")
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    print(f"{write_digits(folder)} files written below {folder}")


if __name__ == "__main__":
    main()
