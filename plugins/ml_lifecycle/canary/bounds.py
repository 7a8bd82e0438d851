"""Whether the bounds of the latency's histogram can tell harm from none, and what helps where they cannot. Pure."""

from __future__ import annotations

from dataclasses import replace

from ml_lifecycle.canary.histogram import Histogram
from ml_lifecycle.canary.slow import SlowLimits, slow_lines

_LARGER_RATIOS = (2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0)


def untold(stable: Histogram, limits: SlowLimits) -> str:
    """Why nothing is cleared beside such durations of the stable side, and what helps; empty where it can be."""
    if not stable.total or not stable.bounds:
        return "no durations of the stable side were seen"
    lines = slow_lines(stable, limits)
    if lines is None:
        return (
            f"the histogram's last bound ({stable.bounds[-1]:g} s) is too low for {limits.ratio:g}× the stable side: "
            "add bounds above"
        )
    if lines.clears:
        return ""
    return (
        "the histogram's bounds cannot tell a canary at the limit from one as fast as the stable side: "
        f"add bounds {_between(stable, lines.stable.bucket, lines.canary.bucket)}{_larger(stable, limits)}"
    )


def vague(stable: Histogram, limits: SlowLimits) -> str:
    """Where a canary beyond the limit may be held in place of rolled back, what helps; else empty."""
    lines = slow_lines(stable, limits)
    if lines is None or lines.rolls_back or not lines.clears:
        return ""
    return (
        "the histogram's bounds cannot tell a canary with twice the limit's harm from one at the limit, and both may "
        f"be held: add bounds {_between(stable, lines.stable.bucket, lines.canary.bucket)}"
    )


def _between(stable: Histogram, first: int, last: int) -> str:
    return f"between {stable.bounds[first - 1] if first else 0.0:g} and {stable.bounds[last]:g} s"


def _larger(stable: Histogram, limits: SlowLimits) -> str:
    """The remedy of a larger limit, if there is one."""
    for ratio in _LARGER_RATIOS:
        if ratio > limits.ratio and (lines := slow_lines(stable, replace(limits, ratio=ratio))) and lines.clears:
            return f", or raise latency_ratio to {ratio:g} or latency_floor_seconds"
    return ""
