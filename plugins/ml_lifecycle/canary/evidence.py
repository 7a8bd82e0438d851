"""What a rollout has seen: the counts of each look, and both sides' totals. Small enough for an annotation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self, TypeVar

from ml_lifecycle.canary.exceptions import OddCountsError
from ml_lifecycle.canary.histogram import Histogram
from ml_lifecycle.canary.slow import Lines, SlowLimits, slow_lines

MOST_LOOKS = 720

Rests = tuple[float, float]
"""What rounding left of the slow requests, on the canary and on the stable side."""


@dataclass(frozen=True)
class Side:
    """Requests of one side, how many failed, how long they took; OddCountsError where that cannot be."""

    requests: int = 0
    errors: int = 0
    latency: Histogram = field(default_factory=Histogram)

    def __post_init__(self) -> None:
        _check_counts(self.requests, self.errors, "requests", "errors")
        for count in self.latency.counts:
            _check_between("latency.counts", count, math.inf)

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
        return cls(int(document["requests"]), int(document["errors"]), latency)


@dataclass(frozen=True)
class Counts:
    """Events among requests on both sides in one look; `n` requests, `e` of them bad.

    OddCountsError where that cannot be: so a verdict need not ask what it is given.
    """

    canary_n: int = 0
    canary_e: int = 0
    stable_n: int = 0
    stable_e: int = 0

    def __post_init__(self) -> None:
        _check_counts(self.canary_n, self.canary_e, "canary_n", "canary_e")
        _check_counts(self.stable_n, self.stable_e, "stable_n", "stable_e")

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(self.numbers, other.numbers, strict=True)))

    @property
    def numbers(self) -> tuple[int, int, int, int]:
        """The four in the order of the fields."""
        return self.canary_n, self.canary_e, self.stable_n, self.stable_e


@dataclass(frozen=True)
class Readings:
    """A gauge on both sides at one look, or its sums over several; OddCountsError where one is no finite number."""

    looks: int = 0
    canary: float = 0.0
    stable: float = 0.0

    def __post_init__(self) -> None:
        _check_between("looks", self.looks, math.inf)
        for name, value in (("canary", self.canary), ("stable", self.stable)):
            if not math.isfinite(value):
                raise OddCountsError(name, value, "must be finite")

    def __add__(self, other: Readings) -> Readings:
        return Readings(self.looks + other.looks, self.canary + other.canary, self.stable + other.stable)

    @property
    def numbers(self) -> tuple[int, float, float]:
        """The three in the order of the fields."""
        return self.looks, self.canary, self.stable

    @property
    def means(self) -> tuple[float, float]:
        """The canary's mean and the stable side's; NaN without looks."""
        return (self.canary / self.looks, self.stable / self.looks) if self.looks else (math.nan, math.nan)


class Adds(Protocol):
    """What two looks at one metric do."""

    def __add__(self, other: Any, /) -> Self:
        """Both together."""


OwnLook = Counts | Readings
Look = TypeVar("Look", bound=Adds)


@dataclass(frozen=True)
class Window:
    """Both sides between two looks: the data plane's counts, and the metrics of one's own by name.

    `silent` says why a metric of one's own told nothing at this look; it is of one look and does not add up.
    """

    canary: Side = field(default_factory=Side)
    stable: Side = field(default_factory=Side)
    own: Mapping[str, OwnLook] = field(default_factory=dict)
    silent: Mapping[str, str] = field(default_factory=dict)

    def __add__(self, other: Window) -> Window:
        own = dict(self.own)
        for name, look in other.own.items():
            own[name] = together([own[name], look]) if name in own else look
        return Window(self.canary + other.canary, self.stable + other.stable, own)

    @property
    def errors(self) -> Counts:
        """Requests and errors of both sides."""
        return Counts(self.canary.requests, self.canary.errors, self.stable.requests, self.stable.errors)

    def to_json(self) -> dict[str, Any]:
        """JSON of it, without `silent`."""
        own = {name: look.numbers for name, look in self.own.items()}
        return {"canary": self.canary.to_json(), "stable": self.stable.to_json(), **({"own": own} if own else {})}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Of `to_json`."""
        own = {name: _own_look(numbers) for name, numbers in document.get("own", {}).items()}
        return cls(Side.from_json(document["canary"]), Side.from_json(document["stable"]), own)


