"""How many requests took longer than any duration, as far as a histogram's bounds allow that to be guessed. Pure."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import Self

from ml_lifecycle.canary.histogram import Histogram

# Within a bucket whose bounds lie further apart than so many times nothing is guessed.
_WIDEST = 5.0
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Tail:
    """`shares[i]` of all requests took longer than `bounds[i]` seconds; there is at least one bound.

    Within a bucket the share is guessed: its logarithm falls over the logarithm of time as steadily as it does from
    this bucket's lower bound to its upper one, or as it does in either neighbouring bucket. Where it falls ever faster
    (log-normal and exponential durations, and most others) the first is the least it can be; where it falls ever more
    slowly, because a tail begins, one of the neighbours' is. What no bound near shows, a kink within the bucket, it
    cannot know, so a bucket that spans too much is not guessed at.
    """

    bounds: tuple[float, ...]
    shares: tuple[float, ...]

    @classmethod
    def of(cls, histogram: Histogram) -> Self:
        """Of counts; half a request is added, so that no share is nothing."""
        total = histogram.total
        below = itertools.accumulate(histogram.counts[:-1])
        return cls(histogram.bounds, tuple((total - each + 0.5) / (total + 0.5) for each in below))

    def above(self, bucket: int) -> float:
        """The share above the upper bound of a bucket; before the first bucket that is all, above the last nothing."""
        if bucket < 0:
            return 1.0
        return self.shares[bucket] if bucket < len(self.shares) else 0.0

    def bucket_of(self, share: float) -> int:
        """The bucket at whose upper bound the share first is no more than `share`; the open one where none is."""
        return next((bucket for bucket, above in enumerate(self.shares) if above <= share), len(self.shares))

    def quantile(self, share: float) -> float:
        """The time that `share` of the requests exceed, guessed within its bucket; of what is not, the upper bound.

        ValueError where it lies above the last bound.
        """
        bucket = self.bucket_of(share)
        if bucket == len(self.bounds):
            raise ValueError(f"{share:g} of the requests took longer than the last bound, {self.bounds[-1]:g} s")
        if not self._is_guessed(bucket):
            return self.bounds[bucket]
        low, high = self.bounds[bucket - 1 : bucket + 1]
        above, beyond = self.shares[bucket - 1 : bucket + 1]
        return low * (high / low) ** (math.log(share / above) / math.log(beyond / above))

    def least(self, seconds: float) -> float:
        """The least share of requests that took longer, by the guess above; exact at a bound."""
        if seconds <= 0:
            return 1.0
        bucket = bisect_left(self.bounds, seconds * (1 - _ROUNDING))
        least = self.above(bucket)
        if not self._is_guessed(bucket) or self.bounds[bucket] <= seconds * (1 + _ROUNDING):
            return least
        neighbours = [each for each in (bucket - 1, bucket, bucket + 1) if 0 < each < len(self.bounds)]
        return max(least, min(self._through(each, seconds) for each in neighbours))

    def _is_guessed(self, bucket: int) -> bool:
        """Whether what lies within a bucket is guessed: of one that has two bounds, not too far apart."""
        if not 0 < bucket < len(self.bounds):
            return False
        return self.bounds[bucket] <= _WIDEST * self.bounds[bucket - 1] * (1 + _ROUNDING)

    def _through(self, bucket: int, seconds: float) -> float:
        """The share if it fell everywhere as steadily as within `bucket`."""
        low, high = self.bounds[bucket - 1 : bucket + 1]
        above, beyond = self.shares[bucket - 1 : bucket + 1]
        return above * math.exp(math.log(beyond / above) * math.log(seconds / low) / math.log(high / low))
