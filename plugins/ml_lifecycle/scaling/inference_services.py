"""Which object has the replicas of an InferenceService. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Manifest = Mapping[str, Any]

DEPLOYMENT_MODE = "serving.kserve.io/deploymentMode"


def standard_mode(service: Manifest) -> bool:
    """Whether KServe serves it by a Deployment; else by Knative."""
    annotations = service["metadata"].get("annotations") or {}
    mode = service.get("status", {}).get("deploymentMode") or annotations.get(DEPLOYMENT_MODE) or "Knative"
    return mode in {"RawDeployment", "Standard"}


def deployment_name(service: Manifest) -> str:
    """The Deployment of the live predictor in Standard mode; a predictor that was a canary has a name."""
    predictor = service.get("spec", {}).get("predictor", {}).get("name")
    return "-".join(part for part in (service["metadata"]["name"], predictor, "predictor") if part)


def live_revision(service: Manifest) -> str | None:
    """The Revision that has all the traffic, or the last one that had; None before the first is ready."""
    predictor = service.get("status", {}).get("components", {}).get("predictor", {})
    for route in predictor.get("traffic") or []:
        if route.get("percent") == 100 and route.get("revisionName"):
            return str(route["revisionName"])
    name = predictor.get("latestRolledoutRevision") or predictor.get("latestReadyRevision")
    return str(name) if name else None
