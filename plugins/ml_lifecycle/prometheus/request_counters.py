"""What each source of metrics calls its counter of requests to an InferenceService. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class RequestCounter:
    """A counter, the label of its namespace, and a selector of what counts once for each request of a user.

    What helps, in words: `exported` where Prometheus has nothing of it, `labelled` where it has it under other labels.
    """

    name: str
    namespace: str
    only: str = ""
    exported: str = "is it exported, and scraped?"
    labelled: str = ""


_POD_MONITOR = "k8s_templates/knative_pod_monitor.yaml"
_PROMOTED = (
    "have Prometheus promote the resource attributes kn.revision.name, kn.configuration.name, kn.service.name, "
    "k8s.namespace.name and k8s.pod.name (otlp.promote_resource_attributes)"
)

REQUEST_COUNTERS: Mapping[str, RequestCounter] = {
    # Knative Serving 1.19 and newer: queue-proxy's OpenTelemetry metrics.
    "knative_otel": RequestCounter(
        "kn_serving_invocation_duration_seconds_count",
        "k8s_namespace_name",
        exported=(
            "Knative exports no requests by default. Set request-metrics-protocol: prometheus in the ConfigMap "
            "config-observability of knative-serving, restart the pods of the revisions and apply "
            f"{_POD_MONITOR}; or push by OTLP, and {_PROMOTED}"
        ),
        labelled=(
            f"scrape it with the labels namespace and pod, as {_POD_MONITOR} does, or, where it is pushed by OTLP, "
            f"{_PROMOTED}"
        ),
    ),
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
