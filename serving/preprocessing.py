"""From an encoded image to what the network sees: the one preprocessing of ingest, training, evaluation and serving.

Two steps, apart because ingest stores what lies between them: `shrink` (decode, crop to the centre square, resize;
uint8) and `normalise` (float32, channels first). Needs numpy, Pillow and simplejpeg only.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 100_000_000
JPEG_MAGIC = b"\xff\xd8\xff"
MODES = {1: "L", 3: "RGB"}


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
        return self.normalise(np.stack([shrink(image, self.image_size, self.channels) for image in encoded]))

    def normalise(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """`uint8 [n, h, w, channels]` → `float32 [n, channels, h, w]`, of zero mean and unit deviation."""
        scale = 1.0 / (255.0 * np.asarray(self.std, dtype=np.float32))
        shift = np.asarray(self.mean, dtype=np.float32) / np.asarray(self.std, dtype=np.float32)
        channels_first = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32)
        channels_first *= scale.reshape(1, -1, 1, 1).astype(np.float32)
        channels_first -= shift.reshape(1, -1, 1, 1)
        return channels_first


def shrink(encoded: bytes, image_size: int, channels: int) -> NDArray[np.uint8]:
    """Decode, crop to the centre square and resize: `uint8 [image_size, image_size, channels]`.

    Raises UnreadableImageError.
    """
    return fit(decode(encoded, image_size, channels), image_size)


def decode(encoded: bytes, image_size: int, channels: int) -> NDArray[np.uint8]:
    """Decode JPEG, PNG and whatever else Pillow reads: `uint8 [h, w, channels]`.

    JPEG is decoded at the smallest scale that still covers `image_size`, which is several times faster and differs
    from a full decode by about 1 %: one more reason to have this function only once. Raises UnreadableImageError.
    """
    if not encoded:
        raise UnreadableImageError("the file is empty")
    if encoded.startswith(JPEG_MAGIC):
        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(encoded)
            _refuse_huge(height, width)
            colorspace = "RGB" if channels == 3 else "GRAY"
            side = min(image_size, height, width)
            return np.asarray(simplejpeg.decode_jpeg(encoded, colorspace, min_height=side, min_width=side))
        except UnreadableImageError:
            raise
        except ValueError:
            # CMYK and other rare kinds: Pillow reads them, or says what is wrong.
            return _decode_with_pillow(encoded, channels)
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
            if image.mode.startswith("I;16"):
                # Pillow clips 16-bit grey to 8 bits instead of scaling it.
                grey = Image.fromarray((np.asarray(image, dtype=np.uint16) >> 8).astype(np.uint8))
                return _pixels(grey, channels)
            return _pixels(image, channels)
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError("the bytes are no image format that is known") from error
    except Exception as error:
        # Pillow's plugins raise whatever they meet: SyntaxError, struct.error, OverflowError, …
        raise UnreadableImageError(str(error) or type(error).__name__) from error


def _pixels(image: Image.Image, channels: int) -> NDArray[np.uint8]:
    return np.asarray(image.convert(MODES[channels]), dtype=np.uint8).reshape(image.height, image.width, channels)


def _refuse_huge(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise UnreadableImageError(f"{width}×{height} pixels are more than the {MAX_PIXELS} that are allowed")
