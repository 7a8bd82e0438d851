"""What KServe's webhook refuses about an InferenceService's canaries. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from local.kubernetes.controllers.standard_objects import component_name, least_replicas
from local.kubernetes.deployment_mode import DeploymentMode
from ml_lifecycle.kubernetes.exceptions import ForbiddenError

WEBHOOK = "inferenceservice.kserve-webhook-server.validator"
LONGEST_NAME = 63
"""Letters of a Service's name."""
_NOT_FOR_CANARIES = ("maxReplicas", "scaleTarget", "scaleMetric", "scaleMetricType", "autoScaling", "workerSpec")

Object = Mapping[str, Any]


def admit(service: Object, mode: DeploymentMode) -> None:
    """ForbiddenError, worded as the API server words a webhook's refusal, with the first problem of the canaries."""
    for problem in canary_problems(service, mode):
        raise ForbiddenError(f'admission webhook "{WEBHOOK}" denied the request: {problem}')


def canary_problems(service: Object, mode: DeploymentMode) -> Iterator[str]:
    """Everything about `spec.canary` that KServe does not take."""
    canaries = service["spec"].get("canary") or ()
    if not canaries:
        return
    if mode != "Standard":
        yield f"spec.canary is only supported in Standard deployment mode; the InferenceService runs in {mode} mode"
    stable = service["spec"]["predictor"]
    names = [item["predictor"].get("name", "") for item in canaries]
    for name, count in Counter(names).items():
        if name and count + (name == stable.get("name")) > 1:
            yield f"spec.canary: predictor name {name!r} is not unique"
    total = sum(item["trafficPercent"] for item in canaries)
    if total > 100:
        yield f"spec.canary: the sum of trafficPercent must not exceed 100, got {total}"
    for index, item in enumerate(canaries):
        yield from _predictor_problems(f"spec.canary[{index}].predictor", service, item["predictor"])


def _predictor_problems(path: str, service: Object, predictor: Object) -> Iterator[str]:
    name = predictor.get("name")
    if not name:
        yield f"{path}.name is required"
    elif len(component_name(service["metadata"]["name"], name)) > LONGEST_NAME:
        yield f"{path}.name {name!r} makes a Deployment name of more than {LONGEST_NAME} characters"
    for field in _NOT_FOR_CANARIES:
        if field in predictor:
            yield f"{path}.{field} must not be set: a canary has a fixed number of replicas"
    least, stable = predictor.get("minReplicas", 0), least_replicas(service["spec"]["predictor"])
    if least > stable:
        yield f"{path}.minReplicas {least} must not exceed the stable predictor's minReplicas {stable}"
