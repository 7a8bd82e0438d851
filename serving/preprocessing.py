"""From an encoded image to what the network sees: the one preprocessing of ingest, training, evaluation and serving.

Two steps, apart because ingest stores what lies between them: `shrink` (decode, crop to the centre square, resize;
uint8) and `normalise` (float32, channels first). Needs numpy, Pillow and simplejpeg only.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base

MAX_PIXELS = 100_000_000
JPEG_MAGIC = b"\xff\xd8\xff"
EXIF_MAGIC = b"Exif\x00\x00"
# EXIF stands in the first segment of a JPEG, or after JFIF's, and fills no more than one.
EXIF_PLACES = 1_024
SEGMENT_BYTES = 65_536
MODES = {1: "L", 3: "RGB"}
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


def decode(encoded: bytes, image_size: int, channels: int) -> NDArray[np.uint8]:
    """Decode JPEG, PNG and whatever else Pillow reads: `uint8 [h, w, channels]`, upright as its EXIF data say.

    JPEG is decoded at the smallest scale that still covers `image_size`, which is several times faster and differs
    from a full decode by about 1 %: one more reason to have this function only once. 16-bit grey is scaled to 8 bits,
    CMYK and palettes become RGB, and transparency is dropped: a transparent pixel has the colour that is stored.
    Raises UnreadableImageError.
    """
    if not encoded:
        raise UnreadableImageError("the file is empty")
    if encoded.startswith(JPEG_MAGIC):
        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(encoded)
            _refuse_huge(height, width)
            colorspace = "RGB" if channels == 3 else "GRAY"
            side = min(image_size, height, width)
            pixels = simplejpeg.decode_jpeg(encoded, colorspace, min_height=side, min_width=side)
        except UnreadableImageError:
            raise
        except ValueError:
            # CMYK and other rare kinds: Pillow reads them, or says what is wrong.
            return _decode_with_pillow(encoded, channels)
        start = encoded.find(EXIF_MAGIC, 0, EXIF_PLACES)
        return _upright(np.asarray(pixels), _orientation(encoded[start : start + SEGMENT_BYTES] if start > 0 else b""))
    return _decode_with_pillow(encoded, channels)


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


def _decode_with_pillow(encoded: bytes, channels: int) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            _refuse_huge(image.height, image.width)
            orientation = _orientation(image.info.get("exif", b""))
            if image.mode.startswith("I;16"):
                # Pillow clips 16-bit grey to 8 bits instead of scaling it.
                grey = Image.fromarray((np.asarray(image, dtype=np.uint16) >> 8).astype(np.uint8))
                return _upright(_pixels(grey, channels), orientation)
            return _upright(_pixels(image, channels), orientation)
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError("the bytes are no image format that is known") from error
    except Exception as error:
        # Pillow's plugins raise whatever they meet: SyntaxError, struct.error, OverflowError, …
        raise UnreadableImageError(str(error) or type(error).__name__) from error


def _orientation(exif: bytes) -> int:
    if not exif:
        return 1
    fields = Image.Exif()
    try:
        fields.load(exif)
        return int(fields.get(Base.Orientation, 1))
    except Exception:
        # Broken EXIF data, of whatever kind, do not make a picture unreadable.
        return 1


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    turn = UPRIGHT.get(orientation)
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def _pixels(image: Image.Image, channels: int) -> NDArray[np.uint8]:
    return np.asarray(image.convert(MODES[channels]), dtype=np.uint8).reshape(image.height, image.width, channels)


def _refuse_huge(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise UnreadableImageError(f"{width}×{height} pixels are more than the {MAX_PIXELS} that are allowed")
