"""From load and forecast to a number of replicas, under the safety rules of the HPA. Pure.

    need    = max(load now, forecast peak if it is trusted)
    wanted  = need / (capacity of a replica * target utilisation)
    up      to wanted rounded up, at most by the pace of scaling up; without tolerance, since a forecast that is
            right and ignored is a violation
    down    if wanted < current * (1 - tolerance), on fresh and nearly complete data only, never below the highest
            need of the stabilisation window, not within it after replicas were added, at most by the pace
    always  within [minReplicas, maxReplicas]

Missing, stale or NaN data never takes a replica away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from ml_lifecycle.scaling.resource import ScaleDown, ScalerSpec, ScaleUp

if TYPE_CHECKING:
    from ml_lifecycle.scaling.forecast import Forecast

LEAST_COVERAGE = 0.8  # share of the window's samples without which nothing is taken away


class Cause(StrEnum):
    """Why a plan says what it says; a condition's reason."""

    FORECAST = "ForecastRises"
    LOAD = "LoadRises"
    LESS = "LoadFell"
    STEADY = "WithinTolerance"
    STABILIZING = "Stabilizing"
    NO_METRICS = "MetricsMissing"
    FEW_METRICS = "MetricsIncomplete"
    BOUNDS = "OutsideBounds"
    OFF = "SwitchedOff"
    ZERO = "ScaledToZero"


class Limit(StrEnum):
    """What kept a plan from the replicas that it wanted."""

    NONE = ""
    MAXIMUM = "TooManyReplicas"
    MINIMUM = "TooFewReplicas"
    PACE_UP = "ScaleUpLimit"
    PACE_DOWN = "ScaleDownLimit"


@dataclass(frozen=True)
class Period:
    """The running period of a pace: it began at `start` (Unix seconds) with `replicas`."""

    up: bool
    start: float
    replicas: int


@dataclass(frozen=True)
class Observation:
    """What is known of one target at one time; loads in the metric's unit, None where unknown."""

    replicas: int  # what the target is asked to run
    load: float | None
    recent_load: float | None  # highest of the stabilisation window
    coverage: float  # share of the window's samples that are present
    forecast: Forecast | None = None
    period: Period | None = None
    ceiling: int | None = None  # the target's own limit
    scaled_up_at: float | None = None  # Unix seconds; the last change, where it added replicas


@dataclass(frozen=True)
class Plan:
    """The decision about one target."""

    current: int
    desired: int
    predicted: int | None  # replicas that the forecast alone asks for
    cause: Cause
    limit: Limit
    reason: str
    period: Period | None

    @property
    def changes(self) -> bool:
        """Whether it asks for other replicas than there are."""
        return self.desired != self.current


def plan(spec: ScalerSpec, observed: Observation, now: float) -> Plan:
    """The replicas for one target at `now` (Unix seconds)."""
    forecast = _trusted(spec, observed.forecast)
    predicted = None
    if forecast is not None:
        predicted = _clamp(_replicas(forecast.peak / spec.load_per_replica), spec, observed.ceiling)
    wanted, cause, reason = _wanted(spec, observed, forecast, now)
    if cause in {Cause.OFF, Cause.ZERO}:
        current = observed.replicas
        return Plan(current, current, predicted, cause, Limit.NONE, reason, observed.period)
    return _limited(spec, observed, wanted, now, predicted=predicted, cause=cause, reason=reason)


def _trusted(spec: ScalerSpec, forecast: Forecast | None) -> Forecast | None:
    if forecast is None or spec.mode == "reactiveOnly" or not forecast.trusted or not math.isfinite(forecast.peak):
        return None
    return forecast


