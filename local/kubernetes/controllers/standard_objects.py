"""What KServe makes of an InferenceService in Standard mode: Deployments, Services and HTTPRoutes. No I/O, no clock.

The rules are those of KServe's `spec.canary` since kserve#5912 (weights) and #5984 (a canary is routed, and counts
against the stable side's replicas, once it is ready).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from local.kubernetes.controllers.loop import owner_reference
from local.kubernetes.controllers.serving import SERVICE_LABEL
from ml_lifecycle.kubernetes.resource import DEPLOYMENT, HORIZONTAL_POD_AUTOSCALER, HTTP_ROUTE, SERVICE

PORT = 80
CONTAINER_PORT = 8080
GATEWAY = {"group": HTTP_ROUTE.group, "kind": "Gateway", "namespace": "kserve", "name": "kserve-ingress-gateway"}
AUTOSCALER_CLASS = "serving.kserve.io/autoscalerClass"
WISHES = "local.ml-lifecycle.io/autoscaler-wishes"
"""On a Deployment: the replicas that its autoscaler would have by the load; a person or a test sets it."""

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Predictor:
    """The stable predictor of an InferenceService, or one of its canaries; `percent` is a canary's."""

    name: str
    """Of its Deployment and its Service."""
    spec: Object
    replicas: int
    """What its autoscaler has at least."""
    most: int | None = None
    """What its autoscaler has at most; None: no end."""
    canary: str = ""
    """A canary's name in the spec."""
    percent: int = 0

    def alone(self, service: Object) -> dict[str, Any]:
        """The InferenceService as if it had this predictor only."""
        return {**service, "spec": {"predictor": self.spec}}


def predictors_of(service: Object) -> tuple[Predictor, tuple[Predictor, ...]]:
    """The stable predictor and the canaries, in the spec's order; a canary is the stable one where it says nothing."""
    own, spec = service["metadata"]["name"], service["spec"]["predictor"]
    least = spec.get("minReplicas", 1)
    stable = Predictor(component_name(own, spec.get("name", "")), spec, max(1, least), spec.get("maxReplicas"))
    canaries = tuple(
        Predictor(
            component_name(own, item["predictor"]["name"]),
            overlaid(spec, item["predictor"]),
            own_replicas := canary_replicas(least, item["trafficPercent"], item["predictor"].get("minReplicas")),
            own_replicas,
            canary=item["predictor"]["name"],
            percent=item["trafficPercent"],
        )
        for item in service["spec"].get("canary") or ()
    )
    return stable, canaries


def component_name(service: str, predictor: str) -> str:
    """The name of a predictor's Deployment and Service; `predictor` is empty for one without a name."""
    return f"{service}-{predictor}-predictor" if predictor else f"{service}-predictor"


def overlaid(below: Object, above: Object) -> dict[str, Any]:
    """`below` with what `above` says in its place, field by field; what is empty says nothing."""
    merged = dict(below)
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = overlaid(merged[key], value)
        elif value:
            merged[key] = value
    return merged


def canary_replicas(least: int, percent: int, minimum: int | None) -> int:
    """A canary's replicas: what it asks for, else its share of the stable side's `least`; one even at 0 %."""
    return max(1, math.ceil(least * percent / 100) if minimum is None else minimum)


def beside(stable: Predictor, canaries: Iterable[Predictor]) -> Predictor:
    """The stable predictor beside these canaries, whose replicas come out of its minReplicas; it keeps one."""
    if "minReplicas" not in stable.spec:
        return stable
    return replace(stable, replicas=max(1, stable.replicas - sum(canary.replicas for canary in canaries)))


def scaled(predictor: Predictor, found: Object | None, autoscaler: str) -> int:
    """The Deployment's replicas: KServe sets one when it makes it and leaves them with class `external`."""
    if autoscaler == "external":
        return int(found["spec"]["replicas"]) if found else 1
    wishes = int(((found or {}).get("metadata", {}).get("annotations") or {}).get(WISHES, 0))
    wanted = max(predictor.replicas, wishes)
    return wanted if predictor.most is None else max(predictor.replicas, min(wanted, predictor.most))


