"""Scores side by side: at usual settings, at the HPA's cost and at the HPA's violation time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tests.benchmarks.scaling_replay import Score


@dataclass(frozen=True)
class Sweep:
    """One policy on one course, at every headroom."""

    policy: str
    settings: tuple[str, ...]
    scores: tuple[Score, ...]
    usual: int  # which setting the table shows
    coverage: tuple[float, ...] = ()  # of stated quantiles, where the policy states them


@dataclass(frozen=True)
class Duel:
    """A policy beside the HPA at its usual target."""

    violation_at_cost: float | None  # violation time at the HPA's replica-hours
    violation_ratio: float | None  # to the HPA's
    over_cost_at_violation: float | None  # cost over the oracle at the HPA's violation time
    over_cost_ratio: float | None


def duel(sweep: Sweep, against: Score, minutes: int) -> Duel:
    """Interpolated along the policy's own sweep; None where the sweep does not reach.

    Violation times are interpolated in the logarithm; none at all counts as half a minute of the scored time.
    """
    least = 0.5 / minutes
    costs = np.array([score.cost for score in sweep.scores])
    order = np.argsort(costs, kind="stable")
    costs = costs[order]
    logs = np.log([max(sweep.scores[index].violation, least) for index in order])
    best = np.minimum.accumulate(logs)  # whoever pays more need not do worse
    target = math.log(max(against.violation, least))
    violation = cost = None
    if against.cost >= costs[0]:
        violation = math.exp(float(np.interp(against.cost, costs, best)))
    if best[-1] <= target:
        at = int((best <= target).argmax())
        cost = float(costs[at])
        if at and best[at] < best[at - 1]:
            share = (target - best[at - 1]) / (best[at] - best[at - 1])
            cost = float(costs[at - 1] + share * (costs[at] - costs[at - 1]))
    return Duel(
        violation_at_cost=violation,
        violation_ratio=None if violation is None else violation / math.exp(target),
        over_cost_at_violation=None if cost is None else cost - 1,
        over_cost_ratio=None if cost is None else (cost - 1) / max(against.cost - 1, 1e-9),
    )


def cost_ratio(sweep: Sweep, others: Iterable[Score], allowed: float) -> float | None:
    """The usual setting's cost over the cheapest of `others` that is short in at most that share of the time.

    None where none is.
    """
    costs = [score.cost for score in others if score.violation <= allowed]
    return sweep.scores[sweep.usual].cost / min(costs) if costs else None


HEAD = ("policy", "setting", "violation", "cost", "shortage", "dropped", "actions/h", "reversals/h", "covered")
DUEL = ("violation at HPA's cost", "× HPA", "over-cost at HPA's violation", "× HPA")


def rows(sweeps: Iterable[Sweep], against: Score, minutes: int) -> list[tuple[str, ...]]:
    """The table of one course, its head first."""
    lines = [(*HEAD, *DUEL)]
    for sweep in sweeps:
        score, faced = sweep.scores[sweep.usual], duel(sweep, against, minutes)
        lines.append(
            (
                sweep.policy,
                sweep.settings[sweep.usual],
                percent(score.violation),
                f"{score.cost:.3f}",
                percent(score.shortage),
                percent(score.dropped),
                f"{score.actions:.2f}",
                f"{score.reversals:.2f}",
                percent(sweep.coverage[sweep.usual]) if sweep.coverage else "",
                percent(faced.violation_at_cost),
                ratio(faced.violation_ratio),
                percent(faced.over_cost_at_violation),
                ratio(faced.over_cost_ratio),
            )
        )
    return lines


def layout(lines: Sequence[Sequence[str]]) -> str:
    """Columns of equal width; the first two to the left, figures to the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def percent(value: float | None) -> str:
    """Two digits after the point."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.2f} %"


def ratio(value: float | None) -> str:
    """As a factor."""
    return "–" if value is None else f"{value:.2f}"


def geometric_mean(values: Sequence[float | None]) -> float | None:
    """Of those that are known."""
    known = [max(value, 1e-9) for value in values if value is not None]
    return math.exp(sum(math.log(value) for value in known) / len(known)) if known else None
