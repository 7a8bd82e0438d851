"""Pictures for the MLflow run."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure
from numpy.typing import NDArray

from spark_jobs.calibration import Calibration
from spark_jobs.samples import Mistake

MAX_WRITTEN_CLASSES = 30
MAX_NAME = 20


def confusion_picture(matrix: NDArray[np.int64], classes: Sequence[str], title: str) -> bytes:
    """The confusion matrix as a PNG: shades are shares of the true class, numbers are images."""
    side = max(4.0, min(14.0, 1.5 + 0.5 * len(classes)))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(title, parse_math=False)
    if len(classes) <= MAX_WRITTEN_CLASSES:
        names = [_short(name, number) for number, name in enumerate(classes)]
        rotation = 90 if max(map(len, names)) > 3 else 0
        axes.set_xticks(range(len(names)), names, rotation=rotation, parse_math=False)
        axes.set_yticks(range(len(names)), names, parse_math=False)
        for row, column in zip(*np.nonzero(matrix), strict=True):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=color)
    return _png(figure)


def calibration_picture(found: Calibration, model: str) -> bytes:
    """The reliability diagram as a PNG: accuracy by confidence beside the diagonal, and how many images say so."""
    figure = Figure(figsize=(5, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    edges = np.linspace(0, 1, len(found.images) + 1)[:-1]
    width = 1 / len(found.images)
    filled = found.images > 0
    above.plot([0, 1], [0, 1], color="grey", linestyle="--", label="perfect")
    above.bar(edges, found.accuracy, width, align="edge", alpha=0.4, edgecolor="white", label="accuracy")
    above.plot(found.confidence[filled], found.accuracy[filled], marker="o", markersize=4)
    above.set(ylabel="accuracy", ylim=(0, 1))
    above.set_title(f"{model}: expected calibration error {found.error:.4f}", parse_math=False)
    above.legend(loc="upper left")
    below.bar(edges, found.images, width, align="edge", alpha=0.4, edgecolor="white")
    below.set(xlabel="confidence", ylabel="images", xlim=(0, 1))
    return _png(figure)


def mistakes_picture(mistakes: Sequence[Mistake], classes: Sequence[str], images: int) -> bytes:
    """The mistakes that the model was surest of as a PNG, each with its class, the answer and the confidence in it."""
    columns = min(4, max(1, len(mistakes)))
    rows = max(1, math.ceil(len(mistakes) / columns))
    figure = Figure(figsize=(max(5.0, 2.2 * columns), 0.6 + 2.4 * rows), layout="constrained")
    title = f"surest mistakes of {images} held out" if mistakes else f"no mistake among {images} held out"
    figure.suptitle(title)
    for place, mistake in enumerate(mistakes):
        axes = figure.add_subplot(rows, columns, place + 1)
        grey = mistake.pixels.shape[2] == 1
        axes.imshow(
            mistake.pixels[:, :, 0] if grey else mistake.pixels, cmap="gray" if grey else None, vmin=0, vmax=255
        )
        label, predicted = (_short(classes[index], index) for index in (mistake.label, mistake.predicted))
        title = f"{label}, taken for\n{predicted} ({mistake.confidence:.1%})"
        axes.set_title(title, fontsize=9, parse_math=False)
        axes.set_axis_off()
    return _png(figure)


def _short(name: str, number: int) -> str:
    """The name of a class as it can be drawn; its number where the font has not got its letters."""
    if any(not _font().get_char_index(ord(sign)) for sign in name if sign.isprintable()):
        return f"class {number}"
    name = "".join(sign if sign.isprintable() else " " for sign in name)
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"


@functools.cache
def _font() -> Any:
    """The font that comes with matplotlib, and draws all pictures."""
    return font_manager.get_font(font_manager.findfont("DejaVu Sans"))


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()
