"""One rollout as a picture: what both sides served, and how the evidence grew. Pure: a report in, SVG out."""

from __future__ import annotations

import html
import itertools
import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ml_lifecycle.kserve.trace import Point, Trace

WIDTH, HEIGHT = 900, 620
_LEFT, _RIGHT = 64, 836
_UPPER, _LOWER = (150, 340), (400, 560)
"""Top and bottom of the panels."""
_CANARY, _STABLE, _TRAFFIC, _INK, _PALE = "#e8590c", "#1971c2", "#e3e8ee", "#212529", "#868e96"
_AGAINST, _FOR = "#c92a2a", "#2b8a3e"
_TICKS = (0.5, 1, 2, 5, 10, 15, 20, 30, *(60 * m for m in (1, 2, 5, 10, 15, 20, 30)), *(3600 * h for h in (1, 2, 4, 8)))
_UNITS = ((3600, "h"), (60, "min"), (0, "s"))
"""Seconds between two marks of the time axis, and the units that they are told in."""
_DASHES = ("", "7 4", "2 3", "10 3 2 3")
"""One for each metric."""


@dataclass(frozen=True)
class _Scale:
    """From a value to a place on the page; what lies outside is drawn at the border."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        inside = min(max(value, self.low), self.high)
        share = (inside - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def draw(report: Mapping[str, Any]) -> str:
    """The picture of a rollout's report; empty where it had no look."""
    trace = tuple(Point.from_json(look) for look in report["looks"])
    if not trace:
        return ""
    time = _Scale(trace[0].at, max(trace[-1].at, trace[0].at + 1), _LEFT, _RIGHT)
    parts = [
        *_heading(report, trace),
        *_traffic_panel(trace, time, *_UPPER),
        *_evidence_panel(trace, time, *_LOWER),
        *_time_axis(time, _LOWER[1]),
        *_steps(trace, time),
        *_warmup(trace, time),
        *_ending(report, time, trace[-1].at),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="system-ui, -apple-system, Segoe UI, DejaVu Sans, sans-serif" font-size="12" fill="{_INK}">\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _heading(report: Mapping[str, Any], trace: Trace) -> Iterator[str]:
    seconds = _clock(trace[-1].at - trace[0].at)
    requests = sum(point.canary[0] for point in trace)
    beside = f" beside version {report['stable_version']}" if report["stable_version"] else ""
    title = f"{report['model']} version {report['version']}{beside}: {_outcome(report)}"
    yield _text(24, 32, title, size=19, bold=True)
    yield _text(24, 53, f"{seconds} after the first look, {requests:,} requests on the canary", colour=_PALE)
    for line, words in enumerate(textwrap.wrap(report["reason"], 132, max_lines=2, placeholder=" …")):
        yield _text(24, 74 + 16 * line, words)


def _traffic_panel(trace: Trace, time: _Scale, top: float, bottom: float) -> Iterator[str]:
    """Failed requests of both sides, before the canary's share of the traffic."""
    share = _Scale(0, 100, bottom, top)
    yield _area([(time.at(point.at), share.at(point.percent)) for point in trace], bottom)
    yield from _legend(
        top - 28,
        "Failed requests",
        (("canary", _CANARY, ""), ("stable", _STABLE, "")),
        "lines: all looks so far (without a warm-up), dots: each look; grey: the canary's share of the traffic",
    )
    sides = {side: [getattr(point, side) for point in trace] for side in ("stable", "canary")}
    rates = _Scale(0, _rounded_up(max(0.01, *(_highest(counts) for counts in sides.values()))), bottom, top)
    yield from _grid(share.at(level) for level in (0, 50, 100))
    for tick in (0, 0.5, 1):
        yield _text(_LEFT - 8, share.at(100 * tick) + 4, _percent(tick * rates.high), anchor="end")
        yield _text(_RIGHT + 8, share.at(100 * tick) + 4, f"{100 * tick:.0f} %", colour=_PALE)
    for side, colour in (("stable", _STABLE), ("canary", _CANARY)):
        for point, (requests, failed) in zip(trace, sides[side], strict=True):
            if requests:
                yield _dot(time.at(point.at), rates.at(failed / requests), colour)
        counted = [(0, 0) if point.warmup else counts for point, counts in zip(trace, sides[side], strict=True)]
        line = zip(trace, _cumulative(counted), strict=True)
        yield _line([(time.at(point.at), rates.at(rate)) for point, rate in line if rate is not None], colour)


def _evidence_panel(trace: Trace, time: _Scale, top: float, bottom: float) -> Iterator[str]:
    """Each metric's evidence against the version and for it, in parts of what decides."""
    metrics = list(dict.fromkeys(name.partition(".")[0] for point in trace for name in point.numbers))
    scale = _Scale(0, 1.4, bottom, top)
    yield from _legend(
        top - 28,
        "Evidence",
        (("against", _AGAINST, ""), ("for", _FOR, ""), *((m, _INK, _DASHES[i % 4]) for i, m in enumerate(metrics))),
        "one line against at 100 % rolls back, every line for at 100 % promotes",
    )
    yield from _grid(scale.at(level) for level in (0.0, 0.5))
    for level in (0.0, 0.5, 1.0):
        yield _text(_LEFT - 8, scale.at(level) + 4, _percent(level), anchor="end")
    yield _text(_RIGHT + 8, scale.at(1) + 4, "decides")
    yield _line([(_LEFT, scale.at(1)), (_RIGHT, scale.at(1))], _INK, width=1, dash="4 3")
    for number, metric in enumerate(metrics):
        for side, colour in ((1, _FOR), (0, _AGAINST)):
            places = [(time.at(point.at), scale.at(_evidence(point, metric)[side])) for point in trace]
            yield _line(places, colour, dash=_DASHES[number % 4])
            yield _dot(*places[-1], colour, opacity=1)


def _evidence(point: Point, metric: str) -> tuple[float, float]:
    """Against and for, by the metric's numbers: `harm` is against it, the greatest of the others for it; 0 without."""
    numbers = {name: value for name, value in point.numbers.items() if name.partition(".")[0] == metric}
    against = numbers.pop(f"{metric}.harm", 0.0)
    return against, max(numbers.values(), default=0.0)


def _time_axis(time: _Scale, bottom: float) -> Iterator[str]:
    seconds = time.high - time.low
    step = next((tick for tick in _TICKS if tick >= seconds / 7), _rounded_up(seconds / 7))
    size, unit = next((size or 1, unit) for size, unit in _UNITS if step >= size)
    for number in range(int(seconds / step) + 1):
        words = f"{number * step / size:g} {unit}"
        yield _text(time.at(time.low + number * step), bottom + 18, words, anchor="middle")
    yield _text((_LEFT + _RIGHT) / 2, bottom + 38, "since the first look", anchor="middle", colour=_PALE)


def _steps(trace: Trace, time: _Scale) -> Iterator[str]:
    """Where each step began."""
    for at, percent in _step_starts(trace):
        yield _text(time.at(at) + 5, _UPPER[0] + 15, f"{percent} %", colour=_PALE)
        for panel in (_UPPER, _LOWER):
            yield _line([(time.at(at), y) for y in panel], _PALE, width=1, dash="1 3")


def _warmup(trace: Trace, time: _Scale) -> Iterator[str]:
    """Where the canary's warm-up, whose looks are no evidence, began and ended; nothing where there was none."""
    places = [place for place, point in enumerate(trace) if point.warmup]
    if not places:
        return
    began, ended = time.at(trace[max(0, places[0] - 1)].at), time.at(trace[places[-1]].at)
    yield _text(began + 5, _UPPER[0] + 31, "warm-up", colour=_PALE)
    for panel in (_UPPER, _LOWER):
        yield _line([(ended, y) for y in panel], _PALE, width=1, dash="1 3")


def _ending(report: Mapping[str, Any], time: _Scale, at: float) -> Iterator[str]:
    colour = _FOR if report["outcome"] == "promoted" else _AGAINST
    for panel in (_UPPER, _LOWER):
        yield _line([(time.at(at), y) for y in panel], colour)
    yield _text(time.at(at), _UPPER[1] + 30, _outcome(report), anchor="end", colour=colour, bold=True)


def _outcome(report: Mapping[str, Any]) -> str:
    return str(report["outcome"]).replace("_", " ")


def _highest(counts: Sequence[tuple[int, int]]) -> float:
    """The highest rate that the axis must show: a look of few requests may lie far above all of them together."""
    together = max(rate or 0.0 for rate in _cumulative(counts))
    alone = max(failed / requests if requests else 0.0 for requests, failed in counts)
    return max(1.1 * together, min(alone, 2 * together))


def _cumulative(counts: Sequence[tuple[int, int]]) -> list[float | None]:
    """The share of failed requests so far, after each look; None before the first request."""
    requests = itertools.accumulate(each[0] for each in counts)
    failed = itertools.accumulate(each[1] for each in counts)
    return [bad / total if total else None for total, bad in zip(requests, failed, strict=True)]


def _step_starts(trace: Trace) -> Iterator[tuple[float, int]]:
    """When each step began, and its percent: a look tells of the time since the one before it."""
    yield trace[0].at, trace[0].percent
    for before, point in itertools.pairwise(trace):
        if before.percent != point.percent:
            yield before.at, point.percent


def _rounded_up(value: float) -> float:
    """The next round number."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(
        factor * power for factor in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if factor * power >= value * (1 - 1e-9)
    )


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"


def _clock(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def _text(
    x: float, y: float, words: str, *, size: int = 12, bold: bool = False, anchor: str = "start", colour: str = _INK
) -> str:
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" fill="{colour}"{weight}>'
        f"{html.escape(words)}</text>"
    )


def _line(places: Iterable[tuple[float, float]], colour: str, *, width: float = 2, dash: str = "") -> str:
    points = " ".join(f"{x:g},{y:g}" for x, y in places)
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}"{dashes}/>'


def _dot(x: float, y: float, colour: str, *, opacity: float = 0.35) -> str:
    return f'<circle cx="{x:g}" cy="{y:g}" r="2.5" fill="{colour}" fill-opacity="{opacity}"/>'


def _area(places: Sequence[tuple[float, float]], bottom: float) -> str:
    """Stairs down to the bottom: a value holds since the place before."""
    stairs = [places[0]]
    for (before, _), (x, y) in itertools.pairwise(places):
        stairs += [(before, y), (x, y)]
    outline = [(places[0][0], bottom), *stairs, (places[-1][0], bottom)]
    return f'<polygon points="{" ".join(f"{x:g},{y:g}" for x, y in outline)}" fill="{_TRAFFIC}"/>'


def _grid(heights: Iterable[float]) -> Iterator[str]:
    for y in heights:
        yield _line([(_LEFT, y), (_RIGHT, y)], "#ced4da", width=0.8)


def _legend(y: float, title: str, entries: Iterable[tuple[str, str, str]], explanation: str) -> Iterator[str]:
    yield _text(24, y, title, bold=True)
    x = 44 + 8.0 * len(title)
    for name, colour, dash in entries:
        yield _line([(x, y - 4), (x + 22, y - 4)], colour, dash=dash)
        yield _text(x + 27, y, name)
        x += 42 + 7.0 * len(name)
    yield _text(24, y + 17, explanation, colour=_PALE, size=11)
