from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import jsonschema
import yaml

from ml_lifecycle.resources import resource
from ml_lifecycle.scaling.decision import decision_of, table
from ml_lifecycle.scaling.forecast import Forecast
from ml_lifecycle.scaling.measures import Measures, with_measures
from ml_lifecycle.scaling.policy import Observation, Period, plan
from ml_lifecycle.scaling.resource import Scaler, parse_scaler
from ml_lifecycle.scaling.status import Findings, build_status, read_period, worth_writing
from tests.unit.scaling.scaler_objects import manifest, scaler

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
RISING = Forecast(
    80.123456, 89.9, 90.123456, 90.5, 91.0, "trend", 0.31234, trusted=True, reason="trend misses 31% less"
)


def findings(scaler: Scaler, load: float | None = 30.0, forecast: Forecast | None = RISING, **more: Any) -> Findings:
    assert scaler.spec is not None
    observed = Observation(1, load, load, 1.0, forecast, read_period(scaler.status))
    decided = plan(scaler.spec, observed, NOW.timestamp())
    return Findings(plan=decided, load=load, forecast=forecast, observed_replicas=1, horizon_seconds=30, **more)


def conditions(status: dict[str, Any]) -> dict[str, str]:
    return {item["type"]: item["status"] for item in status["conditions"]}


def again(status: dict[str, Any]) -> Scaler:
    return parse_scaler(manifest(status=status))


def test_a_scale_up_by_forecast() -> None:
    status = build_status(scaler(), findings(scaler(), written=True), NOW)
    assert conditions(status) == {
        "Ready": "True",
        "RolloutInProgress": "False",
        "Conflict": "False",
        "MetricsAvailable": "True",
        "ForecastTrusted": "True",
        "ScalingLimited": "False",
    }
    assert status["forecast"] == {
        "expected": 80.1,
        "peak": 90.1,
        "model": "trend",
        "skill": 0.312,
        "horizonSeconds": 30,
    }
    assert (status["currentReplicas"], status["desiredReplicas"], status["predictedReplicas"]) == (1, 3, 3)
    assert status["lastScaleTime"] == "2026-11-21T12:00:00Z"
    assert status["observedGeneration"] == 3
    assert read_period(status) == Period(up=True, start=NOW.timestamp(), replicas=1)


def test_what_was_not_written_has_no_scale_time() -> None:
    status = build_status(scaler(mode="dryRun"), findings(scaler(mode="dryRun")), NOW)
    assert "lastScaleTime" not in status
    assert status["conditions"][0]["message"].startswith("dry run: load 30, forecast 90")


def test_the_same_findings_later_give_the_same_status() -> None:
    first = build_status(scaler(), findings(scaler()), NOW)
    second = build_status(again(first), findings(again(first)), NOW + timedelta(minutes=1))
    assert first == second


def test_figures_that_hardly_moved_are_not_worth_writing() -> None:
    first = build_status(scaler(), findings(scaler()), NOW)
    hardly = build_status(again(first), findings(again(first), load=31.0), NOW + timedelta(minutes=1))
    assert hardly != first
    assert not worth_writing(hardly, first)
    assert worth_writing(build_status(again(first), findings(again(first), load=45.0), NOW), first)
    assert worth_writing(build_status(again(first), findings(again(first), load=None), NOW), first)
    assert worth_writing(build_status(again(first), Findings(rollout="r rolls out"), NOW), first)


def test_what_was_measured_is_said_and_kept_while_nothing_new_is_known() -> None:
    open_scaler = scaler(capacityPerReplica=None, leadTimeSeconds=None)
    measured = with_measures(open_scaler, Measures(42.123, 17))
    found = dataclasses.replace(findings(measured), spec=measured.spec)
    first = build_status(open_scaler, found, NOW)
    assert (first["capacityPerReplica"], first["leadTimeSeconds"]) == (42.1, 17)
    assert first["measuredTime"] == "2026-11-21T12:00:00Z"
    later = dataclasses.replace(open_scaler, status=first)
    status = build_status(later, Findings(rollout="r rolls out"), NOW + timedelta(hours=2))
    assert (status["capacityPerReplica"], status["measuredTime"]) == (42.1, "2026-11-21T12:00:00Z")
    status = build_status(later, found, NOW + timedelta(minutes=59))
    assert status["measuredTime"] == "2026-11-21T12:00:00Z"
    status = build_status(later, found, NOW + timedelta(minutes=60))
    assert status["measuredTime"] == "2026-11-21T13:00:00Z"


def test_a_condition_that_turns_has_a_new_time_and_the_others_keep_theirs() -> None:
    first = build_status(scaler(), findings(scaler()), NOW)
    later = build_status(again(first), findings(again(first), load=None, forecast=None), NOW + timedelta(minutes=1))
    times = {item["type"]: item["lastTransitionTime"] for item in later["conditions"]}
    assert times["MetricsAvailable"] == "2026-11-21T12:01:00Z"
    assert times["Conflict"] == "2026-11-21T12:00:00Z"
    assert conditions(later)["MetricsAvailable"] == "False"


def test_conflict_rollout_and_invalid_say_who_and_what() -> None:
    conflict = build_status(scaler(), Findings(conflict="MLScaler b scales the same target"), NOW)
    assert conditions(conflict) == {"Ready": "False", "RolloutInProgress": "False", "Conflict": "True"}
    rollout = build_status(scaler(), Findings(rollout="r rolls out"), NOW)
    assert conditions(rollout) == {"Ready": "True", "RolloutInProgress": "True", "Conflict": "False"}
    invalid = scaler(maxReplicas=0)
    assert (
        "spec.maxReplicas" in build_status(invalid, Findings(invalid=invalid.invalid), NOW)["conditions"][0]["message"]
    )


def test_left_alone_the_last_figures_stay() -> None:
    first = build_status(scaler(), findings(scaler(), written=True), NOW)
    status = build_status(again(first), Findings(rollout="r rolls out"), NOW + timedelta(minutes=5))
    assert (status["desiredReplicas"], status["lastScaleTime"]) == (3, "2026-11-21T12:00:00Z")


def test_every_status_fits_the_crds_schema() -> None:
    crd = yaml.safe_load(resource("k8s_templates/mlscaler_crd.yaml").read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
    cases = [
        findings(scaler(), written=True),
        findings(scaler(), load=None, forecast=None),
        Findings(conflict="x"),
        Findings(error="x", error_reason="TargetMissing"),
        Findings(invalid="x"),
    ]
    for found in cases:
        status = build_status(scaler(), found, NOW)
        jsonschema.validate(status, _closed(schema))


def _closed(schema: Any) -> Any:
    """The API server prunes unknown fields in silence; here they fail."""
    if isinstance(schema, dict):
        closed = {key: _closed(value) for key, value in schema.items()}
        return {**closed, "additionalProperties": False} if "properties" in schema else closed
    return schema


def test_the_table_reads_from_left_to_right() -> None:
    rows = [decision_of(item, findings(item, written=item.name == "web"), NOW) for item in (scaler(), scaler("b"))]
    head, first, second = table(rows).splitlines()
    assert head.split() == ["NAME", "NOW", "FORECAST", "REPLICAS", "DESIRED", "WHY"]
    assert first.split()[:5] == ["models/web", "30", "90.12", "1", "3"]
    assert second.split()[4:6] == ["3", "(dry)"]
    assert first.endswith("load 30, forecast 90.1; a replica is given 40")