@dataclass(frozen=True)
class Evidence:
    """Every look so far, of errors, of slow requests and of one's own metrics, and the totals.

    `silent` says which metrics of one's own told nothing at the last look, and why. `warmup`: errors of the canary's
    first looks where those are no evidence; they are in nothing else. `rests`: a request in the bucket in which slow
    begins counts in part, so what rounding leaves of a look is added to the next one, and no sum is wrong. `clears`:
    whether slow requests at the last look may clear the canary (see `slow.Lines`).
    """

    errors: tuple[Counts, ...] = ()
    slow: tuple[Counts, ...] = ()
    totals: Window = field(default_factory=Window)
    own: Mapping[str, tuple[OwnLook, ...]] = field(default_factory=dict)
    silent: Mapping[str, str] = field(default_factory=dict)
    warmup: tuple[Counts, ...] = ()
    rests: Rests = (0.0, 0.0)
    clears: bool = True

    def add(self, window: Window, limits: SlowLimits) -> Evidence:
        """With one more look.

        Which requests are slow is said by the stable side's durations at all earlier looks (see `slow_lines`), so the
        test may look at any time: were the canary just so slow as is harm, both shares would be equal at every moment.
        Where the bounds cannot tell that, slow is what is beyond the limit for certain: too little is counted on the
        canary, so such looks are forgotten once the bounds can tell.
        """
        lines = slow_lines(self.totals.stable.latency, limits)
        slow, rests = _slow(window, lines, self.rests)
        clears = lines.clears if lines else self.clears
        own = {**self.own, **{name: _with(self.own.get(name, ()), look) for name, look in window.own.items()}}
        return replace(
            self,
            errors=_with(self.errors, window.errors),
            slow=_with(() if clears and not self.clears else self.slow, slow),
            totals=self.totals + window,
            own=own,
            silent=dict(window.silent),
            rests=rests,
            clears=clears,
        )

    def add_warmup(self, window: Window) -> Evidence:
        """With one more look that is no evidence: the guardrail alone sees it."""
        return replace(self, warmup=(*self.warmup, window.errors))

    @property
    def guarded(self) -> tuple[Counts, ...]:
        """Errors at every look there was, those of the warm-up where the canary began."""
        begun = next((place for place, look in enumerate(self.errors) if look.canary_n), len(self.errors))
        return (*self.errors[:begun], *self.warmup, *self.errors[begun:])

    @property
    def most_looks(self) -> int:
        """Looks of the metric that has the most."""
        return max(len(looks) for looks in (self.errors, self.slow, *self.own.values()))

    def halved(self) -> Evidence:
        """Neighbouring looks added up by pairs, which is only more conservative."""
        own = {name: _paired(looks) for name, looks in self.own.items()}
        return replace(self, errors=_paired(self.errors), slow=_paired(self.slow), own=own)

    def to_json(self) -> dict[str, Any]:
        """JSON of it; keys that say nothing are left out."""
        own = {name: [look.numbers for look in looks] for name, looks in self.own.items()}
        return {
            "errors": [look.numbers for look in self.errors],
            "slow": [look.numbers for look in self.slow],
            "totals": self.totals.to_json(),
            **({"own": own} if own else {}),
            **({"silent": dict(self.silent)} if self.silent else {}),
            **({"warmup": [look.numbers for look in self.warmup]} if self.warmup else {}),
            **({"rests": list(self.rests)} if any(self.rests) else {}),
            **({} if self.clears else {"clears": False}),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Of `to_json`."""
        canary_rest, stable_rest = document.get("rests", (0.0, 0.0))
        return cls(
            tuple(Counts(*map(int, numbers)) for numbers in document["errors"]),
            tuple(Counts(*map(int, numbers)) for numbers in document["slow"]),
            Window.from_json(document["totals"]),
            {name: tuple(_own_look(look) for look in looks) for name, looks in document.get("own", {}).items()},
            document.get("silent", {}),
            tuple(Counts(*map(int, numbers)) for numbers in document.get("warmup", ())),
            (float(canary_rest), float(stable_rest)),
            bool(document.get("clears", True)),
        )


def _check_counts(requests: float, errors: float, name: str, name_of_errors: str) -> None:
    _check_between(name, requests, math.inf)
    _check_between(name_of_errors, errors, requests)


def _check_between(name: str, value: float, most: float) -> None:
    """OddCountsError unless `value` is finite, at least 0 and at most `most`; NaN is none of it."""
    if not (0 <= value <= most and value < math.inf):
        limit = "" if math.isinf(most) else f" and at most {most}"
        raise OddCountsError(name, value, f"must be finite, at least 0{limit}")


def together(looks: Sequence[Look]) -> Look:
    """Looks at one metric added up; there must be one."""
    total = looks[0]
    for look in looks[1:]:
        total = total + look
    return total


def _slow(window: Window, lines: Lines | None, rests: Rests) -> tuple[Counts, Rests]:
    """Slow requests of one look, in whole numbers, and what is left over for the next one on either side."""
    canary, stable = window.canary.latency, window.stable.latency
    if lines is None or not stable.total:
        return Counts(), rests
    canary_e, canary_rest = _whole(rests[0] + (canary.slower(lines.canary) if canary.total else 0.0))
    stable_e, stable_rest = _whole(rests[1] + stable.slower(lines.stable))
    return Counts(canary.total, canary_e, stable.total, stable_e), (canary_rest, stable_rest)


def _whole(number: float) -> tuple[int, float]:
    """The nearest whole number, and what is left: at least -1/2 and less than 1/2."""
    whole = math.floor(number + 0.5)
    return whole, number - whole


def _with(looks: tuple[Look, ...], look: Look) -> tuple[Look, ...]:
    """One more; neighbours added up where they are too many, which is only more conservative."""
    if len(looks) < MOST_LOOKS:
        return (*looks, look)
    return (*_paired(looks), look)


def _paired(looks: tuple[Look, ...]) -> tuple[Look, ...]:
    return tuple(together(looks[at : at + 2]) for at in range(0, len(looks), 2))


def _own_look(numbers: Sequence[float]) -> OwnLook:
    """Of `numbers`: three are a gauge's, four are counts."""
    if len(numbers) == len(Readings().numbers):
        return Readings(int(numbers[0]), *numbers[1:])
    return Counts(*(int(number) for number in numbers))