def _wanted(spec: ScalerSpec, observed: Observation, trusted: Forecast | None, now: float) -> tuple[int, Cause, str]:
    """Replicas before any limit, and why."""
    current, load = observed.replicas, observed.load
    if spec.mode == "off":
        return current, Cause.OFF, "switched off by mode: off"
    if current == 0:
        return current, Cause.ZERO, "the target is scaled to zero, which switches scaling off; give it a replica"
    if load is None or not math.isfinite(load):
        return current, Cause.NO_METRICS, "held: the metric gives no fresh sample"
    need = max(load, trusted.peak) if trusted else load
    ratio = need / spec.load_per_replica
    said = f"load {load:.3g}" + (f", forecast {trusted.peak:.3g}" if trusted else "")
    carries = f"a replica is given {spec.load_per_replica:.3g}"
    if _replicas(ratio) > current:
        ahead = trusted is not None and need > load and _replicas(load / spec.load_per_replica) < _replicas(ratio)
        return _replicas(ratio), Cause.FORECAST if ahead else Cause.LOAD, f"{said}; {carries}"
    if ratio < current * (1 - spec.tolerance) and _replicas(ratio) < current:
        since = now - observed.scaled_up_at if observed.scaled_up_at is not None else math.inf
        if since < spec.behavior.scale_down.stabilization_window_seconds:
            # Also where the forecast that asked for them is no longer trusted.
            return current, Cause.STABILIZING, f"{said}; replicas were added {since:.0f} s ago, so it waits"
        return _less(observed, trusted, spec, ratio, f"{said}; {carries}")
    return (
        current,
        Cause.STEADY,
        f"{said}: {current} replicas carry it" if current > 1 else f"{said}: 1 replica carries it",
    )


def _less(
    observed: Observation, trusted: Forecast | None, spec: ScalerSpec, ratio: float, said: str
) -> tuple[int, Cause, str]:
    """Fewer replicas, as far as the data and the stabilisation window allow."""
    current = observed.replicas
    if observed.coverage < LEAST_COVERAGE or observed.recent_load is None:
        part = f"{observed.coverage:.0%} of the window's samples"
        return current, Cause.FEW_METRICS, f"held: only {part} are there, {LEAST_COVERAGE:.0%} are needed to scale down"
    remembered = max(observed.recent_load, trusted.recent_peak if trusted else 0.0) / spec.load_per_replica
    stable = min(current, max(_replicas(ratio), _replicas(remembered)))
    if stable == current:
        window = spec.behavior.scale_down.stabilization_window_seconds
        return current, Cause.STABILIZING, f"{said}; the last {window} s needed {_replicas(remembered)}, so it waits"
    return stable, Cause.LESS, said


def _limited(
    spec: ScalerSpec,
    observed: Observation,
    wanted: int,
    now: float,
    *,
    predicted: int | None,
    cause: Cause,
    reason: str,
) -> Plan:
    current, limit, desired = observed.replicas, Limit.NONE, wanted
    period = observed.period
    if wanted != current:
        up = wanted > current
        rule = spec.behavior.scale_up if up else spec.behavior.scale_down
        if period is None or period.up != up or now - period.start >= rule.period_seconds:
            period = Period(up=up, start=now, replicas=current)
        desired = _paced(rule, period, current, wanted)
        if desired != wanted:
            limit = Limit.PACE_UP if up else Limit.PACE_DOWN
            reason += f"; wants {wanted}, the pace allows {desired}"
    bounded = _clamp(desired, spec, observed.ceiling)
    if bounded < desired:
        highest = min(spec.max_replicas, observed.ceiling or spec.max_replicas)
        limit, reason = Limit.MAXIMUM, f"{reason}; wants {desired}, at most {highest} are allowed"
    elif bounded > desired:
        limit, reason = Limit.MINIMUM, f"{reason}; wants {desired}, at least {spec.min_replicas} are kept"
    if bounded != current and wanted == current:
        cause = Cause.BOUNDS
    return Plan(current, bounded, predicted, cause, limit, reason, period if bounded != current else observed.period)


def _paced(rule: ScaleUp | ScaleDown, period: Period, current: int, wanted: int) -> int:
    """`wanted`, as far as the period's pace allows; it never turns the direction round."""
    step = max(math.ceil(period.replicas * rule.max_percent / 100), rule.max_pods)
    if wanted > current:
        return max(current, min(wanted, period.replicas + step))
    return min(current, max(wanted, period.replicas - step))


def _clamp(replicas: int, spec: ScalerSpec, ceiling: int | None) -> int:
    highest = spec.max_replicas if ceiling is None else min(spec.max_replicas, ceiling)
    return min(max(replicas, spec.min_replicas), max(highest, 1))


def _replicas(ratio: float) -> int:
    # A load that fills its replicas to the last digit needs no replica for rounding's sake.
    return max(1, math.ceil(ratio - 1e-6))
