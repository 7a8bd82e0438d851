"""Routes of Standard mode: HTTPRoutes share a host's requests between Services, which select pods. No I/O."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from local.ingress.routing import BackendKey, Endpoint, Route, Target, endpoint_of

CLUSTER_DOMAIN = "svc.cluster.local"

Object = Mapping[str, Any]


def http_routes_of(route: Object) -> Iterator[Route]:
    """One route for each host of an HTTPRoute; it has one rule, as KServe writes it."""
    namespace = route["metadata"]["namespace"]
    for rule in route["spec"].get("rules") or ():
        targets = tuple(
            Target(backend.get("namespace", namespace), backend["name"], backend.get("weight", 1))
            for backend in rule.get("backendRefs") or ()
        )
        for host in route["spec"].get("hostnames") or ():
            yield Route(host, targets)


def service_route(service: Object) -> Route:
    """The Service's own address inside the cluster."""
    name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
    return Route(f"{name}.{namespace}.{CLUSTER_DOMAIN}", (Target(namespace, name, 1),))


def in_cluster(host: str) -> bool:
    """Whether the host is a Service's own, whose requests pass no gateway."""
    return host.endswith(f".{CLUSTER_DOMAIN}")


def service_endpoints(services: Iterable[Object], pods: Iterable[Object]) -> Iterator[tuple[BackendKey, Endpoint]]:
    """The ready pods that each Service selects."""
    by_label: defaultdict[tuple[str, str, str], list[tuple[str, Mapping[str, str]]]] = defaultdict(list)
    for service in services:
        selector = service["spec"].get("selector") or {}
        for key, value in list(selector.items())[:1]:
            by_label[service["metadata"]["namespace"], key, value].append((service["metadata"]["name"], selector))
    for pod in pods:
        namespace, labels = pod["metadata"]["namespace"], pod["metadata"].get("labels") or {}
        endpoint = endpoint_of(pod)
        for key, value in labels.items() if endpoint else ():
            for name, selector in by_label.get((namespace, key, value), ()):
                if endpoint and selector.items() <= labels.items():
                    yield (namespace, name), endpoint
