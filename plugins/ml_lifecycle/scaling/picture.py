"""One scaler as a picture: its load, what was forecast of it, and the replicas that follow. Pure: SVG out."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from ml_lifecycle.scaling.forecast import Forecast, Question

DAY_SECONDS = 86_400
LOOKS = 96  # forecasts of the last day that are drawn
POINTS = 720  # of the load's line
WIDTH, HEIGHT = 900, 380
LEFT, RIGHT, TOP, BOTTOM = 64, 836, 90, 340
LOAD, BAND, PEAK, INK, PALE = "#1971c2", "#ffe8cc", "#e8590c", "#212529", "#868e96"


@dataclass(frozen=True)
class Look:
    """What was forecast at one time, `horizon` steps ahead of it."""

    at: float  # Unix seconds of the middle of what is forecast
    expected: float
    peak: float


def past_questions(question: Question) -> list[Question]:
    """The question as it was asked over the last day, oldest first."""
    day = min(len(question.loads) - 1, round(DAY_SECONDS / question.step_seconds))
    ages = np.unique(np.linspace(0, max(0, day), LOOKS).astype(int))[::-1].tolist()
    size = len(question.loads)
    return [
        dataclasses.replace(question, loads=question.loads[: size - age], at=question.at - age * question.step_seconds)
        for age in ages
    ]


def look_of(question: Question, found: Forecast) -> Look:
    """Where the forecast that answers the question is drawn."""
    return Look(question.at + question.horizon * question.step_seconds / 2, found.expected, found.peak)


def draw(name: str, question: Question, looks: Sequence[Look], why: str) -> str:
    """The last day of one scaler; the right axis counts replicas."""
    end = max([question.at, *(look.at for look in looks)])
    begin = question.at - min(DAY_SECONDS, (len(question.loads) - 1) * question.step_seconds)
    steps = max(1, round((question.at - begin) / question.step_seconds))
    loads = question.loads[-steps - 1 :]
    known = [look for look in looks if math.isfinite(look.peak)]
    highest = max([*(value for value in loads.tolist() if math.isfinite(value)), *(look.peak for look in known), 1e-9])

    def x(at: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * (at - begin) / max(end - begin, 1), 1)

    def y(load: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * load / (1.1 * highest), 1)

    upper = [(x(look.at), y(look.peak)) for look in known]
    lower = [(x(look.at), y(look.expected)) for look in reversed(known)]
    times = question.at - question.step_seconds * np.arange(len(loads) - 1, -1, -1)
    parts = [
        _text(24, 32, f"{name}: load, forecast and replicas", size=19),
        _text(24, 56, why),
        f'<polygon points="{_path([*upper, *lower])}" fill="{BAND}"/>' if known else "",
        f'<polyline points="{_path(upper)}" fill="none" stroke="{PEAK}" stroke-width="1.5"/>' if known else "",
        *_lines(
            [
                (x(at), y(load) if math.isfinite(load) else math.nan)
                for at, load in _thinned(times.tolist(), loads.tolist())
            ]
        ),
        *_axes(begin, end, highest, question.scale, x, y),
        _text(LEFT, TOP - 8, "load", colour=LOAD),
        _text(LEFT + 40, TOP - 8, f"forecast of its peak: from the median to {question.quantile:.1%}", colour=PEAK),
        _text(RIGHT, TOP - 8, "replicas", colour=PALE, anchor="end"),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-size="12" fill="{INK}" '
        'font-family="system-ui, -apple-system, Segoe UI, DejaVu Sans, sans-serif">\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>\n' + "\n".join(filter(None, parts)) + "\n</svg>\n"
    )


def _axes(
    begin: float, end: float, highest: float, scale: float, x: Callable[[float], float], y: Callable[[float], float]
) -> Iterator[str]:
    """Hours below, load at the left, and the replicas that carry it at the right."""
    yield f'<path d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}V{TOP}" fill="none" stroke="{PALE}"/>'
    for quarter in range(5):
        load = highest * quarter / 4
        yield _text(LEFT - 6, y(load) + 4, f"{load:.3g}", anchor="end")
        yield _text(RIGHT + 6, y(load) + 4, f"{math.ceil(load / scale - 1e-6)}", colour=PALE)
    for eighth in range(9):
        at = begin + (end - begin) * eighth / 8
        yield _text(x(at), BOTTOM + 18, f"{datetime.fromtimestamp(at, UTC):%H:%M}", anchor="middle")
    yield _text(RIGHT, BOTTOM + 34, "UTC", colour=PALE, anchor="end")


def _thinned(times: Sequence[float], loads: Sequence[float]) -> list[tuple[float, float]]:
    """At most about POINTS of them, the highest of each stretch; gaps stay."""
    size = max(1, len(loads) // POINTS)
    kept = []
    for start in range(0, len(loads), size):
        stretch = [load for load in loads[start : start + size] if math.isfinite(load)]
        kept.append((times[start], max(stretch) if stretch else math.nan))
    return kept


def _lines(points: Iterable[tuple[float, float]]) -> Iterator[str]:
    """One line for each stretch without a gap."""
    stretch: list[tuple[float, float]] = []
    for point in [*points, (0.0, math.nan)]:
        if math.isfinite(point[1]):
            stretch.append(point)
        elif stretch:
            yield f'<polyline points="{_path(stretch)}" fill="none" stroke="{LOAD}" stroke-width="1.5"/>'
            stretch = []


def _path(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in points)


def _text(x: float, y: float, words: str, *, size: int = 12, colour: str = INK, anchor: str = "start") -> str:
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}" text-anchor="{anchor}">{html.escape(words)}</text>'
    )
