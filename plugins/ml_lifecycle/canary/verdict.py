"""What the evidence says: promote, hold or roll back. Pure, numpy only, usable without Airflow.

Errors and slow requests are judged, and what settings add to them. For errors, harm is a canary whose rate is at least
`margin` times the stable's and at least `floor`. α is split over the metrics: a false roll-back by any costs at most α
in all. β is not: a promotion asks that harm be rejected for every metric.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from ml_lifecycle.canary.bounds import untold, vague
from ml_lifecycle.canary.comparison import Comparison, Flags, Harm, compare, without_noise
from ml_lifecycle.canary.dispersion import Looks, quotient
from ml_lifecycle.canary.evidence import Counts, Evidence
from ml_lifecycle.canary.own_metrics import OwnLimits, compare_own, looks_of, told
from ml_lifecycle.canary.slow import SlowLimits

# α, the risk of a false roll-back by anything, is divided between what may roll back.
_BUILT_IN_PARTS = {"errors": 0.8, "latency": 0.15, "guardrail": 0.05}
_PART_OF_OWN = 0.2
_CATASTROPHE_RATE = 0.25


def alpha_parts(own: Collection[str]) -> dict[str, float]:
    """Each metric's part of α; they add up to 1. Metrics of one's own share a fifth, where there are any."""
    if not own:
        return dict(_BUILT_IN_PARTS)
    built_in = {name: (1 - _PART_OF_OWN) * part for name, part in _BUILT_IN_PARTS.items()}
    return built_in | {name: _PART_OF_OWN / len(own) for name in own}


class Outcome(StrEnum):
    """What to do."""

    PROMOTE = "promote"
    HOLD = "hold"
    ROLL_BACK = "roll_back"


@dataclass(frozen=True)
class Limits:
    """What counts as harm, and how often a verdict may err."""

    margin: float = 1.5
    floor: float = 0.001
    alpha: float = 0.01
    beta: float = 0.05
    latency_quantile: float = 0.95
    latency_ratio: float = 1.5
    latency_floor_seconds: float = 0.0
    own: Mapping[str, OwnLimits] = field(default_factory=dict)

    def alpha_of(self, metric: str) -> float:
        """The metric's part of α."""
        return self.alpha * alpha_parts(self.own)[metric]

    @property
    def slow(self) -> SlowLimits:
        """What makes a request slow."""
        return SlowLimits(self.latency_quantile, self.latency_ratio, self.latency_floor_seconds)

    @property
    def errors(self) -> Harm:
        """What harm by errors is."""
        return Harm(self.margin, self.floor, self.alpha_of("errors"), self.beta)

    @property
    def slow_requests(self) -> Harm:
        """What harm by slow requests is; where slow begins differs by the ratio already: see slow_lines."""
        return Harm(1.0, 1 - self.latency_quantile, self.alpha_of("latency"), self.beta)

    @property
    def guardrail_alpha(self) -> float:
        """The guardrail's part of α."""
        return self.alpha_of("guardrail")


@dataclass(frozen=True)
class MetricVerdict:
    """One metric: `harm` and the larger of `ratio` and `floor` are e-values' logarithms over those they must reach."""

    name: str
    outcome: Outcome
    reason: str
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """The outcome, why in one sentence for each metric, and the numbers behind."""

    outcome: Outcome
    reasons: tuple[str, ...]
    numbers: dict[str, float] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        """All reasons as one sentence."""
        return "; ".join(self.reasons)


def judge(evidence: Evidence, limits: Limits) -> Verdict:
    """The verdict on everything seen so far; without data: hold, unless the guardrail ends the warm-up."""
    disaster = _disaster(evidence, limits)
    if nothing := _nothing_yet(evidence):
        return Verdict(Outcome.ROLL_BACK, (disaster,)) if disaster else Verdict(Outcome.HOLD, (nothing,))
    own = [_own(name, evidence, limits) for name in limits.own]
    metrics = [_errors(evidence, limits), _latency(evidence, limits), *own]
    numbers = {f"{metric.name}.{key}": value for metric in metrics for key, value in metric.numbers.items()}
    if disaster:
        return Verdict(Outcome.ROLL_BACK, (disaster,), numbers)
    outcomes = [metric.outcome for metric in metrics]
    if Outcome.ROLL_BACK in outcomes:
        outcome = Outcome.ROLL_BACK
    elif all(outcome is Outcome.PROMOTE for outcome in outcomes):
        outcome = Outcome.PROMOTE
    else:
        outcome = Outcome.HOLD
    telling = [metric for metric in metrics if metric.outcome is outcome]
    return Verdict(outcome, tuple(metric.reason for metric in telling), numbers)


