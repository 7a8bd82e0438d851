"""In which of KServe's modes an InferenceService runs. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

DeploymentMode = Literal["Knative", "Standard"]

DEPLOYMENT_MODE = "serving.kserve.io/deploymentMode"
_MODES: Mapping[str, DeploymentMode] = {
    "Knative": "Knative",
    "Serverless": "Knative",  # the modes' names before 0.16
    "Standard": "Standard",
    "RawDeployment": "Standard",
}


def mode_of(service: Mapping[str, Any], default: DeploymentMode) -> DeploymentMode:
    """The mode that the service's annotation names, else the cluster's `default`."""
    annotations = service["metadata"].get("annotations") or {}
    return _MODES.get(annotations.get(DEPLOYMENT_MODE, ""), default)
