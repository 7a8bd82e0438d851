"""How each source of metrics names an InferenceService; the PromQL of many services' load. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from ml_lifecycle.kubernetes.pod_names import pods_of, revision_deployment
from ml_lifecycle.prometheus.request_counters import REQUEST_COUNTERS, RequestCounter
from ml_lifecycle.scaling.resource import Source

NAMESPACE, SERVICE = "namespace", "service"  # the labels of every answer
KEPT_REVISIONS = 30  # the newest ones, whose pods' names are known where they are digests
_SCRAPES = ("job", "service")  # what a scrape adds, and differs where two of them find the same pod
_VERSION = "(?:-v[0-9]+)?"


@dataclass(frozen=True)
class Form:
    """Labels by which a series says whose it is.

    `label` bears the service's name and after it what `rest`, a regular expression, fits.
    """

    namespace: str
    label: str
    rest: str = "-predictor"
    versions: bool = False  # the version of a canary may stand between the two
    longest: int | None = None  # of `rest` the name of a pod: from longer names Kubernetes cuts something
    pod: str = ""  # the label that says the pod, where it is known: two jobs that scrape a pod say the same twice

    def shape(self, names: str) -> str:
        """What `label` says of one of the services, whose name is its first group."""
        return f"({names}){_VERSION if self.versions else ''}{self.rest}"

    def own(self, service: str, revision: int) -> str:
        """What `label` says of one service, whose newest Revision has this number, of all its versions."""
        if self.longest is None:
            return self.shape(_written(service))
        return pods_of(service_deployments(service, revision))

    def added(self, aggregate: str, expression: str) -> str:
        """The series of an expression, added up by the labels of this form, which are all that is left of theirs.

        Of a pod that several jobs scrape counts what the one saw that saw most.
        """
        own = list(dict.fromkeys([self.namespace, self.label, *filter(None, [self.pod])]))
        if aggregate == "sum" and self.pod:
            aggregate, expression = "max", f"sum by ({', '.join([*own, *_SCRAPES])}) ({expression})"
        return f"{aggregate} by ({', '.join(own)}) ({expression})"

    def with_namespace(self, expression: str) -> str:
        """With the label that every answer has."""
        if self.namespace == NAMESPACE:
            return expression
        return f'label_replace({expression}, "{NAMESPACE}", "$1", "{self.namespace}", "(.+)")'


@dataclass(frozen=True)
class LoadSource:
    """A counter of requests, and the forms in which its series may name a service, the most telling first.

    Series are read once, in the first form whose label they bear. A service is read in the first form that has any of
    it, so that requests that are scraped in two ways are not counted twice.
    """

    counter: RequestCounter
    forms: tuple[Form, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels that may say a service, once each."""
        return tuple(dict.fromkeys(form.label for form in self.forms))

    @property
    def namespaces(self) -> tuple[str, ...]:
        """All labels that may say a namespace, once each."""
        return tuple(dict.fromkeys(form.namespace for form in self.forms))

    def query(self, namespaces: Iterable[str], services: Iterable[str], window_seconds: float) -> str:
        """Requests a second of each of the services, by namespace and service."""
        return self._of_many("sum", "rate", sorted(namespaces), services, window_seconds)

    def samples(self, namespaces: Iterable[str], services: Iterable[str], window_seconds: float) -> str:
        """How many samples of each of the services there are in the window, of the series that has the most."""
        return self._of_many("max", "count_over_time", sorted(namespaces), services, window_seconds)

    def is_alone(self, service: str) -> bool:
        """Whether its name is so long that it is found only by itself."""
        return any(form.longest is not None and len(service) > form.longest for form in self.forms)

    @property
    def versions(self) -> bool:
        """Whether a version may follow a service's name, so that another service may be called alike."""
        return any(form.versions for form in self.forms)

    def query_alone(
        self, namespace: str, service: str, revision: int, others: Iterable[str], window_seconds: float
    ) -> str:
        """Requests a second of one service, by namespace.

        `revision` is the number of its newest Revision. Of `others`, services whose names begin alike, nothing counts.
        """
        strangers, parts = sorted(others), []
        for form, unnamed in zip(self.forms, self._unnamed, strict=True):
            chosen = [
                f'{form.namespace}="{namespace}"',
                f'{form.label}=~"{form.own(service, revision)}"',
                *(f'{form.label}!~"{form.own(other, 1)}"' for other in strangers if form.versions),
            ]
            rate = form.added("sum", self._over("rate", [*chosen, *unnamed], window_seconds))
            parts.append(f"sum by ({NAMESPACE}) ({form.with_namespace(rate)})")
        return " or ".join(parts)

    def _of_many(
        self, aggregate: str, function: str, namespaces: list[str], services: Iterable[str], window_seconds: float
    ) -> str:
        # The longest first: of `fraud` and `fraud-v2` each gets what is its own.
        ordered = sorted(services, key=lambda name: (-len(name), name))
        names, parts = "|".join(map(_written, ordered)), []
        for form, unnamed in zip(self.forms, self._unnamed, strict=True):
            chosen = [f'{form.namespace}=~"{"|".join(namespaces)}"', f'{form.label}=~"{form.shape(names)}"']
            found = form.added(aggregate, self._over(function, [*chosen, *unnamed], window_seconds))
            # Where no version may follow, any name is found, in a shorter text.
            shape = form.shape(names if form.versions else ".+")
            found = f'label_replace({form.with_namespace(found)}, "{SERVICE}", "$1", "{form.label}", "{shape}")'
            parts.append(f"{aggregate} by ({NAMESPACE}, {SERVICE}) ({found})")
        return " or ".join(parts)

    @cached_property
    def _unnamed(self) -> list[list[str]]:
        """For each form, what takes out of it the series that an earlier one names."""
        found = []
        for number, own in enumerate(self.forms):
            before = self.forms[:number]
            labels = dict.fromkeys(form.namespace if form.label == own.label else form.label for form in before)
            found.append([f'{label}=""' for label in labels if label not in (own.namespace, own.label)])
        return found

    def _over(self, function: str, chosen: Iterable[str], window_seconds: float) -> str:
        selected = ", ".join([*chosen, *filter(None, [self.counter.only])])
        return f"{function}({self.counter.name}{{{selected}}}[{window_seconds:g}s])"


