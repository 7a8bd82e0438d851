import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from spark_jobs.calibration import calibration
from spark_jobs.evaluation_files import pictures
from spark_jobs.pictures import calibration_picture, confusion_picture, mistakes_picture
from spark_jobs.samples import Mistake
from spark_jobs.scores import answers


def opened(picture):
    image = Image.open(io.BytesIO(picture))
    image.load()
    assert image.format == "PNG"
    return image


def test_confusion():
    opened(confusion_picture(np.array([[5, 1], [0, 7]]), ["a", "b"], "title"))


def test_calibration():
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [1.0, 0.0]], dtype=np.float32)
    opened(calibration_picture(calibration(answers(probabilities, np.array([0, 1, 1]), ["a", "b"], ["a", "b"])), "m"))


@pytest.mark.parametrize("channels", [1, 3])
def test_mistakes_show_their_pixels(channels):
    black = np.zeros((8, 8, channels), np.uint8)
    mistake = Mistake(black, 0, 1, 0.987)
    one = opened(mistakes_picture([mistake], ["a very long name of a class", "b"], 10))
    none = opened(mistakes_picture([], ["a", "b"], 10))
    assert opened(mistakes_picture([mistake] * 16, ["a", "b"], 10)).height > one.height
    # The dark image covers a good part of the one picture; the other says in words that there is none.
    dark = [float((np.asarray(picture.convert("L")) < 30).mean()) for picture in (one, none)]
    assert dark[0] > 0.1 > 0.03 > dark[1] > 0


ODD_CLASSES = [
    "$10_$20",
    "$^$",
    "a$b#c$",
    r"$\bad$",
    "猫と犬",
    "emoji😀",
    "line\nbreak",
    "x" * 240,
    r"\frac{",
    "%s",
    "{}",
]


def test_any_name_of_a_class_is_drawn(recwarn):
    count = len(ODD_CLASSES)
    opened(confusion_picture(np.eye(count, dtype=int), ODD_CLASSES, "$^$: 100%"))
    black = np.zeros((8, 8, 1), np.uint8)
    opened(mistakes_picture([Mistake(black, n, count - 1 - n, 0.9) for n in range(count)], ODD_CLASSES, 10))
    opened(
        calibration_picture(calibration(answers(np.array([[0.9, 0.1]]), np.array([0]), ["a", "b"], ["a", "b"])), "$^$")
    )
    assert not [warning for warning in recwarn if "lyph" in str(warning.message)]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30), min_size=2, max_size=3))
def test_no_name_keeps_a_picture_from_being_drawn(names):
    opened(confusion_picture(np.eye(len(names), dtype=int), names, names[0]))


def test_a_picture_that_cannot_be_drawn_is_left_out_and_said(capsys):
    def fail():
        raise ValueError("no glyphs")

    assert pictures({"a.png": fail, "b.png": lambda: b"b"}) == {"b.png": b"b"}
    assert "warning: a.png is left out, it cannot be drawn: ValueError: no glyphs" in capsys.readouterr().out
