"""What a rollout has seen: the counts of each look, and both sides' totals. Small enough for an annotation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from ml_lifecycle.canary.histogram import Histogram

MOST_LOOKS = 720


@dataclass(frozen=True)
class Side:
    """Requests of one side, how many failed, how long they took."""

    requests: int = 0
    errors: int = 0
    latency: Histogram = field(default_factory=Histogram)

    def __add__(self, other: Side) -> Side:
        return Side(self.requests + other.requests, self.errors + other.errors, self.latency + other.latency)

    def to_json(self) -> dict[str, Any]:
        """JSON of it."""
        return {
            "requests": self.requests,
            "errors": self.errors,
            "bounds": list(self.latency.bounds),
            "counts": list(self.latency.counts),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Of `to_json`."""
        latency = Histogram(tuple(document["bounds"]), tuple(document["counts"]))
        return cls(document["requests"], document["errors"], latency)


@dataclass(frozen=True)
class Window:
    """Both sides between two looks."""

    canary: Side = field(default_factory=Side)
    stable: Side = field(default_factory=Side)

    def __add__(self, other: Window) -> Window:
        return Window(self.canary + other.canary, self.stable + other.stable)

    def to_json(self) -> dict[str, Any]:
        """JSON of it."""
        return {"canary": self.canary.to_json(), "stable": self.stable.to_json()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Of `to_json`."""
        return cls(Side.from_json(document["canary"]), Side.from_json(document["stable"]))


@dataclass(frozen=True)
class Counts:
    """Events among requests on both sides in one look; `n` requests, `e` of them bad."""

    canary_n: int = 0
    canary_e: int = 0
    stable_n: int = 0
    stable_e: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(self.numbers, other.numbers, strict=True)))

    @property
    def numbers(self) -> tuple[int, int, int, int]:
        """The four in the order of the fields."""
        return self.canary_n, self.canary_e, self.stable_n, self.stable_e


@dataclass(frozen=True)
class SlowLimits:
    """A canary is slow when its `quantile` exceeds `ratio` times the stable side's, and that by `floor_seconds`."""

    quantile: float = 0.95
    ratio: float = 1.5
    floor_seconds: float = 0.0


@dataclass(frozen=True)
class Evidence:
    """Every look so far, of errors and of slow requests, and the totals."""

    errors: tuple[Counts, ...] = ()
    slow: tuple[Counts, ...] = ()
    totals: Window = field(default_factory=Window)

    def add(self, window: Window, limits: SlowLimits) -> Evidence:
        """With one more look.

        A request is slow on the stable side above about the stable side's quantile of all earlier looks, on the canary
        above `ratio` times that: were the canary exactly `ratio` times as slow, both shares would be equal at every
        moment. Earlier looks alone set the thresholds, so the test may look at any time.
        """
        error = Counts(window.canary.requests, window.canary.errors, window.stable.requests, window.stable.errors)
        slow = _slow(window, slow_thresholds(self.totals.stable.latency, limits))
        errors, slows = (*self.errors, error), (*self.slow, slow)
        if len(errors) > MOST_LOOKS:
            errors, slows = _halved(errors), _halved(slows)
        return Evidence(errors, slows, self.totals + window)

    def to_json(self) -> dict[str, Any]:
        """JSON of it."""
        return {
            "errors": [look.numbers for look in self.errors],
            "slow": [look.numbers for look in self.slow],
            "totals": self.totals.to_json(),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Of `to_json`."""
        return cls(
            tuple(Counts(*numbers) for numbers in document["errors"]),
            tuple(Counts(*numbers) for numbers in document["slow"]),
            Window.from_json(document["totals"]),
        )


def slow_thresholds(stable: Histogram, limits: SlowLimits) -> tuple[float, float] | None:
    """Bounds (seconds) above which a stable and a canary request is slow; None where the buckets cannot say.

    Buckets seldom have a bound at the wanted ratio to that of the quantile. A canary that is slower throughout is as
    well told at a bound a little below the quantile, above which at most three times as many requests lie, where the
    ratio is met more closely: the pair with the least excess is taken, the highest of equal ones.
    """
    at_quantile = stable.upper_bound(limits.quantile)
    if not math.isfinite(at_quantile):
        return None
    pairs = []
    for bound in reversed([each for each in stable.bounds if each <= at_quantile]):
        if bound < at_quantile and stable.above(bound) > 3 * (1 - limits.quantile) * stable.total:
            break
        wanted = max(limits.ratio * bound, bound + limits.floor_seconds)
        pairs.append((stable.bound_at_least(wanted) / wanted, bound, stable.bound_at_least(wanted)))
    excess, stable_bound, canary_bound = min(pairs, key=lambda pair: round(pair[0], 6))
    return (stable_bound, canary_bound) if math.isfinite(excess) else None


def _slow(window: Window, thresholds: tuple[float, float] | None) -> Counts:
    canary, stable = window.canary.latency, window.stable.latency
    if thresholds is None or not stable.total:
        return Counts()
    slow = canary.above(thresholds[1]) if canary.total else 0
    return Counts(canary.total, slow, stable.total, stable.above(thresholds[0]))


def _halved(looks: Sequence[Counts]) -> tuple[Counts, ...]:
    """Neighbours added up: a long rollout keeps a bounded number of looks, which is only more conservative."""
    pairs = [first + second for first, second in zip(looks[0::2], looks[1::2], strict=False)]
    return tuple(pairs + list(looks[len(pairs) * 2 :]))
