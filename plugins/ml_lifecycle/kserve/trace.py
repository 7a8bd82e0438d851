"""What each look of a rollout saw, kept after its end: for the report and its picture. Pure."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from pydantic import TypeAdapter

from ml_lifecycle.canary.evidence import Window

MOST_POINTS = 120
_TELLING = 10.0
"""Numbers beyond tell nothing more; JSON has no infinity, which an impossible hypothesis comes to."""


@dataclass(frozen=True)
class Point:
    """One look, or neighbouring looks added up: `at` seconds after the opening, with `percent` on the canary.

    Counts are (requests, failed) of this look alone, (0, 0) where it had no data. `numbers` are the verdict's on all
    looks so far: by metric and kind, logarithms of evidence over what decides, so that 1.0 decides. A look
    of the canary's `warmup` is none of them.
    """

    at: float
    percent: int
    canary: tuple[int, int] = (0, 0)
    stable: tuple[int, int] = (0, 0)
    numbers: Mapping[str, float] = field(default_factory=dict)
    warmup: bool = False

    @classmethod
    def of(
        cls, at: float, percent: int, window: Window | None, numbers: Mapping[str, float], *, warmup: bool = False
    ) -> Self:
        """Of what a look found; None without data."""
        seen = window or Window()
        return cls(
            round(at, 1),
            percent,
            (seen.canary.requests, seen.canary.errors),
            (seen.stable.requests, seen.stable.errors),
            {name: round(max(-_TELLING, min(value, _TELLING)), 3) for name, value in numbers.items()},
            warmup,
        )

    def beside(self, other: Point) -> bool:
        """Whether both may be added up: on one step, and alike in being evidence."""
        return (self.percent, self.warmup) == (other.percent, other.warmup)

    def with_earlier(self, earlier: Point) -> Point:
        """Both in one, at the moment of this one."""
        return Point(
            self.at,
            self.percent,
            (earlier.canary[0] + self.canary[0], earlier.canary[1] + self.canary[1]),
            (earlier.stable[0] + self.stable[0], earlier.stable[1] + self.stable[1]),
            self.numbers,
            self.warmup,
        )

    def to_json(self) -> dict[str, Any]:
        """JSON of it; `warmup` only where it is one."""
        document = {name: value for name, value in vars(self).items() if name != "warmup" or value}
        return {**document, "canary": list(self.canary), "stable": list(self.stable), "numbers": dict(self.numbers)}

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> Point:
        """Of `to_json`; what is unknown is left out."""
        return _typed().validate_python(document)


@functools.cache
def _typed() -> TypeAdapter[Point]:
    return TypeAdapter(Point)


Trace = tuple[Point, ...]


def extend(trace: Trace, point: Point) -> Trace:
    """With one more look; beyond MOST_POINTS the neighbours on one step that span the least time are added up."""
    longer = (*trace, point)
    if len(longer) <= MOST_POINTS:
        return longer
    pairs = [later for later in range(1, len(longer)) if longer[later].beside(longer[later - 1])]
    later = min(pairs, key=lambda later: longer[later].at - (longer[later - 2].at if later > 1 else 0.0))
    return (*longer[: later - 1], longer[later].with_earlier(longer[later - 1]), *longer[later + 1 :])


def halved(trace: Trace) -> Trace:
    """Of half as many points: neighbours on one step are added up."""
    points: list[Point] = []
    paired = True
    for point in trace:
        together = not paired and point.beside(points[-1])
        if together:
            points[-1] = point.with_earlier(points[-1])
        else:
            points.append(point)
        paired = together
    return tuple(points)
