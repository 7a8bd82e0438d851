import io

import numpy as np
import pytest
from PIL import Image

from spark_jobs.calibration import calibration
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
