"""The status of a MLScaler: figures and conditions that a person understands. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ml_lifecycle.scaling.measures import is_due
from ml_lifecycle.scaling.policy import Cause, Limit, Period, Plan
from ml_lifecycle.scaling.resource import Scaler, ScalerSpec
from ml_lifecycle.scaling.steering import Allowance

if TYPE_CHECKING:
    from ml_lifecycle.scaling.forecast import Forecast

NOISE = 0.25  # share by which a figure moves before it is written anew: thousands of scalers share one API server

_LIMITS = {
    Limit.NONE: "the wanted replicas are allowed",
    Limit.MAXIMUM: "maxReplicas, or the target's own limit, is below what is wanted",
    Limit.MINIMUM: "minReplicas is above what is wanted",
    Limit.PACE_UP: "behavior.scaleUp slows it",
    Limit.PACE_DOWN: "behavior.scaleDown slows it",
}


@dataclass(frozen=True)
class Condition:
    """One condition without its times."""

    type: str
    status: str  # True, False or Unknown
    reason: str
    message: str


@dataclass(frozen=True)
class Findings:
    """What one pass found out about one scaler; what is None was not reached."""

    plan: Plan | None = None
    load: float | None = None
    forecast: Forecast | None = None
    observed_replicas: int | None = None  # what runs, where the target says so
    horizon_seconds: float | None = None
    written: bool = False  # the plan was carried out
    spec: ScalerSpec | None = None  # with what was measured
    target: Mapping[str, str] | None = None  # the object that has the replicas
    allowance: Allowance | None = None  # where the quantile is steered
    capacity_of: str = ""  # the object whose capacity was measured; empty where that is not known
    invalid: str = ""
    conflict: str = ""
    rollout: str = ""
    metric_error: str = ""
    error: str = ""
    error_reason: str = ""

    @property
    def free(self) -> bool:
        """Whether nothing is known that keeps the scaler from its target."""
        return not (self.invalid or self.conflict or self.rollout or self.error)


def read_period(status: Mapping[str, Any]) -> Period | None:
    """The running period of the pace, as the last pass wrote it."""
    period = status.get("scalingPeriod")
    if not period:
        return None
    start = datetime.fromisoformat(period["startTime"]).timestamp()
    return Period(up=period["direction"] == "Up", start=start, replicas=int(period["replicas"]))


def read_scaled_up_at(status: Mapping[str, Any]) -> float | None:
    """When the last change added replicas (Unix seconds); None if it took some away or there was none."""
    if "lastScaleTime" not in status or status.get("scalingPeriod", {}).get("direction") != "Up":
        return None
    return datetime.fromisoformat(status["lastScaleTime"]).timestamp()


def read_allowance(status: Mapping[str, Any]) -> Allowance | None:
    """The allowance as a pass before wrote it."""
    steering = status.get("steering")
    if not steering:
        return None
    return Allowance(steering["missedPercent"] / 100, datetime.fromisoformat(steering["time"]).timestamp())


def build_status(scaler: Scaler, found: Findings, now: datetime) -> dict[str, Any]:
    """The whole status object; a condition keeps its transition time while its status does not change."""
    status: dict[str, Any] = {
        key: scaler.status[key] for key in ("lastScaleTime", "scalingPeriod") if key in scaler.status
    }
    status["observedGeneration"] = scaler.generation
    plan, spec = found.plan, scaler.spec
    if plan is not None:
        observed = found.observed_replicas
        status["currentReplicas"] = plan.current if observed is None else observed
        status["desiredReplicas"] = plan.desired
        if plan.predicted is not None:
            status["predictedReplicas"] = plan.predicted
        if found.written and plan.changes:
            status["lastScaleTime"] = _time(now)
            if plan.period is not None:
                status["scalingPeriod"] = _period(plan.period)
    elif "desiredReplicas" in scaler.status:
        status |= {key: scaler.status[key] for key in ("currentReplicas", "desiredReplicas") if key in scaler.status}
    if found.load is not None:
        status["load"] = _round(found.load)
    if found.forecast is not None and math.isfinite(found.forecast.peak):
        status["forecast"] = {
            "expected": _round(found.forecast.expected),
            "peak": _round(found.forecast.peak),
            "model": found.forecast.model,
            "skill": _round(found.forecast.skill),
        }
        if found.horizon_seconds is not None:
            status["forecast"]["horizonSeconds"] = round(found.horizon_seconds)
    status |= _target(scaler, found) | _steering(scaler, found)
    if spec is not None:
        status |= _measures(scaler, found, spec, now)
    before = {item["type"]: item for item in scaler.status.get("conditions", ())}
    conditions = [*_ready(scaler, found), *_details(scaler, found)]
    status["conditions"] = [_written(item, before.get(item.type), scaler.generation, now) for item in conditions]
    return status


def _target(scaler: Scaler, found: Findings) -> dict[str, Any]:
    """The object that is scaled: the last one, as long as the present one could not be reached."""
    if scaler.spec is None or not scaler.spec.writes or found.conflict:
        return {}
    before = scaler.status.get("target")
    target = dict(found.target) if found.target is not None and found.free else before
    return {} if target is None else {"target": target}


def _steering(scaler: Scaler, found: Findings) -> dict[str, Any]:
    """The allowance; the last one, as long as the scaler is not served."""
    if scaler.spec is None or scaler.spec.allowed is None:
        return {}
    if found.allowance is None:
        return {key: scaler.status[key] for key in ("steering",) if key in scaler.status}
    time = _time(datetime.fromtimestamp(found.allowance.at, UTC))
    return {"steering": {"missedPercent": _round(100 * found.allowance.missed), "time": time}}


def _measures(scaler: Scaler, found: Findings, spec: ScalerSpec, now: datetime) -> dict[str, Any]:
    """Capacity and lead time as they were used: given, just measured, or measured before."""
    used = found.spec or spec
    before = {key: scaler.status[key] for key in ("capacityPerReplica", "leadTimeSeconds") if key in scaler.status}
    written = dict(before) if found.spec is None and spec.measures else {}
    if used.capacity_per_replica is not None:
        written["capacityPerReplica"] = _round(used.capacity_per_replica)
    if spec.capacity_per_replica is None and (measured := found.capacity_of or scaler.status.get("capacityOf")):
        written["capacityOf"] = measured
    if used.lead_time_seconds is not None:
        written["leadTimeSeconds"] = used.lead_time_seconds
    if spec.measures:
        again = found.spec is not None and is_due(scaler.status, now)
        measured = _time(now) if again else scaler.status.get("measuredTime")
        written |= {"measuredTime": measured} if measured else {}
    return written


def worth_writing(status: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Whether the status says anything new: figures that moved by less than NOISE, and sentences about them, do not."""

    def gist(one: Mapping[str, Any]) -> Any:
        figures = {"load", "forecast", "conditions"}
        conditions = [(item["type"], item["status"], item["reason"]) for item in one.get("conditions") or ()]
        return {key: value for key, value in one.items() if key not in figures}, conditions

    def figures(one: Mapping[str, Any]) -> dict[str, float]:
        forecast = one.get("forecast") or {}
        found = {"load": one.get("load"), **{key: forecast.get(key) for key in ("expected", "peak")}}
        return {key: value for key, value in found.items() if value is not None}

    now, then = figures(status), figures(before)
    if gist(status) != gist(before) or now.keys() != then.keys():
        return True
    return any(not math.isclose(now[key], then[key], rel_tol=NOISE, abs_tol=1e-9) for key in now)


