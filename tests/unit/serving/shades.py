"""Flat images, for a model that tells dark from bright."""

import base64
import io

from PIL import Image


def encoded(shade, size=(8, 8), image_format="PNG", mode="L"):
    """One flat image."""
    buffer = io.BytesIO()
    Image.new(mode, size, shade).save(buffer, format=image_format)
    return buffer.getvalue()


def base64_image(shade, **options):
    return base64.b64encode(encoded(shade, **options)).decode()
