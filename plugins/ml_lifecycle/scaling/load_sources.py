"""How each source of metrics names an InferenceService; the PromQL of many services' load. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ml_lifecycle.prometheus.request_counters import REQUEST_COUNTERS, RequestCounter
from ml_lifecycle.scaling.resource import Source

SERVICE = "service"


@dataclass(frozen=True)
class LoadSource:
    """How a counter of requests names a service.

    `label` bears the name `<service>-predictor` or, with `shape`, one in which that regular expression finds the
    service as `(names)`.
    """

    counter: RequestCounter
    label: str
    shape: str = ""

    @property
    def labels(self) -> tuple[str, str]:
        """The labels by which an answer's series name a service's namespace and what `named` gives."""
        return self.counter.namespace, SERVICE if self.shape else self.label

    def named(self, service: str) -> str:
        """What the second label says of this service."""
        return service if self.shape else f"{service}-predictor"

    def query(self, namespaces: Iterable[str], services: Iterable[str], window_seconds: float) -> str:
        """Requests a second of each of the services, by `labels`."""
        # The longest first: of `fraud` and `fraud-v2` each gets what is its own.
        ordered = sorted(services, key=lambda name: (-len(name), name))
        names = "|".join(name.replace(".", r"\\.") for name in ordered)
        found = self.shape.replace("names", names, 1) if self.shape else f"({names})-predictor"
        chosen = [
            f'{self.counter.namespace}=~"{"|".join(sorted(namespaces))}"',
            f'{self.label}=~"{found}"',
            *filter(None, [self.counter.only]),
        ]
        rate = f"rate({self.counter.name}{{{', '.join(filter(None, chosen))}}}[{window_seconds:g}s])"
        if self.shape:
            rate = f'label_replace({rate}, "{SERVICE}", "$1", "{self.label}", "{found}")'
        return f"sum by ({', '.join(self.labels)}) ({rate})"


# A predictor of Standard mode has the version in its name once it has been a canary: `digits-v7-predictor`. No service
# may be named like that: without a scaler its load would count for `digits`.
_PODS = "(names)(?:-v[0-9]+)?-predictor(?:-[0-9]{5}-deployment)?-[a-z0-9]+-[a-z0-9]{5}"
SOURCES: Mapping[Source, LoadSource] = {
    "knative_otel": LoadSource(REQUEST_COUNTERS["knative_otel"], "kn_configuration_name"),
    "knative_queue_proxy": LoadSource(REQUEST_COUNTERS["knative_queue_proxy"], "configuration_name"),
    "istio": LoadSource(
        REQUEST_COUNTERS["istio"], "destination_service_name", "(names)(?:-v[0-9]+)?-predictor(?:-[0-9]{5})?"
    ),
    "ml_serving": LoadSource(REQUEST_COUNTERS["ml_serving"], "pod", _PODS),
    "kserve": LoadSource(REQUEST_COUNTERS["kserve"], "pod", _PODS),
}