def catastrophes(looks: Looks, alpha: float) -> Flags:
    """Whether each look alone is reason enough to roll back: the guardrail for a canary that is plainly broken.

    A quarter of its requests fail, that is ten times the stable side's rate in this look and forty times its rate so
    far, and were both sides alike, chance would bring it with a probability (Chernoff's bound of the binomial tail) of
    at most α/(t(t + 1)) at look t, which is at most α over all looks. Forty times is for what else can move one side:
    a fourfold incident of both sides and a gamma variable of coefficient of variation 1 that exceeds ten, which one
    look in 20,000 brings.
    """
    canary_n, canary_e, stable_n, stable_e = looks
    rate, beside = quotient(canary_e, canary_n), quotient(stable_e, stable_n)
    so_far = quotient(np.cumsum(stable_e, axis=-1), np.cumsum(stable_n, axis=-1))
    share, seen = quotient(canary_n, canary_n + stable_n), quotient(canary_e, canary_e + stable_e)
    with np.errstate(divide="ignore", invalid="ignore"):
        surprise = np.where(seen > share, canary_e * np.log(seen / share), 0.0)
        surprise += np.where((seen > share) & (seen < 1), stable_e * np.log((1 - seen) / (1 - share)), 0.0)
    look = np.maximum(np.cumsum(canary_n > 0, axis=-1), 1)
    extreme = (rate >= _CATASTROPHE_RATE) & (rate >= 10 * beside) & (rate >= 40 * so_far)
    flags: Flags = extreme & (surprise >= np.log(look * (look + 1) / alpha))
    return flags


def _nothing_yet(evidence: Evidence) -> str:
    """Which side has shown nothing that is evidence; empty where both have."""
    if not evidence.totals.canary.requests:
        return "no requests on the canary since its warm-up" if evidence.warmup else "no requests on the canary yet"
    return "" if evidence.totals.stable.requests else "no requests on the stable side yet"


def _disaster(evidence: Evidence, limits: Limits) -> str:
    """Why the last look alone, be it of the warm-up, is reason to roll back; empty if it is not."""
    looks = evidence.guarded
    if not looks or not catastrophes(looks_of(looks), limits.guardrail_alpha)[-1]:
        return ""
    last = looks[-1]
    return (
        f"{last.canary_e} of {last.canary_n} canary requests failed within one look "
        f"({last.canary_e / last.canary_n:.0%}), "
        f"{last.stable_e} of {last.stable_n} on the stable side"
    )


def expected_requests(limits: Limits, *, error_rate: float, share: float, looks: int = 60) -> float:
    """Canary requests until a version as good as the stable one is cleared of harm by errors; infinity if never.

    `error_rate` is the base rate of both sides, `share` the canary's share of the traffic. An expectation without
    noise: half of all rollouts need more.
    """
    low, high = 1.0, 1e9
    if not _cleared(high, limits, error_rate, share, looks):
        return math.inf
    while high / low > 1.01:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if _cleared(middle, limits, error_rate, share, looks) else (middle, high)
    return high


def _cleared(requests: float, limits: Limits, error_rate: float, share: float, looks: int) -> bool:
    canary_n = np.full(looks, requests / looks)
    stable_n = canary_n * (1 - share) / share
    return bool(compare(without_noise(canary_n, stable_n, error_rate), limits.errors).promote[-1])


def _errors(evidence: Evidence, limits: Limits) -> MetricVerdict:
    canary, stable = evidence.totals.canary, evidence.totals.stable
    seen = (
        f"{canary.errors} of {canary.requests} canary requests failed ({canary.errors / canary.requests:.2%}), "
        f"{stable.errors / stable.requests:.2%} on the stable side"
    )
    return _compare("errors", evidence.errors, seen, limits.errors)


def _latency(evidence: Evidence, limits: Limits) -> MetricVerdict:
    canary, stable = evidence.totals.canary.latency, evidence.totals.stable.latency
    quantile = limits.latency_quantile
    seen = (
        f"p{quantile * 100:g} is {canary.quantile(quantile) * 1000:.0f} ms on the canary, "
        f"{stable.quantile(quantile) * 1000:.0f} ms on the stable side"
    )
    if note := vague(stable, limits.slow):
        seen += f" ({note})"
    found = _compare("latency", evidence.slow, seen, limits.slow_requests)
    if found.outcome is not Outcome.ROLL_BACK and (reason := untold(stable, limits.slow)):
        return MetricVerdict("latency", Outcome.HOLD, f"latency cannot be judged: {reason}")
    return found


def _own(name: str, evidence: Evidence, limits: Limits) -> MetricVerdict:
    """A metric of one's own; held, whatever it said before, where the last look told nothing of it."""
    looks = evidence.own.get(name, ())
    if name in evidence.silent or not looks:
        return MetricVerdict(name, Outcome.HOLD, f"{name}: no data, {evidence.silent.get(name, 'no look yet')}")
    found = compare_own(looks, limits.own[name], alpha=limits.alpha_of(name), beta=limits.beta)
    return _verdict(name, found, told(looks))


def _compare(name: str, looks: tuple[Counts, ...], seen: str, harm: Harm) -> MetricVerdict:
    return _verdict(name, compare(looks_of(looks), harm, only_last=True), seen)


def _verdict(name: str, found: Comparison, seen: str) -> MetricVerdict:
    floor = float(found.floor[-1])
    numbers = {
        "harm": float(found.harm[-1]),
        "ratio": float(found.ratio[-1]),
        "floor": floor if math.isfinite(floor) else 0.0,
    }
    if found.roll_back[-1]:
        return MetricVerdict(name, Outcome.ROLL_BACK, f"{name}: {seen}", numbers)
    if found.promote[-1]:
        return MetricVerdict(name, Outcome.PROMOTE, f"{name}: {seen}", numbers)
    clear_by, harm_by = max(numbers["ratio"], numbers["floor"], 0.0), max(numbers["harm"], 0.0)
    undecided = f"{name}: undecided, {seen} ({clear_by:.0%} of the evidence for it, {harm_by:.0%} against it)"
    return MetricVerdict(name, Outcome.HOLD, undecided, numbers)
