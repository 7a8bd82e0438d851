"""The pod template that KServe makes of an InferenceService and its ServingRuntime. No I/O."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from local.kubernetes.controllers.exceptions import InvalidServiceError

STORAGE_INITIALIZER = "storage-initializer"
STORAGE_INITIALIZER_IMAGE = "kserve/storage-initializer"
SERVING_CONTAINER = "kserve-container"
MODEL_DIRECTORY = "/mnt/models"
MODEL_VOLUME = "kserve-provision-location"
SERVICE_LABEL = "serving.kserve.io/inferenceservice"
REVISION_LABEL = "serving.knative.dev/revision"
CONFIGURATION_LABEL = "serving.knative.dev/configuration"
GENERATION_LABEL = "serving.knative.dev/configurationGeneration"
KNATIVE_SERVICE_LABEL = "serving.knative.dev/service"
MIN_SCALE = "autoscaling.knative.dev/min-scale"
MAX_SCALE = "autoscaling.knative.dev/max-scale"
TAG_ROUTING = "serving.kserve.io/enable-tag-routing"
STORAGE_URI = "internal.serving.kserve.io/storage-initializer-sourceuri"
NOT_IN_TEMPLATE = (MIN_SCALE, MAX_SCALE, STORAGE_URI, "kubectl.kubernetes.io/last-applied-configuration")

_SCALE_FIELDS = {
    "scaleTarget": "autoscaling.knative.dev/target",
    "scaleMetric": "autoscaling.knative.dev/metric",
}
_POD_FIELDS = ("serviceAccountName", "tolerations", "nodeSelector", "affinity", "securityContext", "imagePullSecrets")
_EMPTY: Mapping[str, Any] = {}


def select_runtime(service: Mapping[str, Any], runtimes: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The ServingRuntime of `service`: the one it names, else the first that selects its format by itself.

    InvalidServiceError says why there is none, with KServe's reason.
    """
    model = _model(service)
    wanted = model.get("modelFormat") or _EMPTY
    if name := model.get("runtime"):
        named = [runtime for runtime in runtimes if runtime["metadata"]["name"] == name]
        if not named:
            raise InvalidServiceError("RuntimeNotRecognized", f"no ServingRuntime has the name {name!r}")
        if named[0]["spec"].get("disabled"):
            raise InvalidServiceError("RuntimeDisabled", f"ServingRuntime {name!r} is disabled")
        if not _supports(named[0], wanted, auto=False):
            raise InvalidServiceError(
                "NoSupportingRuntime", f"ServingRuntime {name!r} does not support model format {wanted.get('name')!r}"
            )
        return named[0]
    for runtime in runtimes:
        if not runtime["spec"].get("disabled") and _supports(runtime, wanted, auto=True):
            return runtime
    raise InvalidServiceError(
        "NoSupportingRuntime", f"no ServingRuntime supports model format {wanted.get('name')!r} by itself"
    )


