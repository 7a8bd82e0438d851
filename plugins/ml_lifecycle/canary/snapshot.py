"""Cumulative counters of both sides at one moment, and what happened between two of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from ml_lifecycle.canary.evidence import Counts, OwnLook, Readings, Side, Window
from ml_lifecycle.canary.histogram import Histogram


@dataclass(frozen=True)
class Counters:
    """One side's counters: requests by status code, requests by bucket bound (`le`, as Prometheus writes it).

    `broken`: series that since the last look were reset, were lost or came back from a gap. `own`: metrics of one's
    own by name, counts as (events, total), a gauge as (value,); `errors` are those that stand for the data plane's.
    `peaks`: the most that such counts had reached by the last look. `silent`: why a metric could not be read.
    """

    codes: Mapping[str, float] = field(default_factory=dict)
    buckets: Mapping[str, float] = field(default_factory=dict)
    broken: float = 0.0
    own: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    peaks: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    silent: Mapping[str, str] = field(default_factory=dict)

    @property
    def numbers(self) -> tuple[float, ...]:
        """All that the data plane counts."""
        return (*self.codes.values(), *self.buckets.values(), self.broken)

    def to_json(self) -> dict[str, Any]:
        """JSON of what a later look is compared with."""
        own = {name: list(numbers) for name, numbers in self.own.items()}
        return {"codes": dict(self.codes), "buckets": dict(self.buckets), **({"own": own} if own else {})}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Of `to_json`."""
        own = {name: tuple(numbers) for name, numbers in document.get("own", {}).items()}
        return cls(document["codes"], document["buckets"], own=own)


@dataclass(frozen=True)
class Snapshot:
    """Both sides at one query time; `at` in Unix seconds."""

    at: float
    canary: Counters
    stable: Counters

    def to_json(self) -> dict[str, Any]:
        """JSON of it."""
        return {"at": self.at, "canary": self.canary.to_json(), "stable": self.stable.to_json()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Of `to_json`."""
        return cls(document["at"], Counters.from_json(document["canary"]), Counters.from_json(document["stable"]))


@dataclass(frozen=True)
class Gap:
    """Nothing can be said of the time between two snapshots."""

    reason: str


def between(before: Snapshot, after: Snapshot) -> Window | Gap:
    """What both sides did between two snapshots.

    A series that appears counts in full: the first error of a revision makes a new series, whose first value
    PromQL's `increase` would miss. A metric of one's own that cannot be read leaves its reason in the window.
    """
    if "errors" in _names(after) and isinstance(errors := _own("errors", before, after), Gap):
        return errors
    sides = []
    for name, old, new in (("canary", before.canary, after.canary), ("stable", before.stable, after.stable)):
        if reason := _unusable(old, new):
            return Gap(f"{reason} on the {name} side")
        sides.append(_difference(old, new))
    if not any(side.requests for side in sides):
        return Gap("no requests on either side since the last look")
    found = {name: _own(name, before, after) for name in sorted(_names(after) - {"errors"})}
    own = {name: look for name, look in found.items() if not isinstance(look, Gap)}
    silent = {name: gap.reason for name, gap in found.items() if isinstance(gap, Gap)}
    return Window(sides[0], sides[1], own, silent)


def _names(snapshot: Snapshot) -> set[str]:
    """All metrics of one's own."""
    return {name for side in (snapshot.canary, snapshot.stable) for name in (*side.own, *side.silent)}


def _unusable(old: Counters, new: Counters) -> str:
    if not all(math.isfinite(number) for number in (*old.numbers, *new.numbers)):
        return "a counter is not a number"
    if new.broken > 0:
        return "a counter was reset, or was not scraped throughout,"
    for before, after in ((old.codes, new.codes), (old.buckets, new.buckets)):
        if any(after.get(key, 0.0) < value for key, value in before.items()):
            return "a counter went down"
    return ""


def _difference(old: Counters, new: Counters) -> Side:
    codes = {code: value - old.codes.get(code, 0.0) for code, value in new.codes.items()}
    buckets = {float(le): value - old.buckets.get(le, 0.0) for le, value in new.buckets.items()}
    failed = sum(value for code, value in codes.items() if is_error(code))
    return Side(round(sum(codes.values())), round(failed), Histogram.from_cumulative(buckets))


def _own(name: str, before: Snapshot, after: Snapshot) -> OwnLook | Gap:
    """One metric of one's own between two snapshots; a Gap where either side says nothing."""
    for side, old, new in (("canary", before.canary, after.canary), ("stable", before.stable, after.stable)):
        numbers = new.own.get(name, (math.nan,))
        if reason := new.silent.get(name) or _not_finite(numbers):
            return Gap(f"{reason} on the {side} side")
        if len(old.own.get(name, ())) != len(numbers):
            return Gap("first look: nothing to compare with yet")
        if any(reached > value for reached, value in zip(new.peaks.get(name, ()), old.own[name], strict=False)):
            return Gap(f"a count had lost some of its series before the last look on the {side} side")
    then, now = ((*each.canary.own[name], *each.stable.own[name]) for each in (before, after))
    if len(now) == len(("canary", "stable")):
        return _readings(then, now)
    return _counts(*(later - earlier for earlier, later in zip(then, now, strict=True)))


def _not_finite(numbers: tuple[float, ...]) -> str:
    return "" if all(math.isfinite(number) for number in numbers) else "the query gives no finite number"


def _readings(old: tuple[float, ...], new: tuple[float, ...]) -> Readings | Gap:
    """A gauge; what has changed on neither side is the same sample read twice, and no evidence."""
    canary, stable = (float(f"{value:.9g}") for value in new)
    return Gap("unchanged on both sides since the last look") if old == new else Readings(1, canary, stable)


def _counts(canary_events: float, canary_total: float, stable_events: float, stable_total: float) -> Counts | Gap:
    found = Counts(round(canary_total), round(canary_events), round(stable_total), round(stable_events))
    if min(found.numbers) < 0:
        return Gap("a count went down")
    if found.canary_e > found.canary_n or found.stable_e > found.stable_n:
        return Gap("more events than their total")
    return found


def is_error(code: str) -> bool:
    """Whether a response of this status is the server's fault: 5xx, or no status at all."""
    return not code.isdigit() or code.startswith("5") or code == "0"
