"""Latency histograms as Prometheus has them: counts between bounds, the last one open."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Line:
    """A duration within a bucket: above it lie all requests of the later buckets, and the `part` of this one's."""

    bucket: int
    part: float


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

    def slower(self, line: Line) -> float:
        """Requests above a line; not a whole number where it lies within a bucket."""
        return sum(self.counts[line.bucket + 1 :]) + line.part * self.counts[line.bucket]

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
