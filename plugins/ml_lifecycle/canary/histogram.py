"""Latency histograms as Prometheus has them: counts between bounds, the last one open."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Histogram:
    """`counts[i]` requests took at most `bounds[i]` seconds and more than the bound before; the last count is the rest.

    An empty histogram has no bounds and no counts and adds to any other.
    """

    bounds: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()

    @classmethod
    def from_cumulative(cls, buckets: Mapping[float, float]) -> Self:
        """From `le` (seconds, with infinity) to the number of requests at most that slow."""
        bounds = sorted(buckets)
        totals = [0.0, *itertools.accumulate((buckets[bound] for bound in bounds), max)]
        counts = tuple(round(high - low) for low, high in itertools.pairwise(totals))
        return cls(tuple(bound for bound in bounds if math.isfinite(bound)), counts)

    @property
    def total(self) -> int:
        """All requests."""
        return sum(self.counts)

    def __add__(self, other: Histogram) -> Histogram:
        if not self.counts or not other.counts:
            return self if self.counts else other
        if self.bounds != other.bounds:
            raise ValueError(f"histograms of different bounds do not add: {self.bounds} and {other.bounds}")
        return Histogram(self.bounds, tuple(a + b for a, b in zip(self.counts, other.counts, strict=True)))

    def above(self, bound: float) -> int:
        """Requests slower than `bound`, which must be one of the bounds."""
        return sum(self.counts[self.bounds.index(bound) + 1 :])

    def upper_bound(self, quantile: float) -> float:
        """The bound below which the share `quantile` of the requests lies; infinity above the last, NaN if empty."""
        if not self.total:
            return math.nan
        for bound, so_far in zip(self.bounds, itertools.accumulate(self.counts), strict=False):
            if so_far >= quantile * self.total:
                return bound
        return math.inf

    def bound_at_least(self, value: float) -> float:
        """The smallest bound not below `value` (seconds); infinity if there is none."""
        return next((bound for bound in self.bounds if bound >= value * (1 - 1e-9)), math.inf)

    def quantile(self, quantile: float) -> float:
        """The quantile in seconds, linear within its bucket, as Prometheus's histogram_quantile; NaN if empty."""
        if not self.total:
            return math.nan
        wanted, below, low = quantile * self.total, 0, 0.0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            if count and below + count >= wanted:
                return low + (bound - low) * (wanted - below) / count
            below, low = below + count, bound
        return self.bounds[-1] if self.bounds else math.nan
