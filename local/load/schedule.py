"""When the next request is due: an open loop, which does not wait for answers."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Literal

Arrivals = Literal["constant", "poisson"]


class RateRefusedError(ValueError):
    """The rate is not a number of requests a second."""


def parse_rate(document: object) -> float:
    """The rate in `{"requests_per_second": 50}`; RateRefusedError says what is wrong."""
    value = document.get("requests_per_second") if isinstance(document, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 10_000:
        raise RateRefusedError(f"requests_per_second = {value!r}: must be a number from 0 (pause) to 10000")
    return float(value)


class Schedule:
    """Due times at a rate that may change; requests missed by more than a second are not made up for."""

    def __init__(self, rate: float, *, arrivals: Arrivals = "constant", seed: int = 0) -> None:
        generator = random.Random(seed)
        self._gap: Callable[[float], float] = generator.expovariate if arrivals == "poisson" else lambda rate: 1 / rate
        self._rate = rate
        self._due: float | None = None

    @property
    def rate(self) -> float:
        """Requests a second; 0 is a pause."""
        return self._rate

    @rate.setter
    def rate(self, rate: float) -> None:
        self._rate = rate
        self._due = None

    def seconds_to_next(self, now: float) -> float | None:
        """Seconds until the next request is due, 0 if it is late; None in a pause."""
        if self._rate == 0:
            return None
        if self._due is None or now - self._due > 1:
            self._due = now + self._gap(self._rate)
        return max(0.0, self._due - now)

    def advance(self) -> None:
        """The request that was due has been sent."""
        if self._due is not None and self._rate > 0:
            self._due += self._gap(self._rate)
