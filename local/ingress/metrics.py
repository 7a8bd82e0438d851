"""Request counts and durations as they arrive in Prometheus: Knative's of revisions, a mesh gateway's of Services."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest

from local.ingress.gateway import CLUSTER_DOMAIN
from local.ingress.routing import Target

BUCKETS = (
    *(0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.008, 0.01, 0.0125, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05),
    *(0.06, 0.08, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0),
)
"""Knative's upper bounds, in seconds."""

MESH_BUCKETS = (
    *(0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000),
    *(300_000, 600_000, 1_800_000, 3_600_000),
)
"""Envoy's upper bounds, in milliseconds."""

_MESH_LABELS = (
    *("reporter", "source_workload", "destination_workload", "destination_workload_namespace", "destination_service"),
    *("destination_service_name", "destination_service_namespace", "request_protocol", "response_code"),
)


class KnativeMetrics:
    """`kn_serving_invocation_duration_seconds` by revision and response code."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._histogram = Histogram(
            "kn_serving_invocation_duration_seconds",
            "The duration of a request, from the ingress to the revision and back",
            labelnames=(
                "kn_revision_name",
                "kn_configuration_name",
                "kn_service_name",
                "k8s_namespace_name",
                "http_response_status_code",
            ),
            buckets=BUCKETS,
            registry=registry,
        )
        self._children: dict[tuple[Target, int], Histogram] = {}

    def observe(self, target: Target, status: int, seconds: float) -> None:
        """Count one answered request."""
        key = (target, status)
        child = self._children.get(key)
        if child is None:
            # A Knative Service and its Configuration share their name.
            child = self._histogram.labels(
                target.backend, target.configuration, target.configuration, target.namespace, str(status)
            )
            self._children[key] = child
        child.observe(seconds)


class MeshMetrics:
    """`istio_requests_total` and `istio_request_duration_milliseconds` by Service, as a gateway reports them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter("istio_requests", "Requests", labelnames=_MESH_LABELS, registry=registry)
        self._durations = Histogram(
            "istio_request_duration_milliseconds",
            "The duration of a request",
            labelnames=_MESH_LABELS,
            buckets=MESH_BUCKETS,
            registry=registry,
        )
        self._children: dict[tuple[Target, int], tuple[Counter, Histogram]] = {}

    def observe(self, target: Target, status: int, seconds: float) -> None:
        """Count one answered request."""
        key = (target, status)
        children = self._children.get(key)
        if children is None:
            namespace, name = target.key
            labels = (
                *("source", "local-ingress", name, namespace, f"{name}.{namespace}.{CLUSTER_DOMAIN}"),
                *(name, namespace, "http", str(status)),
            )
            children = self._requests.labels(*labels), self._durations.labels(*labels)
            self._children[key] = children
        requests, durations = children
        requests.inc()
        durations.observe(1000 * seconds)


class RequestMetrics:
    """Everything that was counted, each request in its mode's format."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._knative = KnativeMetrics(self._registry)
        self._mesh = MeshMetrics(self._registry)

    def observe(self, target: Target, status: int, seconds: float) -> None:
        """Count one answered request."""
        (self._knative if target.configuration else self._mesh).observe(target, status, seconds)

    def exposition(self) -> bytes:
        """Everything counted so far, in Prometheus' text format."""
        return generate_latest(self._registry)
