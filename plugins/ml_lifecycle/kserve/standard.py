"""KServe's Standard mode, where a revision is the Deployment of a predictor and the traffic is an HTTPRoute's. Pure.

Objects bear the names `<service>-predictor` or, where the predictor has a name, `<service>-<name>-predictor`. A canary
that is promoted keeps its name and so its Deployment: no pod starts anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ml_lifecycle.kserve.predictor import Predictor
from ml_lifecycle.kubernetes.resource import INFERENCE_SERVICE

UNSPLITTABLE = (
    "KServe does not split traffic in Standard mode here: HTTPRoute {service!r} has no backend {revision!r}. KServe "
    "0.20.0 never has, and without enableGatewayApi there is no HTTPRoute: take a release with kserve#5912, or roll "
    "out with rollout.strategy = rolling, or set defaultDeploymentMode to Knative"
)


@dataclass(frozen=True)
class Share:
    """One entry of the traffic list; `url` is the revision's own, where it has one."""

    revision: str
    percent: int
    tag: str = ""
    url: str = ""


@dataclass(frozen=True)
class Standing:
    """Which revisions there are and who serves; empty strings where nothing says it (yet)."""

    latest_created: str = ""
    latest_ready: str = ""
    rolled_out: str = ""
    previous_rolled_out: str = ""
    traffic: tuple[Share, ...] = ()


def revision_name(service: str, predictor_name: str) -> str:
    """The Deployment and Service of a predictor."""
    return f"{service}-{predictor_name}-predictor" if predictor_name else f"{service}-predictor"


def canary_name(version: str) -> str:
    """The predictor's name under which a version is a canary, and later the predictor."""
    return f"v{version}"


def own_address(revision: str, namespace: str) -> str:
    """The URL of a predictor's Service, within the cluster."""
    return f"http://{revision}.{namespace}.svc.cluster.local"


def gateway_address(route: Mapping[str, Any], url: str) -> str:
    """How callers within the cluster ask so that they are split like all others, and no promotion moves their address.

    The Services and the addresses in the status are those of one predictor: a canary does not reach them, and they go
    with it. `url` is the service's own; a host that the HTTPRoute does not have would lead nowhere.
    """
    spec = route.get("spec") or {}
    hosts = spec.get("hostnames") or ()
    host = urlsplit(url).hostname or ""
    if hosts and host not in hosts:
        host = hosts[0]
    gateways = [
        "/".join(part for part in (parent.get("namespace"), parent.get("name")) if part)
        for parent in spec.get("parentRefs") or ()
        if parent.get("kind", "Gateway") == "Gateway"
    ]
    return f"the Service of Gateway {' or '.join(gateways)}, with Host: {host}" if host and gateways else ""


def pod_selector(revision: str) -> str:
    """The label of a predictor's pods."""
    return f"app=isvc.{revision}"


def orphaned_autoscalers(autoscalers: Iterable[Mapping[str, Any]], service: str, live: str) -> tuple[str, ...]:
    """The HorizontalPodAutoscalers that KServe made for predictors of the service other than the `live` one."""
    found = (item for item in autoscalers if item["spec"].get("scaleTargetRef", {}).get("name") != live)
    return tuple(
        item["metadata"]["name"]
        for item in found
        if any(
            (owner.get("kind"), owner.get("name")) == (INFERENCE_SERVICE.kind, service)
            for owner in item["metadata"].get("ownerReferences") or ()
        )
    )


def standing(
    inference_service: Mapping[str, Any],
    canary: Predictor | None,
    route: Mapping[str, Any] | None,
    deployment: Mapping[str, Any] | None,
) -> Standing:
    """Who serves, by the status, the HTTPRoute (None: none) and, if given, the newest predictor's Deployment."""
    metadata, status = inference_service.get("metadata", {}), inference_service.get("status") or {}
    predictor = Predictor.of(inference_service)
    stable = revision_name(metadata.get("name", ""), predictor.name)
    newest = revision_name(metadata.get("name", ""), canary.name) if canary else stable
    conditions = {item.get("type"): item.get("status") for item in status.get("conditions") or ()}
    serves = conditions.get("PredictorReady") == "True"
    known = {item.get("name"): item.get("ready") for item in status.get("canaryStatuses") or ()}
    healthy = bool(known.get(canary.name)) if canary else serves
    ready = newest if healthy and (deployment is None or followed(deployment, canary or predictor)) else ""
    traffic = _shares(route, metadata.get("namespace", "")) if route else ()
    if route is None and conditions.get("IngressReady") == "True":
        traffic = (Share(stable, 100),)
    routed = any(share.revision == stable for share in traffic)
    rolled_out = stable if serves and routed and (canary or ready) else ""
    return Standing(newest, ready, rolled_out, "", traffic)


def followed(deployment: Mapping[str, Any], predictor: Predictor) -> bool:
    """Whether the Deployment runs this predictor's model and nothing else, as far as a rolling update goes.

    It may go without a quarter of its replicas (maxUnavailable), so that one Pending pod of many keeps nothing waiting.
    """
    metadata, status = deployment["metadata"], deployment.get("status") or {}
    wanted = int(deployment["spec"].get("replicas", 1))
    updated, available, total = (status.get(key, 0) for key in ("updatedReplicas", "availableReplicas", "replicas"))
    seen = int(status.get("observedGeneration") or 0) >= int(metadata.get("generation") or 0)
    replaced = updated == total == wanted and available >= wanted - wanted // 4
    return seen and replaced and json.dumps(predictor.storage_uri) in json.dumps(deployment["spec"])


def _shares(route: Mapping[str, Any], namespace: str) -> tuple[Share, ...]:
    """Of the first rule that has weights, else of the first with a backend: explainers have rules of their own."""
    rules = [rule.get("backendRefs") or [] for rule in route.get("spec", {}).get("rules") or ()]
    rules = [rule for rule in rules if rule]
    chosen = next((rule for rule in rules if len(rule) > 1), rules[0] if rules else [])
    weights = [int(backend.get("weight", 1)) for backend in chosen]
    total = sum(weights) or 1
    return tuple(
        Share(backend["name"], round(100 * weight / total), "own", own_address(backend["name"], namespace))
        for backend, weight in zip(chosen, weights, strict=True)
    )
