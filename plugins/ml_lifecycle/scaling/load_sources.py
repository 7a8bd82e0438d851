"""How each source of metrics names an InferenceService; the PromQL of many services' load. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ml_lifecycle.kubernetes.pod_names import pods_of, revision_deployment
from ml_lifecycle.prometheus.request_counters import REQUEST_COUNTERS, RequestCounter
from ml_lifecycle.scaling.resource import Source

SERVICE = "service"
LONGEST_WHOLE = 19  # a service's name from which on Kubernetes cuts the names of its pods
KEPT_REVISIONS = 30  # the newest ones, whose pods' names are known where they are digests


@dataclass(frozen=True)
class LoadSource:
    """How a counter of requests names a service.

    `label` bears the name `<service>-predictor` or, with `shape`, one in which that regular expression finds the
    service as `(names)`.
    """

    counter: RequestCounter
    label: str
    shape: str = ""
    pods: bool = False  # `label` is a pod's name

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

    def alone(self, service: str) -> bool:
        """Whether its name is so long that it is found only by itself."""
        return self.pods and len(service) > LONGEST_WHOLE

    def query_alone(
        self, namespace: str, service: str, revision: int, others: Iterable[str], window_seconds: float
    ) -> str:
        """Requests a second of one service, by namespace.

        `revision` is the number of its newest Revision. Of `others`, services whose names begin alike, nothing counts.
        """
        own = self._names(service, revision)
        chosen = [
            f'{self.counter.namespace}="{namespace}"',
            f'{self.label}=~"{own}"',
            *(f'{self.label}!~"{self._names(other, 1)}"' for other in sorted(others)),
            *filter(None, [self.counter.only]),
        ]
        rate = f"rate({self.counter.name}{{{', '.join(chosen)}}}[{window_seconds:g}s])"
        return f"sum by ({self.counter.namespace}) ({rate})"

    def _names(self, service: str, revision: int) -> str:
        """What the label may say of a service, of all its versions."""
        if not self.pods:
            return self.shape.replace("names", service.replace(".", r"\\."), 1)
        return pods_of(service_deployments(service, revision))


def service_deployments(service: str, revision: int) -> list[str]:
    """The Deployments of a service in both modes, `#` a digit; `revision` is the number of its newest Revision.

    A predictor of Standard mode has the version in its name once it has been a canary: `digits-v7-predictor`.
    """
    standard = [f"{service}-predictor", *(f"{service}-v{'#' * digits}-predictor" for digits in range(1, 6))]
    pattern = revision_deployment(f"{service}-predictor-#####")
    if "#" in pattern:
        return [*standard, pattern]
    numbers = range(max(1, revision - KEPT_REVISIONS + 1), max(1, revision) + 1)
    return [*standard, *(revision_deployment(f"{service}-predictor-{number:05d}") for number in numbers)]


def begins_alike(service: str, other: str) -> bool:
    """Whether a canary's object of `service` may be called like an object of `other`."""
    version = other.removeprefix(f"{service}-v")
    return version != other and version.isascii() and version.isdigit()


_PODS = "(names)(?:-v[0-9]+)?-predictor(?:-[0-9]{5}-deployment)?-[a-z0-9]+-[a-z0-9]{5}"
SOURCES: Mapping[Source, LoadSource] = {
    "knative_otel": LoadSource(REQUEST_COUNTERS["knative_otel"], "kn_configuration_name"),
    "knative_queue_proxy": LoadSource(REQUEST_COUNTERS["knative_queue_proxy"], "configuration_name"),
    "istio": LoadSource(
        REQUEST_COUNTERS["istio"], "destination_service_name", "(names)(?:-v[0-9]+)?-predictor(?:-[0-9]{5})?"
    ),
    "ml_serving": LoadSource(REQUEST_COUNTERS["ml_serving"], "pod", _PODS, pods=True),
    "kserve": LoadSource(REQUEST_COUNTERS["kserve"], "pod", _PODS, pods=True),
}
