"""How often peaks may surpass the forecast, steered by how often replicas were too few. Pure.

A peak that surpasses its forecast seldom makes replicas too few: others are there still, the next forecast is higher,
replicas are whole. How seldom depends on the load, so it is not said beforehand but followed: while replicas carry the
load the allowance grows, by GROWTH a day; for each minute in which they do not it shrinks by as much as it grows in the
time over which a minute is allowed. An integral controller of the log of the allowance, as online conformal prediction
has it (Gibbs and Candès 2021; Angelopoulos, Candès and Tibshirani 2023): whatever the load does, over T days the share
of minutes that were short is at most

    AIM · allowed + AIM · allowed · log(highest / least) / (GROWTH · T)

as long as none is short at the least allowance. The bounds are for loads where that does not hold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

DAY_SECONDS = 86_400
GROWTH = 1.75  # in the natural logarithm, a day
AIM = 0.6  # of what is allowed: of the rest a bad day may take
HIGHEST = 0.3  # of the peaks, whatever was carried
LEAST = 0.3  # of what is allowed, where nothing helps
WRITTEN_AT = 1.25  # growth from which it is written anew
UNWRITTEN = 1.5  # the most that it grows unwritten: longer ago nobody looked


@dataclass(frozen=True)
class Allowance:
    """The share of peaks that may surpass the forecast, as it was at a time."""

    missed: float
    at: float  # Unix seconds

    def grown(self, allowed: float, now: float) -> float:
        """The share now, if nothing was short since; `allowed` is the share of the time in which replicas may be."""
        days = max(0.0, now - self.at) / DAY_SECONDS
        return _bounded(self.missed * min(UNWRITTEN, math.exp(GROWTH * days)), allowed)


def begun(allowed: float, now: float) -> Allowance:
    """What is allowed, of a load of which nothing is known."""
    return Allowance(allowed, now)


def steered(before: Allowance, allowed: float, now: float, *, short: bool, seconds: float) -> Allowance:
    """The allowance after a pass at which replicas were too few or not; the one before, while it says about the same.

    `seconds` are those that the pass stands for.
    """
    missed = before.grown(allowed, now)
    if short:
        return Allowance(_bounded(missed * math.exp(-shrinks(allowed, seconds)), allowed), now)
    # Below what is written lies what a spec allows that was changed.
    return Allowance(missed, now) if not 1 <= missed / before.missed < WRITTEN_AT else before


def shrinks(allowed: float, seconds: float) -> float:
    """By how much the logarithm shrinks for so many seconds."""
    return GROWTH * seconds / DAY_SECONDS / (AIM * allowed)


def bounds(allowed: float) -> tuple[float, float]:
    """The least and the highest allowance."""
    return LEAST * allowed, max(HIGHEST, allowed)


def _bounded(missed: float, allowed: float) -> float:
    least, highest = bounds(allowed)
    return min(max(missed, least), highest)
