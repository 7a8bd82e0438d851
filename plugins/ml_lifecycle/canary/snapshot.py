"""Cumulative counters of both sides at one moment, and what happened between two of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from ml_lifecycle.canary.evidence import Side, Window
from ml_lifecycle.canary.histogram import Histogram


@dataclass(frozen=True)
class Counters:
    """One revision's counters: requests by status code, requests by bucket bound (`le`, as Prometheus writes it)."""

    codes: Mapping[str, float] = field(default_factory=dict)
    buckets: Mapping[str, float] = field(default_factory=dict)
    resets: float = 0.0

    @property
    def broken(self) -> bool:
        """Whether any number is NaN."""
        return any(math.isnan(value) for value in (*self.codes.values(), *self.buckets.values(), self.resets))


@dataclass(frozen=True)
class Snapshot:
    """Both sides at one query time; `at` in Unix seconds."""

    at: float
    canary: Counters
    stable: Counters

    def to_json(self) -> dict[str, Any]:
        """JSON of it."""
        sides = {"canary": self.canary, "stable": self.stable}
        return {
            "at": self.at,
            **{name: {"codes": dict(side.codes), "buckets": dict(side.buckets)} for name, side in sides.items()},
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Of `to_json`."""
        return cls(document["at"], Counters(**document["canary"]), Counters(**document["stable"]))


@dataclass(frozen=True)
class Gap:
    """Nothing can be said of the time between two snapshots."""

    reason: str


def between(before: Snapshot, after: Snapshot) -> Window | Gap:
    """What both sides did between two snapshots.

    A series that appears counts in full: the first error of a revision makes a new series, whose first value
    PromQL's `increase` would miss.
    """
    sides = []
    for name, old, new in (("canary", before.canary, after.canary), ("stable", before.stable, after.stable)):
        if reason := _unusable(old, new):
            return Gap(f"{reason} on the {name} side")
        sides.append(_difference(old, new))
    if not any(side.requests for side in sides):
        return Gap("no requests on either side since the last look")
    return Window(canary=sides[0], stable=sides[1])


def _unusable(old: Counters, new: Counters) -> str:
    if old.broken or new.broken:
        return "a counter is not a number"
    if new.resets > 0:
        return "a counter was reset"
    for before, after in ((old.codes, new.codes), (old.buckets, new.buckets)):
        if any(after.get(key, 0.0) < value for key, value in before.items()):
            return "a counter went down"
    return ""


def _difference(old: Counters, new: Counters) -> Side:
    codes = {code: value - old.codes.get(code, 0.0) for code, value in new.codes.items()}
    buckets = {float(le): value - old.buckets.get(le, 0.0) for le, value in new.buckets.items()}
    failed = sum(value for code, value in codes.items() if is_error(code))
    return Side(round(sum(codes.values())), round(failed), Histogram.from_cumulative(buckets))


def is_error(code: str) -> bool:
    """Whether a response of this status is the server's fault: 5xx, or no status at all."""
    return not code.isdigit() or code.startswith("5") or code == "0"
