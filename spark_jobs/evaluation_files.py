"""The files of an evaluation: its numbers, its pictures, and what a model server needs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from spark_jobs.calibration import calibration
from spark_jobs.comparison import Comparison
from spark_jobs.job import say
from spark_jobs.pictures import calibration_picture, confusion_picture, mistakes_picture
from spark_jobs.prepared import PreparedDataset
from spark_jobs.scores import confusion

SERVING_ARTIFACT = "serving"


def evaluation_files(
    model: str, dataset: PreparedDataset, result: Mapping[str, Any], run: Comparison, serving: Mapping[str, bytes]
) -> dict[str, bytes]:
    """Content by path; `serving` are the serving files. `evaluation.json` is for people: the gate reads the result."""
    classes, images = dataset.classes, len(run.challenger.labels)
    title = f"{model}: {result['accuracy']:.1%} of {images} held out"
    return {
        "evaluation.json": json.dumps(result, indent=2).encode(),
        **pictures(
            {
                "confusion_matrix.png": lambda: confusion_picture(
                    confusion(run.challenger, len(classes)), classes, title
                ),
                "calibration.png": lambda: calibration_picture(calibration(run.challenger), model),
                "mistakes.png": lambda: mistakes_picture(run.samples.mistakes, classes, images),
            }
        ),
        **{f"{SERVING_ARTIFACT}/{name}": content for name, content in serving.items()},
    }


def pictures(draw: Mapping[str, Callable[[], bytes]]) -> dict[str, bytes]:
    """The pictures that can be drawn. What they show stands in numbers elsewhere: none decides over an evaluation."""
    drawn = {}
    for name, picture in draw.items():
        try:
            drawn[name] = picture()
        except Exception as error:
            say(f"warning: {name} is left out, it cannot be drawn: {type(error).__name__}: {error}")
    return drawn
