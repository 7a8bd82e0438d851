"""Which object has the replicas of an InferenceService. Pure."""

from __future__ import annotations

from ml_lifecycle.scaling.manifests import Manifest, section, sections, text

DEPLOYMENT_MODE = "serving.kserve.io/deploymentMode"


def standard_mode(service: Manifest) -> bool:
    """Whether KServe serves it by a Deployment; else by Knative."""
    mode = text(service, "status", "deploymentMode") or text(service, "metadata", "annotations", DEPLOYMENT_MODE)
    return mode in {"RawDeployment", "Standard"}


def deployment_name(service: Manifest) -> str:
    """The Deployment of the live predictor in Standard mode; a predictor that was a canary has a name."""
    parts = text(service, "metadata", "name"), text(service, "spec", "predictor", "name"), "predictor"
    return "-".join(part for part in parts if part)


def live_revision(service: Manifest) -> str | None:
    """The Revision that has all the traffic, or the last one that had; None before the first is ready."""
    for route in _routes(service):
        if route.get("percent") == 100 and text(route, "revisionName"):
            return text(route, "revisionName")
    predictor = section(service, "status", "components", "predictor")
    return text(predictor, "latestRolledoutRevision") or text(predictor, "latestReadyRevision") or None


def has_traffic(service: Manifest, revision: str) -> bool:
    """Whether any of the traffic goes to `revision`, as far as the service says; a tag's route has no percent."""
    return any(text(route, "revisionName") == revision and route.get("percent") for route in _routes(service))


def least_replicas(service: Manifest) -> int:
    """What KServe gives a new Revision as its min-scale."""
    least = section(service, "spec", "predictor").get("minReplicas")
    return least if isinstance(least, int) and least >= 0 else 1


def _routes(service: Manifest) -> list[Manifest]:
    return sections(service, "status", "components", "predictor", "traffic")
