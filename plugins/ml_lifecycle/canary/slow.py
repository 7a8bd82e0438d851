"""Which requests count as slow: above a line on either side that lies within a bucket of the histogram. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ml_lifecycle.canary.histogram import Histogram, Line
from ml_lifecycle.canary.tail import Tail

# By so many times slow requests must differ between no harm and the limit, and between the limit and twice the harm:
# then some 500 of them decide.
_CLEARED, _HARMED = 1.3, 1.4


@dataclass(frozen=True)
class SlowLimits:
    """A canary is slow when its `quantile` exceeds `ratio` times the stable side's, and that by `floor_seconds`."""

    quantile: float = 0.95
    ratio: float = 1.5
    floor_seconds: float = 0.0

    @property
    def share(self) -> float:
        """The share of requests above the quantile."""
        return 1 - self.quantile

    def limit(self, seconds: float) -> float:
        """The quantile from which on a canary is slow, where the stable side's takes so many seconds."""
        return max(self.ratio * seconds, seconds + self.floor_seconds)


@dataclass(frozen=True)
class Lines:
    """Where slow begins on the stable side and on the canary.

    `clears`: a canary like the stable side is told from one at the limit. Where it is not, slow is on the canary what
    is beyond the limit for certain: that may roll back, and clears nothing. `rolls_back`: so is one with twice the
    harm.
    """

    stable: Line
    canary: Line
    clears: bool
    rolls_back: bool


def slow_lines(stable: Histogram, limits: SlowLimits) -> Lines | None:
    """By the stable side's durations so far; None where there are none, or no bound lies high enough.

    On the stable side the share 1 - quantile lies above the line. On the canary at least as many requests do of one at
    the limit. The line lies between the two bounds whose shares enclose the wanted one, and takes such a part of the
    bucket between as makes them equal.
    """
    if not stable.total or not stable.bounds:
        return None
    tail, share = Tail.of(stable), limits.share
    usual = tail.bucket_of(share)
    if usual == len(tail.bounds):
        return None
    certain = limits.limit(tail.bounds[usual])
    beyond = next((bucket for bucket, bound in enumerate(tail.bounds) if bound >= certain * (1 - 1e-9)), None)
    if beyond is None:
        return None
    at_limit = _Harmed(tail, limits, 1.0)
    bucket = next(each for each in range(usual, len(tail.bounds)) if each >= beyond or at_limit.least(each) < share)
    low, high = at_limit.least(bucket - 1), at_limit.least(bucket)
    stable_line = Line(usual, _part(share, tail.above(usual - 1), tail.above(usual)))
    line = Line(bucket, _part(share, low, high))
    if _CLEARED * _Harmed(tail, limits, 0.0).slower(line) > share:
        return Lines(stable_line, Line(beyond, 0.0), clears=False, rolls_back=False)
    rolls_back = _Harmed(tail, limits, 2.0).slower(line) > _HARMED * share
    return Lines(stable_line, line, clears=True, rolls_back=rolls_back)


def _part(share: float, above: float, beyond: float) -> float:
    """The part of a bucket with which `share` of the requests are slow: of those above its bounds, such shares."""
    return min(1.0, max(0.0, (share - beyond) / (above - beyond)))


@dataclass(frozen=True)
class _Harmed:
    """The least shares of requests above the bounds on a canary with `harms` times the harm at the limit.

    Each request takes longer than on the stable side, all by the same ratio. However it is, the quantile of a canary at
    the limit or beyond is no less than the limit that the lower bound of the stable side's quantile has.
    """

    tail: Tail
    limits: SlowLimits
    harms: float

    def least(self, bucket: int) -> float:
        """Above the upper bound of a bucket; before the first bucket that is all."""
        if bucket < 0:
            return 1.0
        bound, share = self.tail.bounds[bucket], self.limits.share
        quantile = self.tail.quantile(share)
        slower = 1 + self.harms * (self.limits.limit(quantile) / quantile - 1)
        least = self.tail.least(bound / slower)
        usual = self.tail.bucket_of(share)
        certain = self.limits.limit(self.tail.bounds[usual - 1] if usual else 0.0)
        return max(least, share) if self.harms >= 1 and bound <= certain else least

    def slower(self, line: Line) -> float:
        """Above a line."""
        return (1 - line.part) * self.least(line.bucket) + line.part * self.least(line.bucket - 1)