def _ready(scaler: Scaler, found: Findings) -> list[Condition]:
    if found.invalid:
        return [Condition("Ready", "False", "InvalidSpec", found.invalid)]
    if found.conflict:
        return [Condition("Ready", "False", "Conflict", f"left alone: {found.conflict}")]
    if found.error:
        return [Condition("Ready", "False", found.error_reason or "Failed", found.error)]
    if found.rollout:
        return [Condition("Ready", "True", "RolloutInProgress", f"left alone: {found.rollout}")]
    if found.plan is None:
        return [Condition("Ready", "Unknown", "NotReached", "the pass ended before this scaler's turn")]
    if found.metric_error:
        return [Condition("Ready", "False", str(found.plan.cause), without_metrics(found.plan, found.metric_error))]
    dry = "dry run: " if scaler.spec is not None and scaler.spec.mode == "dryRun" else ""
    return [Condition("Ready", "True", str(found.plan.cause), dry + found.plan.reason)]


def without_metrics(plan: Plan | None, error: str) -> str:
    """What a pass does while the metrics cannot be read."""
    return f"{plan.reason}: {error}" if plan is not None and plan.changes else f"held: {error}"


def _details(scaler: Scaler, found: Findings) -> list[Condition]:
    if found.invalid:
        return []
    rollout = Condition(
        "RolloutInProgress", str(bool(found.rollout)), "Rollout" if found.rollout else "NoRollout", found.rollout
    )
    conflict = Condition(
        "Conflict", str(bool(found.conflict)), "OtherScaler" if found.conflict else "Alone", found.conflict
    )
    conditions = [rollout, conflict]
    if found.plan is not None:
        conditions += [_metrics(found.plan, found.metric_error), _forecast(scaler, found), _limited(found.plan)]
        conditions += _measured(scaler, found)
    return conditions


