from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from ml_lifecycle.scaling import conflicts
from ml_lifecycle.scaling.conflicts import rollout_in_progress
from tests.unit.scaling.scaler_objects import inference_service_target, scaler

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
find_conflicts = partial(conflicts.find_conflicts, inference_services={})
RPS = {"preset": "requests_per_second"}


def autoscaler(kind: str, name: str, namespace: str = "models") -> dict[str, Any]:
    return {
        "metadata": {"name": "its", "namespace": namespace},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": kind, "name": name}},
    }


def test_alone_there_is_no_conflict() -> None:
    other = autoscaler("Deployment", "other")
    elsewhere = autoscaler("Deployment", "web", namespace="elsewhere")
    assert find_conflicts([scaler("a")], [other, elsewhere], [other]) == {}


def test_two_scalers_on_one_target_are_both_left_alone() -> None:
    found = find_conflicts([scaler("a"), scaler("b")], [], [])
    assert found[("models", "a")].startswith("MLScaler b scales the same target")
    assert ("models", "b") in found


@pytest.mark.parametrize("mode", ["dryRun", "off"])
def test_who_writes_nothing_is_in_nobodys_way(mode: str) -> None:
    assert find_conflicts([scaler("a"), scaler("b", mode=mode)], [autoscaler("Deployment", "x")], []) == {}
    assert find_conflicts([scaler("b", mode=mode)], [autoscaler("Deployment", "web")], []) == {}


@pytest.mark.parametrize(("place", "word"), [(0, "HorizontalPodAutoscaler its"), (1, "KEDA ScaledObject its")])
def test_another_autoscaler_is_a_conflict(place: int, word: str) -> None:
    lists: list[list[dict[str, Any]]] = [[], []]
    lists[place] = [autoscaler("Deployment", "web")]
    assert word in find_conflicts([scaler("a")], *lists)["models", "a"]


def test_a_keda_object_targets_a_deployment_unless_it_says_otherwise() -> None:
    keda = {"metadata": {"name": "its", "namespace": "models"}, "spec": {"scaleTargetRef": {"name": "web"}}}
    assert find_conflicts([scaler("a")], [], [keda])


def test_the_deployment_behind_an_inference_service_is_the_same_target() -> None:
    service = scaler("a", targetRef=inference_service_target("digits"), metric=RPS)
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "digits-predictor"}
    assert len(find_conflicts([service, scaler("b", targetRef=deployment)], [], [])) == 2
    assert find_conflicts([service], [autoscaler("Deployment", "digits-predictor")], [])


def test_a_predictor_that_was_a_canary_has_a_deployment_of_its_own_name() -> None:
    service = scaler("a", targetRef=inference_service_target("digits"), metric=RPS)
    live = {("models", "digits"): {"metadata": {"name": "digits"}, "spec": {"predictor": {"name": "v2"}}}}
    mine, other = autoscaler("Deployment", "digits-v2-predictor"), autoscaler("Deployment", "digits-predictor")
    assert find_conflicts([service], [mine], [], inference_services=live)
    assert find_conflicts([service], [other], [], inference_services=live) == {}


def lease(age: float, holder: str = "roll_out_model/run") -> dict[str, Any]:
    renewed = (NOW - timedelta(seconds=age)).isoformat()
    spec = {"holderIdentity": holder, "leaseDurationSeconds": 120, "renewTime": renewed}
    return {"metadata": {"name": "ml-lifecycle-digits", "namespace": "models"}, "spec": spec}


def service(**predictor: Any) -> dict[str, Any]:
    return {"metadata": {"name": "digits"}, "spec": {"predictor": predictor}}


def test_a_held_lease_names_its_holder() -> None:
    assert "roll_out_model/run" in str(rollout_in_progress("digits", service(), lease(10), NOW))


def test_an_expired_lease_alone_is_no_rollout_but_an_open_canary_is() -> None:
    assert rollout_in_progress("digits", service(), lease(1000), NOW) is None
    assert "open at 0 %" in str(rollout_in_progress("digits", service(canaryTrafficPercent=0), lease(1000), NOW))
    assert "open at 25 %" in str(rollout_in_progress("digits", service(canaryTrafficPercent=25), None, NOW))


def test_a_closed_canary_is_no_rollout() -> None:
    assert rollout_in_progress("digits", service(canaryTrafficPercent=100), None, NOW) is None
    assert rollout_in_progress("digits", None, lease(10, holder=""), NOW) is None
