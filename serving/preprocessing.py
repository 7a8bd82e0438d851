"""From an encoded image to what the network sees: the one preprocessing of ingest, training, evaluation and serving.

Two steps, apart because ingest stores what lies between them: `shrink` (decode, crop to the centre square, resize;
uint8) and `normalise` (float32, channels first). Needs numpy, Pillow and simplejpeg only.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, UnidentifiedImageError
from PIL.ExifTags import Base

MAX_PIXELS = 100_000_000
# What cannot be unpacked line by line lies in memory whole, with four bytes a pixel, twice while its mode changes.
MAX_UNPACKED_PIXELS = 50_000_000
# Pillow knows formats that start other programs (EPS) or that no photograph comes in.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "PPM", "ICO", "JPEG2000")
JPEG_MAGIC = b"\xff\xd8\xff"
# Where a JPEG keeps the way up: in EXIF data, or in XMP where there are none.
ORIENTED = (b"Exif\x00\x00", b"http://ns.adobe.com/xap/1.0/\x00")
START_OF_SCAN = 0xDA
# Progressive: each pixel's coefficients are in memory until the last scan.
WHOLE_FRAMES = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
APP1 = 0xE1
DAMAGE = ("Corrupt JPEG data", "Premature end")
BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262
MODES = {1: "L", 3: "RGB"}
# Editors put their whole history into a PNG's text; Pillow's limit of 1 MiB would leave sound pixels out.
PngImagePlugin.MAX_TEXT_CHUNK = 16 * 1024 * 1024
# From EXIF's orientation to what turns `[h, w, channels]` upright. Source: EXIF 2.32, tag 0x0112.
UPRIGHT: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: pixels.transpose(1, 0, 2)[:, ::-1],
    7: lambda pixels: pixels.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda pixels: pixels.transpose(1, 0, 2)[::-1],
}


class UnreadableImageError(ValueError):
    """The bytes are no image that can be read; the message says why."""


@dataclass(frozen=True)
class Preprocessing:
    """The parameters that travel with a model.

    `image_size` is the side of the square in pixels; `mean` and `std` hold one value a channel, of pixels scaled
    to 0…1.
    """

    image_size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.channels not in MODES or len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(
                f"preprocessing: channels must be 1 or 3, with as many means and stds, not {self.channels}, "
                f"{len(self.mean)} and {len(self.std)}"
            )

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Read the form that stands in `model.json`."""
        return cls(
            image_size=int(document["image_size"]),
            channels=int(document["channels"]),
            mean=tuple(float(value) for value in document["mean"]),
            std=tuple(float(value) for value in document["std"]),
        )

    def to_document(self) -> dict[str, Any]:
        """The form that stands in `model.json`."""
        return {
            "image_size": self.image_size,
            "channels": self.channels,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def __call__(self, encoded: Sequence[bytes]) -> NDArray[np.float32]:
        """Encoded images → `[n, channels, image_size, image_size]`; raises UnreadableImageError."""
        return self.normalise([shrink(image, self.image_size, self.channels) for image in encoded])

    def normalise(self, pixels: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]) -> NDArray[np.float32]:
        """`uint8 [n, h, w, channels]` → `float32 [n, channels, h, w]`, of zero mean and unit deviation."""
        std = np.asarray(self.std, dtype=np.float32).reshape(-1, 1, 1)
        scale, shift = (
            np.float32(1.0) / (np.float32(255.0) * std),
            np.asarray(self.mean, np.float32).reshape(std.shape) / std,
        )
        height, width, channels = pixels[0].shape
        normalised = np.empty((len(pixels), channels, height, width), dtype=np.float32)
        # One image at a time stays in the processor's cache.
        for image, target in zip(pixels, normalised, strict=True):
            np.multiply(image.transpose(2, 0, 1), scale, out=target, dtype=np.float32)
            target -= shift
        return normalised


def shrink(encoded: bytes, image_size: int, channels: int) -> NDArray[np.uint8]:
    """Decode, crop to the centre square and resize: `uint8 [image_size, image_size, channels]`.

    Raises UnreadableImageError.
    """
    return fit(decode(encoded, image_size, channels), image_size)


@dataclass(frozen=True)
class Decoded:
    """`uint8 [h, w, channels]`, and what a strict decoder says against a damaged file that is readable all the same."""

    pixels: NDArray[np.uint8]
    damage: str | None = None


def decode(encoded: bytes, image_size: int, channels: int) -> NDArray[np.uint8]:
    """The pixels alone of `examine`: `uint8 [h, w, channels]`; raises UnreadableImageError."""
    return examine(encoded, image_size, channels).pixels