def _metrics(plan: Plan, error: str) -> Condition:
    if plan.cause is Cause.OFF:
        return Condition("MetricsAvailable", "Unknown", str(plan.cause), "not read while mode is off")
    missing = plan.cause in {Cause.NO_METRICS, Cause.FEW_METRICS, Cause.BLIND}
    reason = str(plan.cause) if missing else "Unreadable" if error else "Fresh"
    message = error or (plan.reason if missing else "the load is fresh")
    return Condition("MetricsAvailable", str(not missing and not error), reason, message)


def _forecast(scaler: Scaler, found: Findings) -> Condition:
    if scaler.spec is not None and scaler.spec.mode == "reactiveOnly":
        return Condition("ForecastTrusted", "False", "ReactiveOnly", "mode: reactiveOnly uses no forecast")
    if found.forecast is None:
        return Condition("ForecastTrusted", "False", "NoForecast", "there is no load to forecast from")
    if found.forecast.trusted:
        return Condition("ForecastTrusted", "True", "BeatsPersistence", found.forecast.reason)
    return Condition("ForecastTrusted", "False", "NotTrusted", found.forecast.reason)


def _measured(scaler: Scaler, found: Findings) -> list[Condition]:
    """Whether the capacity in use was measured on what serves now."""
    if scaler.spec is None or scaler.spec.capacity_per_replica is not None or found.target is None:
        return []
    present = f"{found.target['kind']} {found.target['name']}"
    if found.capacity_of == present:
        return [Condition("CapacityMeasured", "True", "Measured", f"measured on {present}")]
    of = found.capacity_of or "a revision that is not known"
    message = f"measured on {of}; {present} has not yet served alone for two hours"
    return [Condition("CapacityMeasured", "False", "MeasuredBefore", message)]


def _limited(plan: Plan) -> Condition:
    limited = plan.limit is not Limit.NONE
    return Condition(
        "ScalingLimited", str(limited), str(plan.limit) if limited else "WithinLimits", _LIMITS[plan.limit]
    )


def _written(item: Condition, before: Mapping[str, Any] | None, generation: int, now: datetime) -> dict[str, Any]:
    same = before is not None and before.get("status") == item.status
    return {
        "type": item.type,
        "status": item.status,
        "reason": item.reason,
        "message": item.message,
        "observedGeneration": generation,
        "lastTransitionTime": before["lastTransitionTime"] if same and before is not None else _time(now),
    }


def _period(period: Period) -> dict[str, Any]:
    start = datetime.fromtimestamp(period.start, UTC)
    return {"direction": "Up" if period.up else "Down", "startTime": _time(start), "replicas": period.replicas}


def _round(value: float) -> float:
    """Three significant digits: a status that changes in the fourth would be written at every pass."""
    return float(f"{value:.3g}")


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
