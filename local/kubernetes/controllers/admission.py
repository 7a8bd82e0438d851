"""What KServe's webhook refuses about an InferenceService's canaries and its mode. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from local.kubernetes.controllers.standard_objects import component_name
from local.kubernetes.deployment_mode import DEPLOYMENT_MODE, DeploymentMode, mode_of
from ml_lifecycle.kubernetes.exceptions import ForbiddenError

WEBHOOK = "inferenceservice.kserve-webhook-server.validator"
LONGEST_NAME = 63
"""Letters of a Service's name."""
_NOT_FOR_CANARIES = ("maxReplicas", "scaleTarget", "scaleMetric", "scaleMetricType", "autoScaling", "workerSpec")

Object = Mapping[str, Any]


def admit(service: Object, old: Object | None, default: DeploymentMode) -> None:
    """ForbiddenError with the first problem, worded as the API server words a webhook's refusal.

    `old` is the service before an update, `default` the cluster's mode.
    """
    for problem in (*canary_problems(service, mode_of(service, default)), *change_problems(service, old)):
        raise ForbiddenError(f'admission webhook "{WEBHOOK}" denied the request: {problem}')


def canary_problems(service: Object, mode: DeploymentMode) -> Iterator[str]:
    """Everything about `spec.canary` that KServe does not take."""
    canaries = service["spec"].get("canary") or ()
    if not canaries:
        return
    stable = service["spec"]["predictor"]
    if mode != "Standard":
        yield f"spec.canary is only supported in Standard deployment mode, not in {mode} mode"
    if "model" not in stable:
        yield "spec.canary requires a stable predictor with a model"
    for name, count in Counter(item["predictor"].get("name", "") for item in canaries).items():
        if name and count > 1:
            yield f"spec.canary: predictor.name {name!r} is duplicated"
        if name and name == stable.get("name"):
            yield f"spec.canary: predictor.name {name!r} conflicts with stable predictor.name"
    total = sum(item["trafficPercent"] for item in canaries)
    if total > 100:
        yield f"spec.canary: the sum of trafficPercent must be <= 100, got {total}"
    for index, item in enumerate(canaries):
        yield from _predictor_problems(f"spec.canary[{index}]", service, item["predictor"])


def _predictor_problems(path: str, service: Object, predictor: Object) -> Iterator[str]:
    name = predictor.get("name")
    if not name:
        yield f"{path}.predictor.name is required"
    elif len(component_name(service["metadata"]["name"], name)) > LONGEST_NAME:
        yield f"{path}.predictor.name {name!r} makes a Deployment name of more than {LONGEST_NAME} characters"
    for field in _NOT_FOR_CANARIES:
        if field in predictor:
            yield f"{path} must not set {field}"
    least, stable = predictor.get("minReplicas", 0), service["spec"]["predictor"].get("minReplicas", 1)
    if least > stable:
        yield f"{path} minReplicas {least} must not exceed stable minReplicas {stable}"


def change_problems(service: Object, old: Object | None) -> Iterator[str]:
    """What an update may not change."""
    if old is None:
        return
    recorded, wanted = (old.get("status") or {}).get("deploymentMode"), mode_of(service, "Knative")
    named = DEPLOYMENT_MODE in (service["metadata"].get("annotations") or {})
    if recorded and named and wanted != recorded:
        yield f"update rejected: deploymentMode cannot be changed from {recorded!r} to {wanted!r}"
    before, after = old["spec"]["predictor"], service["spec"]["predictor"]
    renamed = before.get("name", "") != after.get("name", "")
    if renamed and before.get("model", {}).get("storageUri") == after.get("model", {}).get("storageUri"):
        yield "predictor.name change requires a model change"