def examine(encoded: bytes, image_size: int, channels: int) -> Decoded:
    """Decode one of FORMATS: `uint8 [h, w, channels]`, upright as its EXIF or XMP data say.

    JPEG is decoded at the smallest scale that still covers `image_size`, which is several times faster and differs
    from a full decode by about 1 %: one more reason to have this function only once. Grey of more than 8 bits is
    scaled to 8, CMYK and palettes become RGB, of several pictures the first is taken, and transparency is dropped: a
    transparent pixel has the colour that is stored. Raises UnreadableImageError, also for what has no agreed scale
    (floating point, 32 bits) and for what would not fit into memory.
    """
    if not encoded:
        raise UnreadableImageError("the file is empty")
    return (
        _decode_jpeg(encoded, image_size, channels)
        if encoded.startswith(JPEG_MAGIC)
        else Decoded(_decode_with_pillow(encoded, channels))
    )


def fit(pixels: NDArray[np.uint8], image_size: int) -> NDArray[np.uint8]:
    """The centre square of `[h, w, channels]`, resized to `[image_size, image_size, channels]`."""
    height, width, channels = pixels.shape
    if height == width == image_size:
        return pixels
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    image = Image.fromarray(pixels if channels == 3 else pixels[:, :, 0])
    resized = image.resize(
        (image_size, image_size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side)
    )
    return np.asarray(resized).reshape(image_size, image_size, channels)


def _decode_jpeg(encoded: bytes, image_size: int, channels: int) -> Decoded:
    segments = list(_segments(encoded))
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(encoded)
        whole = any(marker in WHOLE_FRAMES for marker, _ in segments)
        _refuse_huge(height, width, MAX_UNPACKED_PIXELS if whole else MAX_PIXELS)
        side = min(image_size, height, width)
        kind = "RGB" if channels == 3 else "GRAY"
        pixels = np.asarray(simplejpeg.decode_jpeg(encoded, kind, min_height=side, min_width=side))
    except UnreadableImageError:
        raise
    except ValueError as error:
        # Rare kinds Pillow reads. What is damaged it reads as far as it can, or says what is wrong.
        return Decoded(_decode_with_pillow(encoded, channels), str(error) if str(error).startswith(DAMAGE) else None)
    if any(marker == APP1 and content.startswith(ORIENTED) for marker, content in segments):
        # Reads no pixels, and the same fields as for other formats.
        with contextlib.suppress(Exception), Image.open(io.BytesIO(encoded), formats=("JPEG",)) as image:
            pixels = _upright(pixels, _orientation(image))
    return Decoded(pixels)


def _segments(jpeg: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and content of each segment before the pixels."""
    place = len(JPEG_MAGIC) - 1
    while place + 4 <= len(jpeg) and jpeg[place] == 0xFF and jpeg[place + 1] != START_OF_SCAN:
        marker, length = jpeg[place + 1], int.from_bytes(jpeg[place + 2 : place + 4], "big")
        if marker == 0xFF:  # any number of these may stand before a marker
            place += 1
            continue
        yield marker, jpeg[place + 4 : place + 2 + length]
        place += 2 + length


def _decode_with_pillow(encoded: bytes, channels: int) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            _refuse_huge(image.height, image.width, MAX_UNPACKED_PIXELS)
            loaded, mode = _eight_bits(image), MODES[channels]
            # Some formats keep their EXIF data behind the pixels, and TIFF is upright once it is loaded.
            orientation = _orientation(image)
            picture = loaded if loaded.mode == mode else loaded.convert(mode)
        pixels = np.asarray(picture, dtype=np.uint8).reshape(picture.height, picture.width, channels)
        return _upright(pixels, orientation)
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise UnreadableImageError(f"the bytes are no image format that is known; known are {known}") from error
    except Exception as error:
        # Pillow's plugins raise whatever they meet: SyntaxError, struct.error, OverflowError, …
        raise UnreadableImageError(str(error) or type(error).__name__) from error


def _eight_bits(image: Image.Image) -> Image.Image:
    """The image with its pixels loaded; grey of up to 16 bits scaled to 8, which Pillow would clip instead."""
    tags = getattr(image, "tag_v2", {})
    mode, bits = image.mode, int(tags.get(BITS_PER_SAMPLE, (16,))[0])
    image.load()
    if mode == "F" or (mode == "I" and image.format != "PPM"):
        raise UnreadableImageError(f"pixels of mode {mode}, 32 bits or signed or floating point, have no agreed scale")
    if mode == "I" or mode.startswith("I;16"):
        grey = (np.asarray(image).astype(np.uint16) >> (bits - 8)).astype(np.uint8)
        return Image.fromarray(255 - grey if tags.get(PHOTOMETRIC) == 0 else grey)
    return image


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(Base.Orientation, 1))
    except Exception:
        # Broken EXIF data, of whatever kind, do not make a picture unreadable.
        return 1


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    turn = UPRIGHT.get(orientation)
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def _refuse_huge(height: int, width: int, most: int) -> None:
    if height * width > most:
        raise UnreadableImageError(f"{width}×{height} pixels are more than the {most} that are allowed")
