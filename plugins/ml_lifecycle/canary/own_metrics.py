"""Metrics of one's own beside errors and latency: counts as a ratio of rates, gauges by their mean difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ml_lifecycle.canary.comparison import Comparison, Harm, compare
from ml_lifecycle.canary.dispersion import Looks, dispersion_bound
from ml_lifecycle.canary.evidence import Counts, OwnLook, Readings, Window, together
from ml_lifecycle.canary.gauge import compare_gauge
from ml_lifecycle.canary.sequential import harm_evidence, margin_evidence

Direction = Literal["more", "fewer"]


@dataclass(frozen=True)
class CountsLimits:
    """What counts as harm by events among a total: `margin` times the stable side's rate, or one over that of it."""

    harm: Direction = "more"
    margin: float = 1.5
    floor: float = 0.0


@dataclass(frozen=True)
class GaugeLimits:
    """What counts as harm by a gauge: a mean that differs by `tolerance` from the stable side's."""

    tolerance: float
    harm: Direction = "more"


OwnLimits = CountsLimits | GaugeLimits


def compare_own(looks: Sequence[OwnLook], limits: OwnLimits, *, alpha: float, beta: float) -> Comparison:
    """The comparison after each look, of which there must be one."""
    if isinstance(limits, GaugeLimits):
        readings = np.array([look.means for look in looks if isinstance(look, Readings)])
        sign = 1 if limits.harm == "more" else -1
        return compare_gauge(sign * (readings[:, 0] - readings[:, 1]) / limits.tolerance, alpha=alpha, beta=beta)
    counts = looks_of([look for look in looks if isinstance(look, Counts)])
    if limits.harm == "more":
        return compare(counts, Harm(limits.margin, limits.floor, alpha, beta), only_last=True)
    return compare_fewer(counts, margin=limits.margin, alpha=alpha, beta=beta)


def compare_fewer(looks: Looks, *, margin: float, alpha: float, beta: float) -> Comparison:
    """Where events are what is wanted: rolling back rejects, at α, a canary rate of at least the stable side's.

    Clearing rejects, at β, a canary rate of at most one over `margin` of it.
    """
    bound = dispersion_bound(looks)
    harm = margin_evidence(looks, bound, margin=1.0) / math.log(1 / alpha)
    cleared = harm_evidence(looks, bound, ratio=1 / margin) / math.log(1 / beta)
    nothing = np.full(harm.shape, -math.inf)
    return Comparison(harm, cleared, nothing, roll_back=(harm >= 1) & (cleared < 1), promote=cleared >= 1)


def looks_of(counts: Sequence[Counts]) -> Looks:
    """Arrays of looks at counts."""
    return Looks(*np.array([look.numbers for look in counts], dtype=np.float64).reshape(-1, 4).T)


def told(looks: Sequence[OwnLook]) -> str:
    """What was seen in all, for people."""
    total = together(looks)
    if isinstance(total, Readings):
        canary, stable = total.means
        return f"{canary:.4g} on the canary, {stable:.4g} on the stable side"
    return (
        f"{total.canary_e} of {total.canary_n} on the canary ({_rate(total.canary_e, total.canary_n):.2%}), "
        f"{_rate(total.stable_e, total.stable_n):.2%} on the stable side"
    )


def own_report(seen: Window) -> dict[str, dict[str, Any]]:
    """What a step saw of each metric of one's own, by side; JSON, null without data."""
    return {name: _report(look) for name, look in seen.own.items()}


def _report(look: OwnLook) -> dict[str, Any]:
    if isinstance(look, Readings):
        means = (None if math.isnan(mean) else mean for mean in look.means)
        return dict(zip(("canary", "stable"), means, strict=True))
    sides = {"canary": (look.canary_e, look.canary_n), "stable": (look.stable_e, look.stable_n)}
    return {side: {"events": events, "total": total} for side, (events, total) in sides.items()}


def _rate(events: int, total: int) -> float:
    return events / total if total else math.nan
