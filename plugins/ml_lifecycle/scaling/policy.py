"""From loads and forecasts to numbers of replicas, under the safety rules of the HPA, for all scalers at once. Pure.

    need    = max(load now, forecast alarm) / (capacity of a replica * target utilisation)
    reserve = the same with the forecast's reserve
    up      if need > current, without tolerance, since a forecast that is right and ignored is a violation; then to
            the reserve and at least SPARE beyond the need, so that the next small rise asks for nothing; at most by the
            pace of scaling up
    down    if the highest reserve of the stabilisation window < current * (1 - tolerance), and to it; on fresh and
            nearly complete data only, not within the window after replicas were added, at most by the pace
    always  within [minReplicas, maxReplicas]

A forecast that is not trusted is the load now with the margin that its own past asks for, so it counts as well.
Missing, stale or NaN data never takes a replica away; a forecast that goes on without them may add some.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ml_lifecycle.scaling.resource import ScaleDown, ScalerSpec, ScaleUp

if TYPE_CHECKING:
    from ml_lifecycle.scaling.forecast import Forecast

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Flags = NDArray[np.bool_]

LEAST_COVERAGE = 0.8  # share of the window's samples without which nothing is taken away
SPARE = 0.05  # of the need, by which a rise is answered at least: a third fewer changes for a hundredth of the cost
NO_LIMIT = 2**31


class Cause(StrEnum):
    """Why a plan says what it says; a condition's reason."""

    FORECAST = "ForecastRises"
    LOAD = "LoadRises"
    LESS = "LoadFell"
    BLIND = "ForecastRisesWithoutMetrics"
    STEADY = "WithinTolerance"
    STABILIZING = "Stabilizing"
    NO_METRICS = "MetricsMissing"
    FEW_METRICS = "MetricsIncomplete"
    BOUNDS = "OutsideBounds"
    OFF = "SwitchedOff"
    ZERO = "ScaledToZero"
    TAKEN_OVER = "TakenOver"


class Limit(StrEnum):
    """What kept a plan from the replicas that it wanted."""

    NONE = ""
    MAXIMUM = "TooManyReplicas"
    MINIMUM = "TooFewReplicas"
    PACE_UP = "ScaleUpLimit"
    PACE_DOWN = "ScaleDownLimit"


CAUSES, LIMITS = tuple(Cause), tuple(Limit)  # arrays hold their places


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


@dataclass(frozen=True)
class Rules:
    """What the specs of a batch say; each array is [scaler]."""

    load_per_replica: Floats
    minimum: Counts
    maximum: Counts
    tolerance: Floats
    window_seconds: Floats  # of stabilisation
    off: Flags
    pace_percent: Floats  # [2, scaler]: down, up
    pace_pods: Counts  # [2, scaler]
    pace_seconds: Floats  # [2, scaler]

    @classmethod
    def of(cls, specs: Sequence[ScalerSpec]) -> Rules:
        """The rules of all specs."""
        down: list[ScaleDown | ScaleUp] = [spec.behavior.scale_down for spec in specs]
        paces: list[list[ScaleDown | ScaleUp]] = [down, [spec.behavior.scale_up for spec in specs]]
        return cls(
            load_per_replica=_floats(spec.load_per_replica for spec in specs),
            minimum=_counts(spec.min_replicas for spec in specs),
            maximum=_counts(spec.max_replicas for spec in specs),
            tolerance=_floats(spec.tolerance for spec in specs),
            window_seconds=_floats(spec.behavior.scale_down.stabilization_window_seconds for spec in specs),
            off=np.array([spec.mode == "off" for spec in specs], dtype=np.bool_),
            pace_percent=np.stack([_floats(pace.max_percent for pace in row) for row in paces]),
            pace_pods=np.stack([_counts(pace.max_pods for pace in row) for row in paces]),
            pace_seconds=np.stack([_floats(pace.period_seconds for pace in row) for row in paces]),
        )


@dataclass(frozen=True)
class Observed:
    """What is known of a batch of targets; each array is [scaler], NaN where unknown."""

    replicas: Counts
    load: Floats
    recent_load: Floats
    coverage: Floats
    alarm: Floats
    peak: Floats
    reserve: Floats
    recent_reserve: Floats
    ceiling: Counts  # NO_LIMIT where there is none
    scaled_up_at: Floats  # -inf where replicas were not added last
    period_up: Flags
    period_start: Floats  # -inf where there is none
    period_replicas: Counts

    @classmethod
    def of(cls, specs: Sequence[ScalerSpec], observations: Sequence[Observation]) -> Observed:
        """The observations as arrays; a forecast counts where the mode uses it."""
        used = [_used(spec, seen.forecast) for spec, seen in zip(specs, observations, strict=True)]
        periods = [seen.period or Period(up=False, start=-math.inf, replicas=0) for seen in observations]
        return cls(
            replicas=_counts(seen.replicas for seen in observations),
            load=_floats(_or(seen.load, math.nan) for seen in observations),
            recent_load=_floats(_or(seen.recent_load, math.nan) for seen in observations),
            coverage=_floats(seen.coverage for seen in observations),
            alarm=_floats(math.nan if forecast is None else forecast.alarm for forecast in used),
            peak=_floats(math.nan if forecast is None else forecast.peak for forecast in used),
            reserve=_floats(math.nan if forecast is None else forecast.reserve for forecast in used),
            recent_reserve=_floats(math.nan if forecast is None else forecast.recent_reserve for forecast in used),
            ceiling=_counts(NO_LIMIT if seen.ceiling is None else max(seen.ceiling, 1) for seen in observations),
            scaled_up_at=_floats(_or(seen.scaled_up_at, -math.inf) for seen in observations),
            period_up=np.array([period.up for period in periods], dtype=np.bool_),
            period_start=_floats(period.start for period in periods),
            period_replicas=_counts(period.replicas for period in periods),
        )


