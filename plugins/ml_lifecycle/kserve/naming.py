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
# The most telling first: a revision's name needs no rule of how pods are called.
RevisionLabel = Literal["kn_revision_name", "serving_knative_dev_revision", "revision_name", "revision"]
PodLabel = Literal["k8s_pod_name", "pod", "pod_name", "kubernetes_pod_name"]
NamespaceLabel = Literal["k8s_namespace_name", "namespace", "namespace_name", "kubernetes_namespace"]
REVISION_LABELS, POD_LABELS, NAMESPACE_LABELS = get_args(RevisionLabel), get_args(PodLabel), get_args(NamespaceLabel)
_CANDIDATES: tuple[tuple[Source, RevisionLabel | PodLabel], ...] = (
    *(("knative_otel", label) for label in (*REVISION_LABELS, *POD_LABELS)),
    ("knative_queue_proxy", "revision_name"),
)
_FOUND = "naming"


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
    return not standard and metrics in (None, "knative_otel")


def question(sides: Sequence[str]) -> str:
    """PromQL: for each label that names one of the sides in some series, the labels of their namespaces."""
    revisions, pods = "|".join(sides), "|".join(pods_expression(side) for side in sides)
    return " or ".join(
        f"label_replace(group by ({','.join(NAMESPACE_LABELS)}) "
        f'({PRESETS[source].count}{{{label}=~"{pods if label in POD_LABELS else revisions}"}}), '
        f'"{_FOUND}", "{_series(source, label)}", "", "")'
        for source, label in _CANDIDATES
    )


def answered(samples: Iterable[Sample], namespace: str, metrics: str | None) -> Naming | None:
    """The most telling naming of what the question has found in this namespace; None if there is none.

    Settings that name Knative's `metrics` since 1.19 want no older ones.
    """
    found = {sample.labels.get(_FOUND, ""): sample.labels for sample in samples if _of(sample.labels, namespace)}
    for source, label in _CANDIDATES:
        labels = found.get(_series(source, label))
        if labels is not None and metrics in (None, source):
            return Naming(source, label, _of(labels, namespace))
    return None


def _series(source: Source, label: RevisionLabel | PodLabel) -> str:
    return f"{PRESETS[source].count}/{label}"


def _of(labels: Mapping[str, str], namespace: str) -> Any:
    """The label that says this namespace; empty if none does."""
    return next((label for label in NAMESPACE_LABELS if labels.get(label) == namespace), "")
