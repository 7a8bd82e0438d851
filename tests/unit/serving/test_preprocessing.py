import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from serving import preprocessing
from serving.preprocessing import Preprocessing, UnreadableImageError, decode, fit, shrink


def encode(pixels, image_format, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=image_format, **options)
    return buffer.getvalue()


def gradient(height, width):
    ramp = np.linspace(0, 255, width, dtype=np.uint8)
    return np.repeat(np.repeat(ramp[None, :, None], height, axis=0), 3, axis=2)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]), st.sampled_from(["PNG", "JPEG"]))
def test_any_size_becomes_the_square(height, width, channels, image_format):
    square = shrink(encode(gradient(height, width), image_format), 16, channels)
    assert square.shape == (16, 16, channels)
    assert square.dtype == np.uint8


def test_what_ingest_stores_is_what_serving_computes():
    """Training reads shrunk pixels, serving shrinks the original: both must end in the same numbers."""
    original = encode(gradient(30, 50), "PNG")
    stored = shrink(original, 16, 3)
    steps = Preprocessing(16, 3, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    np.testing.assert_array_equal(steps([original])[0], steps.normalise(stored[None])[0])
    np.testing.assert_array_equal(fit(stored, 16), stored)


def test_the_centre_is_kept():
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 200
    assert (shrink(encode(pixels, "PNG"), 8, 3)[:, 1:-1] == 200).all()


def test_normalised_pixels_have_channels_first():
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    pixels[..., 1] = 255
    tensor = Preprocessing(4, 3, (0.0, 0.5, 0.5), (1.0, 0.5, 0.25)).normalise(pixels)
    assert tensor.dtype == np.float32
    assert tensor.shape == (2, 3, 4, 4)
    np.testing.assert_allclose(tensor[0, :, 0, 0], [0.0, 1.0, -2.0], atol=1e-6)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "CMYK", "1"])
@pytest.mark.parametrize("image_format", ["PNG", "JPEG"])
def test_odd_kinds_are_read(mode, image_format):
    buffer = io.BytesIO()
    try:
        Image.fromarray(gradient(20, 20)).convert(mode).save(buffer, format=image_format)
    except OSError:
        pytest.skip(f"{image_format} has no {mode}")
    grey = shrink(buffer.getvalue(), 16, 1)
    assert grey[8, 1, 0] < 80
    assert grey[8, 14, 0] > 170


def test_sixteen_bits_are_scaled_not_clipped():
    pixels = np.full((8, 8), 0x8000, np.uint16)
    assert shrink(encode(pixels, "PNG"), 8, 1)[0, 0, 0] == 0x80


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_stands_as_its_exif_data_say(image_format, orientation):
    pixels = np.zeros((40, 64, 3), np.uint8)
    pixels[:20, :32], pixels[:20, 32:, 0] = 200, 120
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = encode(pixels, image_format, exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))).convert("RGB"))
    np.testing.assert_array_equal(decode(encoded, 40, 3), upright)


def test_broken_exif_data_are_passed_over():
    encoded = encode(gradient(20, 20), "JPEG", exif=b"Exif\x00\x00nonsense")
    np.testing.assert_array_equal(decode(encoded, 20, 3), decode(encode(gradient(20, 20), "JPEG"), 20, 3))


def test_scaled_jpeg_decoding_stays_close_to_the_full_one():
    pixels = gradient(400, 400)
    scaled = shrink(encode(pixels, "JPEG", quality=95), 32, 3).astype(int)
    full = fit(pixels, 32).astype(int)
    assert np.abs(scaled - full).mean() < 4
    assert decode(encode(pixels, "JPEG"), 32, 3).shape[0] < 400


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"not an image", "no image format that is known"),
        (encode(gradient(20, 20), "PNG")[:60], "."),
        (encode(gradient(200, 200), "JPEG")[:300], "."),
    ],
)
def test_what_cannot_be_read_says_why(content, message):
    with pytest.raises(UnreadableImageError, match=message):
        shrink(content, 16, 3)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG"])
def test_bombs_are_refused_before_they_are_unpacked(image_format, monkeypatch):
    monkeypatch.setattr(preprocessing, "MAX_PIXELS", 100)
    with pytest.raises(UnreadableImageError, match="20×20 pixels are more than the 100"):
        shrink(encode(gradient(20, 20), image_format), 16, 3)


def test_parameters_round_trip_and_are_checked():
    parameters = Preprocessing(16, 3, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert Preprocessing.from_document(parameters.to_document()) == parameters
    with pytest.raises(ValueError, match="channels must be 1 or 3"):
        Preprocessing(16, 3, (0.5,), (0.5,))