@dataclass(frozen=True)
class Decided:
    """The decisions about a batch; each array is [scaler]."""

    desired: Counts
    wanted: Counts  # before any limit
    paced: Counts  # wanted, as far as the pace allows
    cause: Counts  # place in CAUSES
    limit: Counts  # place in LIMITS
    period_up: Flags
    period_start: Floats
    period_replicas: Counts


def decide(rules: Rules, seen: Observed, now: float) -> Decided:
    """The replicas for every target at `now` (Unix seconds)."""
    wanted, cause = _wanted(rules, seen, now)
    current = seen.replicas
    left_alone = (cause == CAUSES.index(Cause.OFF)) | (cause == CAUSES.index(Cause.ZERO))

    up, moves = wanted > current, wanted != current
    side, row = up.astype(np.int64), np.arange(len(current))
    # A time that is yet to come is as far as one that is long past: it was never now.
    anew = moves & ((seen.period_up != up) | (np.abs(now - seen.period_start) >= rules.pace_seconds[side, row]))
    period_up = np.where(anew, up, seen.period_up)
    period_start = np.where(anew, now, seen.period_start)
    period_replicas = np.where(anew, current, seen.period_replicas)
    share = np.ceil(period_replicas * rules.pace_percent[side, row] / 100).astype(np.int64)
    step = np.maximum(share, rules.pace_pods[side, row])
    # The pace never turns the direction round.
    paced = np.where(
        up,
        np.maximum(current, np.minimum(wanted, period_replicas + step)),
        np.minimum(current, np.maximum(wanted, period_replicas - step)),
    )
    limit = np.where(paced == wanted, 0, LIMITS.index(Limit.PACE_DOWN))
    limit = np.where((paced != wanted) & up, LIMITS.index(Limit.PACE_UP), limit)
    bounded = _clamp(paced, rules, seen)
    limit = np.where(bounded < paced, LIMITS.index(Limit.MAXIMUM), limit)
    limit = np.where(bounded > paced, LIMITS.index(Limit.MINIMUM), limit)
    cause = np.where((bounded != current) & ~moves & ~left_alone, CAUSES.index(Cause.BOUNDS), cause)
    desired = np.where(left_alone, current, bounded)
    changes = desired != current
    return Decided(
        desired=desired,
        wanted=wanted,
        paced=paced,
        cause=cause,
        limit=np.where(left_alone, 0, limit),
        period_up=np.where(changes, period_up, seen.period_up),
        period_start=np.where(changes, period_start, seen.period_start),
        period_replicas=np.where(changes, period_replicas, seen.period_replicas),
    )


def _wanted(rules: Rules, seen: Observed, now: float) -> tuple[Counts, Counts]:
    """Replicas before any limit, and the cause's place."""
    current, scale = seen.replicas, rules.load_per_replica
    need = np.fmax(seen.load, seen.alarm) / scale
    reserve = np.fmax(need, seen.reserve / scale)
    asked, by_load = _replicas(need), _replicas(seen.load / scale)
    spare = np.floor(need * (1 + SPARE))  # whole replicas only: a small service is not given a third more
    target = np.maximum(asked, _replicas(np.fmax(reserve, spare)))
    remembered = np.fmax(reserve, np.fmax(seen.recent_load, seen.recent_reserve) / scale)

    def fewer(ratio: Floats) -> Flags:
        return (ratio < current * (1 - rules.tolerance)) & (_replicas(ratio) < current)

    rules_in_order = [
        (rules.off, current, Cause.OFF),
        (current == 0, current, Cause.ZERO),
        (~np.isfinite(seen.load) & (asked > current), target, Cause.BLIND),
        (~np.isfinite(seen.load), current, Cause.NO_METRICS),
        ((asked > current) & (by_load < asked), target, Cause.FORECAST),
        (asked > current, target, Cause.LOAD),
        (~fewer(reserve), current, Cause.STEADY),
        (np.abs(now - seen.scaled_up_at) < rules.window_seconds, current, Cause.STABILIZING),
        ((seen.coverage < LEAST_COVERAGE) | ~np.isfinite(seen.recent_load), current, Cause.FEW_METRICS),
        (~fewer(remembered), current, Cause.STABILIZING),
        (np.ones_like(rules.off), _replicas(remembered), Cause.LESS),
    ]
    conditions = [condition for condition, _, _ in rules_in_order]
    wanted = np.select(conditions, [replicas for _, replicas, _ in rules_in_order])
    causes = [np.full_like(current, CAUSES.index(cause)) for _, _, cause in rules_in_order]
    return wanted, np.select(conditions, causes)