def _written(service: str) -> str:
    """A name in a regular expression in a string of PromQL; a dot is only itself."""
    return service.replace(".", "[.]")


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


_REVISION = "-predictor-[0-9]{5}"
_REVISIONS_POD = f"{_REVISION}-deplo.+"  # what is left of `-deployment-<hash>-<random>` of the longest names
_LONGEST_REVISIONS_POD = 36  # of longer names Knative makes a digest
_POD = "-predictor(?:-[0-9]{5}-deployment)?-[a-z0-9]+-[a-z0-9]{5}"
_PODS = (Form("namespace", "pod", _POD, versions=True, longest=19, pod="pod"),)
# Queue-proxy's own series bear none of these. They are attributes that Prometheus promotes where the metrics are pushed
# by OTLP, or what the scrape adds: labels of the pod (PodMonitor: podTargetLabels), at least its namespace and name.
_KNATIVE = (
    *(Form(place, "kn_configuration_name") for place in ("k8s_namespace_name", "namespace")),
    *(Form(place, "kn_service_name") for place in ("k8s_namespace_name", "namespace")),
    *(Form(place, "kn_revision_name", _REVISION) for place in ("k8s_namespace_name", "namespace")),
    Form("namespace", "serving_knative_dev_configuration", pod="pod"),
    Form("namespace", "serving_knative_dev_service", pod="pod"),
    Form("namespace", "serving_kserve_io_inferenceservice", "", pod="pod"),
    Form("namespace", "serving_knative_dev_revision", _REVISION, pod="pod"),
    *(
        Form(place, pod, _REVISIONS_POD, longest=_LONGEST_REVISIONS_POD, pod=pod)
        for place, pod in (
            ("k8s_namespace_name", "k8s_pod_name"),
            ("namespace", "pod"),
            ("kubernetes_namespace", "kubernetes_pod_name"),
        )
    ),
)
SOURCES: Mapping[Source, LoadSource] = {
    "knative_otel": LoadSource(REQUEST_COUNTERS["knative_otel"], _KNATIVE),
    "knative_queue_proxy": LoadSource(
        REQUEST_COUNTERS["knative_queue_proxy"], (Form("namespace_name", "configuration_name"),)
    ),
    "istio": LoadSource(
        REQUEST_COUNTERS["istio"],
        (
            Form(
                "destination_service_namespace",
                "destination_service_name",
                "-predictor(?:-[0-9]{5})?",
                versions=True,
            ),
        ),
    ),
    "ml_serving": LoadSource(REQUEST_COUNTERS["ml_serving"], _PODS),
    "kserve": LoadSource(REQUEST_COUNTERS["kserve"], _PODS),
}
