"""What both sides' counters grew by between two moments, as Prometheus tells it at the second one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from ml_lifecycle.canary.evidence import Counts, OwnLook, Readings, Side, Window
from ml_lifecycle.canary.histogram import Histogram


@dataclass(frozen=True)
class Snapshot:
    """Up to when everything was counted, in Unix seconds.

    The counters of that moment are not kept: Prometheus is asked for them again, together with those of the next look,
    so that both are told by one server in one state.
    """

    at: float

    def to_json(self) -> dict[str, Any]:
        """JSON of it."""
        return {"at": self.at}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Of `to_json`."""
        return cls(document["at"])


@dataclass(frozen=True)
class Growth:
    """What one side's counters grew by: requests by status code, requests by bucket bound (`le`, in seconds).

    A metric of one's own is told by its numbers at both moments, `before` and `own`: counts as (events, total), a gauge
    as (value,); `errors` are those that stand for the data plane's. `peaks`: the most that such counts had reached by
    the first moment. `silent`: why a metric could not be read.
    """

    codes: Mapping[str, float] = field(default_factory=dict)
    buckets: Mapping[str, float] = field(default_factory=dict)
    own: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    before: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    peaks: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    silent: Mapping[str, str] = field(default_factory=dict)

    @property
    def numbers(self) -> tuple[float, ...]:
        """All that the data plane counts."""
        return (*self.codes.values(), *self.buckets.values())


@dataclass(frozen=True)
class Growths:
    """Both sides' up to Unix time `at`; `why` says, where neither has any series, what Prometheus has instead."""

    at: float
    canary: Growth
    stable: Growth
    why: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether there is no series of either side."""
        return not (self.canary.numbers or self.stable.numbers)

    @property
    def sides(self) -> tuple[tuple[str, Growth], tuple[str, Growth]]:
        """Both by name."""
        return ("canary", self.canary), ("stable", self.stable)


@dataclass(frozen=True)
class Gap:
    """Nothing can be said of the time between two moments."""

    reason: str


NO_REQUESTS = "no requests on either side since the last look"


def window(seen: Growths) -> Window | Gap:
    """What both sides did; a metric of one's own that cannot be read leaves its reason in the window.

    A gap concerns both sides: what is uncountable on one of them. What only some series of a side lost is not in their
    growth, and takes nothing from what the others tell.
    """
    names = {name for _, side in seen.sides for name in (*side.own, *side.silent)}
    found = {name: _own(name, seen) for name in sorted(names)}
    errors = found.pop("errors", None)
    if isinstance(errors, Gap):
        return errors
    for name, side in seen.sides:
        if not all(math.isfinite(number) and number >= 0 for number in side.numbers):
            return Gap(f"a counter is not a number on the {name} side")
    canary, stable = _side(seen.canary), _side(seen.stable)
    if isinstance(errors, Counts):
        canary = Side(errors.canary_n, errors.canary_e, canary.latency)
        stable = Side(errors.stable_n, errors.stable_e, stable.latency)
    if not (canary.requests or stable.requests):
        return Gap(f"{NO_REQUESTS}: {seen.why}" if seen.why else NO_REQUESTS)
    own = {name: look for name, look in found.items() if not isinstance(look, Gap)}
    silent = {name: gap.reason for name, gap in found.items() if isinstance(gap, Gap)}
    return Window(canary, stable, own, silent)


def _side(growth: Growth) -> Side:
    failed = sum(value for code, value in growth.codes.items() if is_error(code))
    latency = Histogram.from_cumulative({float(le): value for le, value in growth.buckets.items()})
    return Side(round(sum(growth.codes.values())), round(failed), latency)


def _own(name: str, seen: Growths) -> OwnLook | Gap:
    """One metric of one's own between two moments; a Gap where either side says nothing."""
    for side, growth in seen.sides:
        numbers = growth.own.get(name, (math.nan,))
        if reason := growth.silent.get(name) or _not_finite(numbers):
            return Gap(f"{reason} on the {side} side")
        before = growth.before.get(name, ())
        if len(before) != len(numbers) or _not_finite(before):
            return Gap(f"nothing to compare with: the query gave no number at the last look on the {side} side")
        if any(reached > value for reached, value in zip(growth.peaks.get(name, ()), before, strict=False)):
            return Gap(f"a count had lost some of its series before the last look on the {side} side")
    then = (*seen.canary.before[name], *seen.stable.before[name])
    now = (*seen.canary.own[name], *seen.stable.own[name])
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
