"""By which labels Knative's metrics name a revision in this Prometheus. Pure.

Since 1.19 queue-proxy's histogram itself bears neither revision nor namespace: they come with OTLP, where Prometheus
promotes resource attributes, or with the scrape, by relabelling or as the pod's name alone. Before 1.19 the metrics
have other names, and the labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from ml_lifecycle.kserve.data_planes import PRESETS, Preset, pods_expression
from ml_lifecycle.prometheus.answer import Sample

Source = Literal["knative_otel", "knative_queue_proxy"]
OTEL, BEFORE_1_19 = get_args(Source)
# The most telling first: a revision's name needs no rule of how pods are called.
RevisionLabel = Literal["kn_revision_name", "serving_knative_dev_revision", "revision_name", "revision"]
PodLabel = Literal["k8s_pod_name", "pod", "pod_name", "kubernetes_pod_name"]
NamespaceLabel = Literal["k8s_namespace_name", "namespace", "namespace_name", "kubernetes_namespace"]
REVISION_LABELS, POD_LABELS, NAMESPACE_LABELS = get_args(RevisionLabel), get_args(PodLabel), get_args(NamespaceLabel)
_FOUND = "naming"

CONFIGURE = (
    "Knative exports no requests by default. Either set request-metrics-protocol: prometheus in the ConfigMap "
    "config-observability of knative-serving, restart the pods of the revisions, and apply "
    "k8s_templates/knative_pod_monitor.yaml; or push by OTLP, and have Prometheus promote the resource attributes "
    "kn.revision.name, kn.configuration.name, kn.service.name, k8s.namespace.name and k8s.pod.name "
    "(otlp.promote_resource_attributes)"
)


@dataclass(frozen=True)
class Naming:
    """The preset that Prometheus has, and the labels by which its series name their side and its namespace.

    It stands on the Lease, where others may write, so it can say nothing but what is known here.
    """

    source: Source
    side: RevisionLabel | PodLabel
    namespace: NamespaceLabel

    @property
    def by_pod(self) -> bool:
        """Whether the side is told by its pods."""
        return self.side in POD_LABELS

    def __str__(self) -> str:
        what = "pods" if self.by_pod else "revisions"
        return f"{self.source}, {what} by the label {self.side}, namespaces by {self.namespace}"

    def applied(self, preset: Preset) -> Preset:
        """The preset of the source with these labels, and what the given one brings along."""
        found = PRESETS[self.source]
        counter = replace(found.counter, namespace=self.namespace)
        return replace(
            preset,
            counter=counter,
            bucket=found.bucket,
            code=found.code,
            unit=found.unit,
            side=self.side,
            by_pod=self.by_pod,
        )


def is_open(metrics: str | None, *, standard: bool) -> bool:
    """Whether a rollout whose settings say `metrics` has to find out how its series are named."""
    return not standard and metrics in (None, OTEL)


def question(sides: Sequence[str]) -> str:
    """PromQL: for each label that names one of the sides in some series, the labels of their namespaces."""
    names = "|".join(sides)
    pods = "|".join(pods_expression(side) for side in sides)
    count, before = PRESETS[OTEL].count, PRESETS[BEFORE_1_19]
    asked = [(count, label, names) for label in REVISION_LABELS] + [(count, label, pods) for label in POD_LABELS]
    asked.append((before.count, before.side, names))
    return " or ".join(
        f'label_replace(group by ({",".join(NAMESPACE_LABELS)}) ({name}{{{label}=~"{value}"}}), '
        f'"{_FOUND}", "{name}/{label}", "", "")'
        for name, label, value in asked
    )


def answered(samples: Iterable[Sample], namespace: str, metrics: str | None) -> Naming | None:
    """The most telling naming of what the question has found in this namespace; None if there is none."""
    found = {sample.labels.get(_FOUND, ""): sample.labels for sample in samples if _of(sample.labels, namespace)}
    count, before = PRESETS[OTEL].count, PRESETS[BEFORE_1_19]
    candidates: list[tuple[Any, Any]] = [(OTEL, label) for label in (*REVISION_LABELS, *POD_LABELS)]
    candidates += [(BEFORE_1_19, before.side)] if metrics is None else []
    for source, label in candidates:
        if labels := found.get(f"{count if source == OTEL else before.count}/{label}"):
            place: Any = _of(labels, namespace)
            return Naming(source, label, place)
    return None


def _of(labels: Mapping[str, str], namespace: str) -> str:
    """The label that says this namespace; empty if none does."""
    return next((label for label in NAMESPACE_LABELS if labels.get(label) == namespace), "")
