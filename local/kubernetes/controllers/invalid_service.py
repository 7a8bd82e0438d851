"""The status of an InferenceService whose spec KServe cannot deploy. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from local.kubernetes.controllers.conditions import Condition, render
from local.kubernetes.controllers.exceptions import InvalidServiceError
from local.kubernetes.controllers.model_status import invalid_model_status
from local.kubernetes.deployment_mode import DeploymentMode


def invalid_status(
    before: Mapping[str, Any], error: InvalidServiceError, mode: DeploymentMode, now: float
) -> dict[str, Any]:
    """What serves goes on serving; the service says that its spec cannot follow."""
    problem = Condition("PredictorReady", "False", error.reason, error.message)
    ready = Condition("Ready", "False", error.reason, error.message)
    kept = [
        Condition(item["type"], item["status"], item.get("reason", ""), item.get("message", ""))
        for item in before.get("conditions") or ()
        if item["type"] not in ("PredictorReady", "Ready")
    ]
    return {
        **before,
        "conditions": render((*kept, problem, ready), before.get("conditions") or (), now),
        "modelStatus": invalid_model_status(before.get("modelStatus") or {}, error),
        "deploymentMode": mode,
    }