def deployment_of(service: Object, predictor: Predictor, template: Object) -> dict[str, Any]:
    """The predictor's Deployment."""
    return {
        "apiVersion": DEPLOYMENT.api_version,
        "kind": DEPLOYMENT.kind,
        "metadata": _metadata(service, predictor.name, template["metadata"]["labels"]),
        "spec": {
            "replicas": predictor.replicas,
            "selector": {"matchLabels": _selector(predictor)},
            "template": template,
        },
    }


def autoscaler_of(service: Object, predictor: Predictor) -> dict[str, Any]:
    """The predictor's HorizontalPodAutoscaler, as KServe makes it with class `hpa`; the stand-in scales without it."""
    least = predictor.replicas
    return {
        "apiVersion": HORIZONTAL_POD_AUTOSCALER.api_version,
        "kind": HORIZONTAL_POD_AUTOSCALER.kind,
        "metadata": _metadata(service, predictor.name, _labels(service)),
        "spec": {
            "scaleTargetRef": {"apiVersion": DEPLOYMENT.api_version, "kind": DEPLOYMENT.kind, "name": predictor.name},
            "minReplicas": least,
            "maxReplicas": max(least, predictor.most or 0),
        },
    }


def service_of(service: Object, predictor: Predictor) -> dict[str, Any]:
    """The predictor's Service: its own address inside the cluster."""
    return {
        "apiVersion": SERVICE.api_version,
        "kind": SERVICE.kind,
        "metadata": _metadata(service, predictor.name, _labels(service)),
        "spec": {
            "selector": _selector(predictor),
            "ports": [{"name": predictor.name, "port": PORT, "protocol": "TCP", "targetPort": CONTAINER_PORT}],
        },
    }


def backend_refs(stable: Predictor, ready_canaries: Sequence[Predictor], namespace: str) -> list[dict[str, Any]]:
    """Who receives the requests of a route: each canary its percent, the stable predictor what is left of 100."""
    shares: Iterable[tuple[Predictor, int]] = ((canary, canary.percent) for canary in ready_canaries)
    if not ready_canaries:
        return [_backend_ref(stable, namespace)]
    rest = 100 - sum(canary.percent for canary in ready_canaries)
    shares = ((stable, rest), *shares)
    return [{**_backend_ref(predictor, namespace), "weight": percent} for predictor, percent in shares]


def http_route_of(service: Object, name: str, host: str, backends: Sequence[Object]) -> dict[str, Any]:
    """The HTTPRoute from a host to the predictors."""
    return {
        "apiVersion": HTTP_ROUTE.api_version,
        "kind": HTTP_ROUTE.kind,
        "metadata": _metadata(service, name, _labels(service)),
        "spec": {
            "hostnames": [host],
            "parentRefs": [GATEWAY],
            "rules": [
                {
                    "matches": [{"path": {"type": "RegularExpression", "value": "^/.*$"}}],
                    "backendRefs": list(backends),
                }
            ],
        },
    }


def pod_labels(service: Object, predictor: Predictor) -> dict[str, str]:
    """What KServe adds to the labels of a predictor's pods."""
    return {**_selector(predictor), **_labels(service)}


def _backend_ref(predictor: Predictor, namespace: str) -> dict[str, Any]:
    return {"kind": SERVICE.kind, "name": predictor.name, "namespace": namespace, "port": PORT}


def _selector(predictor: Predictor) -> dict[str, str]:
    return {"app": f"isvc.{predictor.name}"}


def _labels(service: Object) -> dict[str, str]:
    return {SERVICE_LABEL: service["metadata"]["name"], "component": "predictor"}


def _metadata(service: Object, name: str, labels: Mapping[str, str]) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": service["metadata"]["namespace"],
        "labels": dict(labels),
        "ownerReferences": [owner_reference(service)],
    }
