"""Request counts and durations as they arrive in Prometheus: Knative's of pods, a mesh gateway's of Services."""

from __future__ import annotations

from collections.abc import Container

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest

from local.ingress.gateway import CLUSTER_DOMAIN
from local.ingress.routing import Target

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Queue-proxy's upper bounds, in seconds."""

MESH_BUCKETS = (
    *(0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000),
    *(300_000, 600_000, 1_800_000, 3_600_000),
)
"""Envoy's upper bounds, in milliseconds."""

_SCOPE = ("knative.dev/serving/pkg/queue", "", "")
_MESH_LABELS = (
    *("reporter", "source_workload", "destination_workload", "destination_workload_namespace", "destination_service"),
    *("destination_service_name", "destination_service_namespace", "request_protocol", "response_code"),
)


class KnativeMetrics:
    """`kn_serving_invocation_duration_seconds` as each pod's queue-proxy counts it since the pod began.

    Neither revision nor service is said: what tells pods apart is what the scrape of a PodMonitor adds, `namespace` and
    `pod`. The first sample of a pod appears with its first request, and its counters end with it.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._histogram = Histogram(
            "kn_serving_invocation_duration_seconds",
            "The duration of the request",
            labelnames=(
                *("namespace", "pod", "http_response_status_code"),
                *("otel_scope_name", "otel_scope_schema_url", "otel_scope_version"),
            ),
            buckets=BUCKETS,
            registry=registry,
        )
        self._children: dict[tuple[str, str, str], Histogram] = {}

    def observe(self, target: Target, pod: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        key = (target.namespace, pod, str(status))
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = self._histogram.labels(*key, *_SCOPE)
        child.observe(seconds)

    def keep(self, pods: Container[tuple[str, str]]) -> None:
        """Forget all pods but these, by namespace and name."""
        for key in [key for key in self._children if key[:2] not in pods]:
            self._histogram.remove(*key, *_SCOPE)
            del self._children[key]


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

    def observe(self, target: Target, pod: str, status: int, seconds: float) -> None:
        """Count one answered request; of a revision only what has reached a pod, for its queue-proxy counts."""
        if not target.configuration:
            self._mesh.observe(target, status, seconds)
        elif pod:
            self._knative.observe(target, pod, status, seconds)

    def exposition(self, pods: Container[tuple[str, str]]) -> bytes:
        """Everything counted by the pods that there are, in Prometheus' text format."""
        self._knative.keep(pods)
        return generate_latest(self._registry)
