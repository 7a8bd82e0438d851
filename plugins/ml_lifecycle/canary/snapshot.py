"""What both sides' counters grew by between two moments, as Prometheus tells it at the second one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from ml_lifecycle.canary.evidence import Counts, OwnLook, Readings, Side, Window
from ml_lifecycle.canary.histogram import Histogram

# Beyond it sums and squares are no longer finite; the sentinels that stand for "none" lie there.
_MOST = 1e100


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
    """Nothing can be said of the time between two moments.

    `unread`: what happened in it can still be counted, so the next look reaches back to where this one began.
    """

    reason: str
    unread: bool = False


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
        if reason := _odd(side):
            return Gap(f"{reason} on the {name} side", unread=True)
    canary, stable = _side(seen.canary), _side(seen.stable)
    if isinstance(errors, Counts):
        canary = Side(errors.canary_n, errors.canary_e, canary.latency)
        stable = Side(errors.stable_n, errors.stable_e, stable.latency)
    if not (canary.requests or stable.requests):
        return Gap(f"{NO_REQUESTS}: {seen.why}" if seen.why else NO_REQUESTS)
    own = {name: look for name, look in found.items() if not isinstance(look, Gap)}
    silent = {name: gap.reason for name, gap in found.items() if isinstance(gap, Gap)}
    return Window(canary, stable, own, silent)


def _odd(side: Growth) -> str:
    """What the data plane says it has counted, and cannot have; empty where nothing is odd."""
    counted = {f"requests answered {code or 'at all'}": value for code, value in side.codes.items()}
    counted |= {f"requests of at most {le} s": value for le, value in side.buckets.items()}
    odd = {what: value for what, value in counted.items() if not 0 <= value < _MOST}
    return next((f"{what} grew by {value:g}, which is no count," for what, value in odd.items()), "")


def _side(growth: Growth) -> Side:
    failed = sum(value for code, value in growth.codes.items() if is_error(code))
    latency = Histogram.from_cumulative({float(le): value for le, value in growth.buckets.items()})
    return Side(round(sum(growth.codes.values())), round(failed), latency)


def _own(name: str, seen: Growths) -> OwnLook | Gap:
    """One metric of one's own between two moments; a Gap where either side says nothing, or what cannot be."""
    for side, growth in seen.sides:
        if reason := growth.silent.get(name):
            return Gap(f"{reason} on the {side} side")
        numbers = growth.own.get(name, (math.nan,))
        if odd := _not_finite(numbers):
            return Gap(f"{odd} on the {side} side", unread=True)
        before = growth.before.get(name, ())
        if len(before) != len(numbers) or _not_finite(before):
            return Gap(f"nothing to compare with: the query gave no number at the last look on the {side} side")
        if any(reached > value for reached, value in zip(growth.peaks.get(name, ()), before, strict=False)):
            return Gap(f"a count had lost some of its series before the last look on the {side} side")
    then, now = ([growth.before[name] for _, growth in seen.sides], [growth.own[name] for _, growth in seen.sides])
    if len(now[0]) == 1:
        return _readings(then, now)
    return _counts([[after - at for at, after in zip(*both, strict=True)] for both in zip(then, now, strict=True)])


def _not_finite(numbers: Sequence[float]) -> str:
    odd = next((number for number in numbers if not abs(number) < _MOST), None)
    return "" if odd is None else f"the query gives no finite number, but {odd:g},"


def _readings(old: Sequence[Sequence[float]], new: Sequence[Sequence[float]]) -> Readings | Gap:
    """A gauge; what has changed on neither side is the same sample read twice, and no evidence."""
    canary, stable = (float(f"{value:.9g}") for (value,) in new)
    return Gap("unchanged on both sides since the last look") if old == new else Readings(1, canary, stable)


def _counts(grown: Sequence[Sequence[float]]) -> Counts | Gap:
    """Of what (events, total) of the canary and of the stable side grew by."""
    counted = []
    for side, (events, total) in zip(("canary", "stable"), grown, strict=True):
        e, n = round(events), round(total)
        if min(e, n) < 0:
            return Gap(f"a count went down by {-min(e, n)} on the {side} side")
        if e > n:
            return Gap(f"more events than their total ({e} of {n}) on the {side} side", unread=True)
        counted += [n, e]
    return Counts(*counted)


def is_error(code: str) -> bool:
    """Whether a response of this status is the server's fault: 5xx, or no status at all."""
    return not code.isdigit() or code.startswith("5") or code == "0"
