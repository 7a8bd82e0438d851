from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ml_lifecycle.scaling.measures import (
    LONGEST_START_SECONDS,
    Measures,
    capacity_query,
    is_due,
    lead_seconds,
    with_measures,
)
from ml_lifecycle.scaling.resource import Scaler
from tests.unit.scaling.scaler_objects import inference_service_target, scaler

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def pod(seconds: float, *, ready: str = "True", restarts: int = 0) -> dict[str, Any]:
    """A pod that was ready so many seconds after its creation."""
    at = (NOW + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "metadata": {"creationTimestamp": NOW.strftime("%Y-%m-%dT%H:%M:%SZ")},
        "status": {
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": at}],
            "containerStatuses": [{"restartCount": restarts}],
        },
    }


def open_scaler(**changes: Any) -> Scaler:
    """One that gives neither capacity nor lead time."""
    return scaler(capacityPerReplica=None, leadTimeSeconds=None, **changes)


def test_the_lead_time_is_what_nine_in_ten_pods_took() -> None:
    assert lead_seconds([pod(seconds) for seconds in range(10, 110, 10)]) == 90
    assert lead_seconds([pod(20)]) == 20


def test_pods_that_hitched_tell_nothing() -> None:
    late = LONGEST_START_SECONDS + 1
    assert lead_seconds([pod(20), pod(30, restarts=1), pod(40, ready="False"), pod(late), {"metadata": {}}]) == 20
    assert lead_seconds([pod(late)]) is None
    assert lead_seconds([]) is None


@given(st.lists(st.integers(0, LONGEST_START_SECONDS), min_size=1, max_size=30))
def test_the_lead_time_is_one_that_was_seen(seconds: list[int]) -> None:
    measured = lead_seconds([pod(one) for one in seconds])
    assert measured in seconds
    assert measured is not None
    assert sum(one <= measured for one in seconds) >= 0.9 * len(seconds)


def test_what_the_spec_gives_is_never_measured_over() -> None:
    given_both = scaler(capacityPerReplica=50, leadTimeSeconds=0)
    assert with_measures(given_both, Measures(7, 7)) is given_both
    spec = with_measures(scaler(capacityPerReplica=50, leadTimeSeconds=None), Measures(7, 8)).spec
    assert spec is not None
    assert (spec.capacity_per_replica, spec.lead_time) == (50, 8)
    spec = with_measures(open_scaler(), Measures(7, None)).spec
    assert spec is not None
    assert (spec.capacity_per_replica, spec.lead_time) == (7, 180)


def test_measures_are_taken_once_an_hour() -> None:
    assert is_due({}, NOW)
    assert not is_due({"measuredTime": "2026-11-21T11:00:01Z"}, NOW)
    assert is_due({"measuredTime": "2026-11-21T11:00:00Z"}, NOW)


def test_the_capacity_query_divides_the_load_by_the_busy_replicas_at_the_same_moments() -> None:
    plain = open_scaler()
    assert plain.spec is not None
    query = capacity_query(plain, plain.spec, "web")
    assert query.startswith("sum_over_time((sum(sum(rate(requests_total[1m]))) and on() sum(sum by")
    assert query.count("[1d:5m]") == 2
    assert "unless" not in query
    preset = open_scaler(targetRef=inference_service_target(), metric={"preset": "requests_per_second"})
    assert preset.spec is not None
    query = capacity_query(preset, preset.spec, "digits-predictor-00001-deployment")
    assert 'kn_configuration_name=~"(digits)-predictor"' in query
    assert "unless on() sum(rate(container_cpu_usage_seconds_total" in query
