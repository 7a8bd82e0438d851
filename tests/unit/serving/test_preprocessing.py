import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, PngImagePlugin

from serving import preprocessing
from serving.preprocessing import Preprocessing, UnreadableImageError, decode, examine, fit, shrink


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


def segment(marker, content):
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content


XMP = b"http://ns.adobe.com/xap/1.0/\0"
BEFORE_EXIF = {
    "an ICC profile": segment(0xE2, b"ICC_PROFILE\0" + bytes(600)),
    "50 kB of extended XMP": segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(50_000)),
    "2 kB of XMP": segment(0xE1, XMP + b"<x/>" + b" " * 2_000),
    "a comment": segment(0xFE, bytes(2_000)),
    "Photoshop's own": segment(0xED, b"Photoshop 3.0\0" + bytes(8_000)),
    "a comment that says Exif": segment(0xFE, b"Exif\0\0MM nonsense"),
    "fill bytes": b"\xff\xff\xff",
}


@pytest.mark.parametrize("before", BEFORE_EXIF)
def test_exif_data_are_found_wherever_they_stand(before):
    exif = Image.Exif()
    exif[0x0112] = 6
    encoded = encode(gradient(48, 64), "JPEG", exif=exif)
    moved = encoded[:2] + BEFORE_EXIF[before] + encoded[2:]
    np.testing.assert_array_equal(decode(moved, 64, 3), decode(encoded, 64, 3))
    assert decode(moved, 64, 3).shape == (64, 48, 3)


def test_the_way_up_may_stand_in_xmp_alone_and_behind_the_pixels():
    encoded = encode(gradient(48, 64), "JPEG")
    told = encoded[:2] + segment(0xE1, XMP + b'<rdf tiff:Orientation="6"/>') + encoded[2:]
    assert decode(told, 64, 3).shape == (64, 48, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    png = encode(gradient(48, 64), "PNG", exif=exif)
    at = png.index(b"eXIf") - 4
    length = int.from_bytes(png[at : at + 4], "big") + 12
    chunk, end = png[at : at + length], png.index(b"IEND") - 4
    assert decode(png[:at] + png[at + length : end] + chunk + png[end:], 64, 3).shape == (64, 48, 3)


def test_broken_exif_data_are_passed_over():
    encoded = encode(gradient(20, 20), "JPEG", exif=b"Exif\x00\x00nonsense")
    np.testing.assert_array_equal(decode(encoded, 20, 3), decode(encode(gradient(20, 20), "JPEG"), 20, 3))


def test_scaled_jpeg_decoding_stays_close_to_the_full_one():
    pixels = gradient(400, 400)
    scaled = shrink(encode(pixels, "JPEG", quality=95), 32, 3).astype(int)
    full = fit(pixels, 32).astype(int)
    assert np.abs(scaled - full).mean() < 4
    assert decode(encode(pixels, "JPEG"), 32, 3).shape[0] < 400


@pytest.mark.parametrize("image_format", ["PNG", "TIFF", "PPM"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bit_ramps_keep_their_shades(image_format, channels):
    ramp = np.repeat(np.linspace(0, 65_535, 32).astype(np.uint16)[None], 32, axis=0)
    read = decode(encode(ramp, image_format), 32, channels)
    assert np.abs(read[0, :, 0].astype(int) - (ramp[0] >> 8)).max() <= 1


def tiff(pixels, *, bits, photometric):
    """An uncompressed little-endian TIFF of one grey strip."""
    height, width = pixels.shape
    fields = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 200), (277, 1)]
    fields += [(278, height), (279, pixels.nbytes)]
    directory = len(fields).to_bytes(2, "little")
    for tag, value in fields:
        directory += tag.to_bytes(2, "little") + b"\x04\0" + (1).to_bytes(4, "little") + value.to_bytes(4, "little")
    head = b"II*\0" + (8).to_bytes(4, "little") + directory + bytes(4)
    return head.ljust(200, b"\0") + pixels.astype("<u2").tobytes()


def test_grey_of_which_white_is_zero_is_turned_round():
    shades = np.repeat(np.linspace(0, 65_535, 16).astype(np.uint16)[None], 16, axis=0)
    dark_left = decode(tiff(shades, bits=16, photometric=1), 16, 1)
    np.testing.assert_array_equal(decode(tiff(shades, bits=16, photometric=0), 16, 1), 255 - dark_left)
    assert dark_left[0, -1, 0] == 255


@pytest.mark.parametrize("pixels", [np.full((8, 8), 0.5, np.float32), np.full((8, 8), 70_000, np.int32)])
def test_pixels_without_an_agreed_scale_are_refused(pixels):
    with pytest.raises(UnreadableImageError, match="have no agreed scale"):
        decode(encode(pixels, "TIFF"), 8, 1)


def test_a_png_with_much_text_is_read():
    text = PngImagePlugin.PngInfo()
    text.add_text("history", "edited " * 300_000, zip=True)
    assert decode(encode(gradient(20, 20), "PNG", pnginfo=text), 16, 3).shape == (20, 20, 3)


def test_of_several_pictures_the_first_is_taken():
    for image_format in ("GIF", "PNG", "WEBP", "TIFF"):
        buffer = io.BytesIO()
        first, second = (Image.new("RGB", (16, 16), shade) for shade in ("white", "black"))
        first.save(buffer, format=image_format, save_all=True, append_images=[second])
        assert decode(buffer.getvalue(), 16, 1).min() > 250, image_format


def test_a_format_that_starts_another_program_is_not_known():
    with pytest.raises(UnreadableImageError, match="known are JPEG, "):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", 16, 3)


def noise(size):
    return np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)


def test_a_damaged_jpeg_is_read_as_far_as_it_goes_and_its_damage_is_said():
    whole = encode(noise(100), "JPEG")
    assert examine(whole, 100, 3).damage is None
    zeroed = whole[:4000] + bytes(40) + whole[4040:]
    assert "Corrupt JPEG data" in (examine(zeroed, 100, 3).damage or "")
    assert examine(whole[: len(whole) // 2] + b"\xff\xd9", 100, 3).damage
    with pytest.raises(UnreadableImageError):
        examine(whole[: len(whole) // 2], 100, 3)


def test_a_progressive_jpeg_is_measured_by_what_it_unpacks_to(monkeypatch):
    monkeypatch.setattr(preprocessing, "MAX_UNPACKED_PIXELS", 100)
    assert decode(encode(gradient(20, 20), "JPEG"), 20, 3).shape == (20, 20, 3)
    with pytest.raises(UnreadableImageError, match="more than the 100"):
        decode(encode(gradient(20, 20), "JPEG", progressive=True), 16, 3)


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
    monkeypatch.setattr(preprocessing, "MAX_UNPACKED_PIXELS", 100)
    with pytest.raises(UnreadableImageError, match="20×20 pixels are more than the 100"):
        shrink(encode(gradient(20, 20), image_format), 16, 3)


def test_parameters_round_trip_and_are_checked():
    parameters = Preprocessing(16, 3, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert Preprocessing.from_document(parameters.to_document()) == parameters
    with pytest.raises(ValueError, match="channels must be 1 or 3"):
        Preprocessing(16, 3, (0.5,), (0.5,))
