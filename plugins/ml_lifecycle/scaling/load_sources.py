"""What each source of metrics calls the requests of an InferenceService; the PromQL of many services' load. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ml_lifecycle.scaling.resource import Source

SERVICE = "service"


@dataclass(frozen=True)
class LoadSource:
    """The names of one source's counter of requests.

    `label` bears the name `<service>-predictor` or, with `shape`, one in which that regular expression finds the
    service as `(names)`; `only` selects what counts once for each request of a user.
    """

    count: str
    namespace: str
    label: str
    shape: str = ""
    only: str = ""

    @property
    def labels(self) -> tuple[str, str]:
        """The labels by which an answer's series name a service's namespace and what `named` gives."""
        return self.namespace, SERVICE if self.shape else self.label

    def named(self, service: str) -> str:
        """What the second label says of this service."""
        return service if self.shape else f"{service}-predictor"

    def query(self, namespaces: Iterable[str], services: Iterable[str], window_seconds: float) -> str:
        """Requests a second of each of the services, by `labels`."""
        # The longest first: of `fraud` and `fraud-v2` each gets what is its own.
        ordered = sorted(services, key=lambda name: (-len(name), name))
        names = "|".join(name.replace(".", r"\\.") for name in ordered)
        found = self.shape.replace("names", names, 1) if self.shape else f"({names})-predictor"
        chosen = [f'{self.namespace}=~"{"|".join(sorted(namespaces))}"', f'{self.label}=~"{found}"']
        rate = f"rate({self.count}{{{', '.join([*chosen, *filter(None, [self.only])])}}}[{window_seconds:g}s])"
        if self.shape:
            rate = f'label_replace({rate}, "{SERVICE}", "$1", "{self.label}", "{found}")'
        return f"sum by ({', '.join(self.labels)}) ({rate})"


# A predictor of Standard mode has the version in its name once it has been a canary: `digits-v7-predictor`. No service
# may be named like that: without a scaler its load would count for `digits`.
_PODS = "(names)(?:-v[0-9]+)?-predictor(?:-[0-9]{5}-deployment)?-[a-z0-9]+-[a-z0-9]{5}"
SOURCES: Mapping[Source, LoadSource] = {
    # Knative Serving 1.19 and newer: queue-proxy's OpenTelemetry metrics.
    "knative_otel": LoadSource(
        count="kn_serving_invocation_duration_seconds_count",
        namespace="k8s_namespace_name",
        label="kn_configuration_name",
    ),
    # Knative Serving before 1.19.
    "knative_queue_proxy": LoadSource(
        count="revision_app_request_count", namespace="namespace_name", label="configuration_name"
    ),
    # As the gateway or the caller's sidecar counts: the server's sidecar reports the same request once more.
    "istio": LoadSource(
        count="istio_requests_total",
        namespace="destination_service_namespace",
        label="destination_service_name",
        shape="(names)(?:-v[0-9]+)?-predictor(?:-[0-9]{5})?",
        only='reporter="source"',
    ),
    # The serving image of this package, without its probes.
    "ml_serving": LoadSource(
        count="ml_serving_requests_total",
        namespace="namespace",
        label="pod",
        shape=_PODS,
        only='endpoint=~".*(infer|predict).*"',
    ),
    # KServe's own servers (sklearn, xgboost, huggingface and others).
    "kserve": LoadSource(count="request_predict_seconds_count", namespace="namespace", label="pod", shape=_PODS),
}
