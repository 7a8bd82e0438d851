"""What KServe's webhooks make of an InferenceService, and refuse about its canaries and its mode. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from local.kubernetes.controllers.standard_objects import component_name
from local.kubernetes.deployment_mode import DEPLOYMENT_MODE, DeploymentMode, mode_of
from ml_lifecycle.kubernetes.exceptions import ForbiddenError, KubernetesError

WEBHOOK = "inferenceservice.kserve-webhook-server.validator"
DEFAULTER = "inferenceservice.kserve-webhook-server.defaulter"
LONGEST_NAME = 63
"""Letters of a Service's name."""
_NOT_FOR_CANARIES = ("maxReplicas", "scaleTarget", "scaleMetric", "scaleMetricType", "autoScaling", "workerSpec")

Object = Mapping[str, Any]


def default(service: Object) -> dict[str, Any]:
    """The service as KServe's defaulter returns it: its Go types write the name of a model even where it is empty.

    KubernetesError where it panics: it takes the first of the model's servers without looking whether there is one.
    """
    predictor = service["spec"].get("predictor") or {}
    if not predictor.get("model") and not predictor.get("containers"):
        raise KubernetesError(
            f'admission webhook "{DEFAULTER}" denied the request: panic: runtime error: index out of range [0] with '
            "length 0 [recovered]",
            status=500,
            reason="InternalError",
        )
    canaries = [_named(item) for item in service["spec"].get("canary") or ()]
    return {**service, "spec": {**service["spec"], **({"canary": canaries} if canaries else {})}}


def _named(item: Object) -> dict[str, Any]:
    predictor = item.get("predictor") or {}
    if "model" not in predictor:
        return dict(item)
    return {**item, "predictor": {**predictor, "model": {"name": "", **predictor["model"]}}}


def admit(service: Object, old: Object | None, mode: DeploymentMode) -> None:
    """ForbiddenError with the first problem, worded as the API server words a webhook's refusal.

    `old` is the service before an update, `mode` the cluster's.
    """
    problems = (
        *model_problems(service),
        *canary_problems(service, mode_of(service, mode)),
        *change_problems(service, old),
    )
    for problem in problems:
        raise ForbiddenError(f'admission webhook "{WEBHOOK}" denied the request: {problem}')


def model_problems(service: Object) -> Iterator[str]:
    """KServe itself names the container of a model, be it a canary's."""
    canaries = (item["predictor"] for item in service["spec"].get("canary") or ())
    if any((predictor.get("model") or {}).get("name") for predictor in (service["spec"]["predictor"], *canaries)):
        yield "the 'name' field is not allowed in standard predictor"


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
