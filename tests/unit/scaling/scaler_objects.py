"""MLScaler objects for the tests of scaling."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from ml_lifecycle.scaling.resource import Scaler, ScalerSpec, parse_scaler, parse_spec

SPEC: dict[str, Any] = {
    "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
    "minReplicas": 1,
    "maxReplicas": 10,
    "metric": {"query": "sum(rate(requests_total[1m]))"},
    "historySize": 40,
    "stepSeconds": 5,
    "capacityPerReplica": 50,
    "targetUtilization": 0.8,
    "leadTimeSeconds": 15,
    "behavior": {"scaleDown": {"stabilizationWindowSeconds": 60}},
}


def spec(**changes: Any) -> ScalerSpec:
    return parse_spec({**SPEC, **changes})


def manifest(name: str = "web", namespace: str = "models", status: Any = None, **changes: Any) -> dict[str, Any]:
    return {
        "apiVersion": "ml-lifecycle.io/v1alpha1",
        "kind": "MLScaler",
        "metadata": {"name": name, "namespace": namespace, "generation": 3},
        "spec": {**deepcopy(SPEC), **changes},
        "status": status or {},
    }


def scaler(name: str = "web", **changes: Any) -> Scaler:
    return parse_scaler(manifest(name, **changes))


def inference_service_target(name: str = "digits") -> dict[str, Any]:
    return {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "name": name}
