"""What each source of metrics calls its counter of requests to an InferenceService. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class RequestCounter:
    """A counter, the label of its namespace, and a selector of what counts once for each request of a user."""

    name: str
    namespace: str
    only: str = ""


REQUEST_COUNTERS: Mapping[str, RequestCounter] = {
    # Knative Serving 1.19 and newer: queue-proxy's OpenTelemetry metrics.
    "knative_otel": RequestCounter("kn_serving_invocation_duration_seconds_count", "k8s_namespace_name"),
    # Knative Serving before 1.19.
    "knative_queue_proxy": RequestCounter("revision_app_request_count", "namespace_name"),
    # Istio, as the gateway or the caller's sidecar counts: the server's sidecar reports the same request once more. In
    # Knative mode the way over the local gateway is reported under that gateway's name, so it does not count twice.
    "istio": RequestCounter("istio_requests_total", "destination_service_namespace", 'reporter="source"'),
    # The serving image of this package, behind any gateway; without its probes.
    "ml_serving": RequestCounter("ml_serving_requests_total", "namespace", 'endpoint=~".*(infer|predict).*"'),
    # KServe's own servers (sklearn, xgboost, huggingface and others): durations of predictions, no errors.
    "kserve": RequestCounter("request_predict_seconds_count", "namespace"),
}