def _clamp(replicas: Counts, rules: Rules, seen: Observed) -> Counts:
    return np.minimum(np.maximum(replicas, rules.minimum), np.minimum(rules.maximum, seen.ceiling))


def _replicas(ratio: Floats) -> Counts:
    # A load that fills its replicas to the last digit needs no replica for rounding's sake.
    known = np.nan_to_num(ratio, nan=1.0, posinf=NO_LIMIT)
    return np.clip(np.ceil(known - 1e-6), 1, NO_LIMIT).astype(np.int64)


def plan(spec: ScalerSpec, observed: Observation, now: float) -> Plan:
    """The replicas for one target at `now` (Unix seconds)."""
    return plans([spec], [observed], now)[0]


def plans(specs: Sequence[ScalerSpec], observations: Sequence[Observation], now: float) -> list[Plan]:
    """A plan for each target, with its reason in words."""
    if not specs:
        return []
    rules, seen = Rules.of(specs), Observed.of(specs, observations)
    decided = decide(rules, seen, now)
    alone = _clamp(_replicas(seen.peak / rules.load_per_replica), rules, seen)
    return [
        Plan(
            current=observation.replicas,
            desired=int(decided.desired[index]),
            predicted=int(alone[index]) if math.isfinite(seen.peak[index]) else None,
            cause=CAUSES[decided.cause[index]],
            limit=LIMITS[decided.limit[index]],
            reason=_reason(spec, observation, seen, decided, index, now),
            period=_period(decided, index),
        )
        for index, (spec, observation) in enumerate(zip(specs, observations, strict=True))
    ]


def _period(decided: Decided, index: int) -> Period | None:
    if not math.isfinite(decided.period_start[index]):
        return None
    start, replicas = float(decided.period_start[index]), int(decided.period_replicas[index])
    return Period(up=bool(decided.period_up[index]), start=start, replicas=replicas)


def _reason(
    spec: ScalerSpec, observation: Observation, seen: Observed, decided: Decided, index: int, now: float
) -> str:
    cause, limit = CAUSES[decided.cause[index]], LIMITS[decided.limit[index]]
    said = _sentence(spec, observation, float(seen.peak[index]), cause, now)
    wanted, paced = int(decided.wanted[index]), int(decided.paced[index])
    if paced != wanted and limit is not Limit.NONE:
        said += f"; wants {wanted}, the pace allows {paced}"
    if limit is Limit.MAXIMUM:
        said += f"; wants {paced}, at most {min(spec.max_replicas, int(seen.ceiling[index]))} are allowed"
    elif limit is Limit.MINIMUM:
        said += f"; wants {paced}, at least {spec.min_replicas} are kept"
    return said


def _sentence(spec: ScalerSpec, seen: Observation, peak: float, cause: Cause, now: float) -> str:
    if cause is Cause.OFF:
        return "switched off by mode: off"
    if cause is Cause.ZERO:
        return "the target is scaled to zero, which switches scaling off; give it a replica"
    if cause is Cause.BLIND:
        return f"no fresh sample, forecast {peak:.3g}; a replica is given {spec.load_per_replica:.3g}"
    if seen.load is None or not math.isfinite(seen.load):
        return "held: the metric gives no fresh sample"
    said = f"load {seen.load:.3g}" + (f", forecast {peak:.3g}" if math.isfinite(peak) else "")
    carries = f"{said}; a replica is given {spec.load_per_replica:.3g}"
    window = spec.behavior.scale_down.stabilization_window_seconds
    if cause is Cause.STABILIZING:
        if seen.scaled_up_at is not None and abs(now - seen.scaled_up_at) < window:
            # Also where the forecast that asked for them is no longer trusted.
            return f"{carries}; replicas were added {now - seen.scaled_up_at:.0f} s ago, so it waits"
        return f"{carries}; the last {window} s needed as many, so it waits"
    if cause is Cause.FEW_METRICS:
        part = f"{seen.coverage:.0%} of the window's samples"
        return f"held: only {part} are there, {LEAST_COVERAGE:.0%} are needed to scale down"
    if cause in {Cause.STEADY, Cause.BOUNDS}:
        if math.isfinite(peak) and peak > seen.replicas * spec.load_per_replica:
            return f"{said}: nearly what {seen.replicas} replicas carry"
        return f"{said}: {seen.replicas} replicas carry it" if seen.replicas > 1 else f"{said}: 1 replica carries it"
    return carries


def _used(spec: ScalerSpec, forecast: Forecast | None) -> Forecast | None:
    if forecast is None or spec.mode == "reactiveOnly" or not math.isfinite(forecast.peak):
        return None
    return forecast


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _floats(values: Iterable[float]) -> Floats:
    return np.fromiter(values, dtype=np.float64)


def _counts(values: Iterable[int]) -> Counts:
    return np.fromiter(values, dtype=np.int64)
