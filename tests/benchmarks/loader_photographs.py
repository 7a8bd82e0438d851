"""Photographs that nobody had to take: smooth random fields and sensor noise, as dear to decode as real ones."""

import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image

QUALITY = 90
# Cells across the picture, and how strong structure of that size is: natural images have 1/f amplitudes.
SCALES = ((4, 40), (16, 20), (64, 10))
NOISE = 8


def photograph(random: np.random.Generator, width: int, height: int) -> bytes:
    """One JPEG: about 75 kB at 500 × 375, in proportion to its area elsewhere."""
    pixels = np.full((height, width, 3), 128, np.float32)
    for cells, strength in SCALES:
        field = random.normal(0, strength, (cells, cells, 3)).astype(np.float32)
        for channel in range(3):
            smooth = Image.fromarray(field[..., channel]).resize((width, height), Image.Resampling.BICUBIC)
            pixels[..., channel] += np.asarray(smooth)
    pixels += random.normal(0, NOISE, (height, width, 1))
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def numbered(encoded: bytes, number: int) -> bytes:
    """The same picture with a number in a comment: another file to everyone who hashes it."""
    return encoded[:2] + b"\xff\xfe" + struct.pack(">HI", 6, number) + encoded[2:]


def write_folder(folder: Path, photographs: list[bytes], count: int) -> None:
    """An image folder of `count` files in two classes."""
    for number in range(count):
        path = folder / ("odd" if number % 2 else "even") / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(numbered(photographs[number % len(photographs)], number))