def revision_template(service: Mapping[str, Any], runtime: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata and pod spec of the revision that serves `service`; any change of it makes a new revision.

    canaryTrafficPercent is no part of it; replicas are, as annotations, and so are the service's own labels and
    annotations.
    """
    metadata, predictor, model = service["metadata"], service["spec"]["predictor"], _model(service)
    minimum = predictor.get("minReplicas")
    annotations = _annotations(metadata, predictor)
    annotations |= {"autoscaling.knative.dev/class": "kpa.autoscaling.knative.dev"}
    annotations |= {MIN_SCALE: str(1 if minimum is None else minimum)}
    if maximum := predictor.get("maxReplicas"):
        annotations[MAX_SCALE] = str(maximum)
    annotations |= {
        annotation: str(predictor[field]) for field, annotation in _SCALE_FIELDS.items() if field in predictor
    }
    if uri := model.get("storageUri"):
        annotations[STORAGE_URI] = uri
    labels = {**_labels(metadata, predictor), SERVICE_LABEL: metadata["name"], "component": "predictor"}
    return {
        "metadata": {"labels": labels, "annotations": annotations},
        "spec": _pod_spec(metadata["name"], predictor, model, runtime["spec"]),
    }


def pod_template(service: Mapping[str, Any], runtime: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    """Metadata and spec of the pods that serve `service` in Standard mode; replicas and names are no part of it.

    So a canary's pods keep running when its predictor becomes the stable one. `labels` are those that KServe adds.
    """
    metadata, predictor, model = service["metadata"], service["spec"]["predictor"], _model(service)
    annotations = _annotations(metadata, predictor)
    if uri := model.get("storageUri"):
        annotations[STORAGE_URI] = uri
    return {
        "metadata": {"labels": {**_labels(metadata, predictor), **labels}, "annotations": annotations},
        "spec": _pod_spec(metadata["name"], predictor, model, runtime["spec"]),
    }


def template_hash(template: Mapping[str, Any]) -> str:
    """Equal for equal templates."""
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:16]


def _annotations(metadata: Mapping[str, Any], predictor: Mapping[str, Any]) -> dict[str, str]:
    given = {**(metadata.get("annotations") or _EMPTY), **predictor.get("annotations", _EMPTY)}
    return {key: value for key, value in given.items() if key not in NOT_IN_TEMPLATE}


def _labels(metadata: Mapping[str, Any], predictor: Mapping[str, Any]) -> dict[str, str]:
    return {**(metadata.get("labels") or _EMPTY), **predictor.get("labels", _EMPTY)}


def _model(service: Mapping[str, Any]) -> Mapping[str, Any]:
    model = (service["spec"].get("predictor") or _EMPTY).get("model")
    if not model:
        raise InvalidServiceError(
            "InvalidPredictorSpec", "spec.predictor.model is missing; the laptop serves nothing else"
        )
    return dict(model)


def _supports(runtime: Mapping[str, Any], wanted: Mapping[str, Any], *, auto: bool) -> bool:
    return any(
        known["name"] == wanted.get("name")
        and (not wanted.get("version") or str(wanted["version"]) == str(known.get("version")))
        and (known.get("autoSelect") or not auto)
        for known in runtime["spec"].get("supportedModelFormats") or ()
    )


def _pod_spec(
    name: str, predictor: Mapping[str, Any], model: Mapping[str, Any], runtime: Mapping[str, Any]
) -> dict[str, Any]:
    containers = [copy.deepcopy(dict(container)) for container in runtime.get("containers") or ()]
    serving = next((container for container in containers if container["name"] == SERVING_CONTAINER), None)
    if serving is None:
        raise InvalidServiceError("InvalidPredictorSpec", f"the ServingRuntime has no container {SERVING_CONTAINER!r}")
    serving["args"] = [*serving.get("args", ()), *model.get("args", ())]
    serving["env"] = [*serving.get("env", ()), *model.get("env", ())]
    serving |= {field: model[field] for field in ("command", "image", "resources", "readinessProbe") if field in model}
    spec: dict[str, Any] = {
        "containers": [_fill_in(container, name) for container in containers],
        "volumes": [*runtime.get("volumes", ()), *predictor.get("volumes", ())],
        "initContainers": [],
    }
    if uri := model.get("storageUri"):
        mount = {"name": MODEL_VOLUME, "mountPath": MODEL_DIRECTORY}
        spec["volumes"].append({"name": MODEL_VOLUME, "emptyDir": {}})
        spec["initContainers"].append(
            {
                "name": STORAGE_INITIALIZER,
                "image": STORAGE_INITIALIZER_IMAGE,
                "args": [uri, MODEL_DIRECTORY],
                "volumeMounts": [mount],
            }
        )
        for container in spec["containers"]:
            if container["name"] == SERVING_CONTAINER:
                container["volumeMounts"] = [*container.get("volumeMounts", ()), {**mount, "readOnly": True}]
    return spec | {field: predictor[field] for field in _POD_FIELDS if field in predictor}


def _fill_in(value: Any, name: str) -> Any:
    """`value` with the runtime's `{{.Name}}` replaced by the service's name."""
    if isinstance(value, str):
        return re.sub(r"\{\{\s*\.Name\s*\}\}", name, value)
    if isinstance(value, list):
        return [_fill_in(item, name) for item in value]
    if isinstance(value, dict):
        return {key: _fill_in(item, name) for key, item in value.items()}
    return value
