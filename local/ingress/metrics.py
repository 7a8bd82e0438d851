"""Request counts and durations as Knative's OpenTelemetry histogram arrives in Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics, generate_latest

from local.ingress.routing import Target

BUCKETS = (
    *(0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.008, 0.01, 0.0125, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05),
    *(0.06, 0.08, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0),
)
"""Upper bounds in seconds."""


class RequestMetrics:
    """`kn_serving_invocation_duration_seconds` by revision and response code."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
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
            registry=self._registry,
        )
        self._children: dict[tuple[Target, int], Histogram] = {}

    def observe(self, target: Target, status: int, seconds: float) -> None:
        """Count one answered request."""
        key = (target, status)
        child = self._children.get(key)
        if child is None:
            # A Knative Service and its Configuration share their name.
            child = self._histogram.labels(
                target.revision, target.configuration, target.configuration, target.namespace, str(status)
            )
            self._children[key] = child
        child.observe(seconds)

    def exposition(self) -> bytes:
        """Everything counted so far, in Prometheus' text format."""
        return generate_latest(self._registry)
