"""Why a metric gives no load: which query was asked, and what Prometheus has of the preset's counter instead. Pure.

One question for each source, whatever the number of its scalers: how often the services themselves were scraped in the
last hour, a series that none of the source's labels names, and whether there is the counter at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ml_lifecycle.prometheus.answer import Sample, quoted
from ml_lifecycle.scaling.load_sources import NAMESPACE, SERVICE, SOURCES, LoadSource
from ml_lifecycle.scaling.queries import NAMES_PER_QUERY, ScalerKey
from ml_lifecycle.scaling.resource import RATE_WINDOW_STEPS, Scaler, Source

_SECONDS = 3600
_STRANGERS_SECONDS = 900  # beyond the five minutes after which Prometheus forgets a series that is scraped seldom
_SAID_ANYWAY = ("http_", "otel_", "le", "__name__")  # labels that tell nothing of whose a series is
_LONGEST_EXAMPLE = 200


@dataclass(frozen=True)
class Seen:
    """What Prometheus has of a source's counter."""

    samples: Mapping[ScalerKey, float]  # of the last hour, by namespace and service
    asked: frozenset[ScalerKey]  # namespaces and services that were asked for
    strange: Mapping[str, str] | None  # the labels of a series that names no namespace or no service
    exists: bool


def asked_for(services: Iterable[ScalerKey]) -> list[ScalerKey]:
    """Of so many services the question asks by name."""
    return sorted(set(services))[:NAMES_PER_QUERY]


def question(source: LoadSource, services: Iterable[ScalerKey]) -> str:
    """PromQL that `answered` reads; `services` are pairs of namespace and name."""
    counter, pairs = source.counter.name, list(services)
    found = source.samples({place for place, _ in pairs}, {name for _, name in pairs}, _SECONDS)
    unnamed = (", ".join(f'{label}=""' for label in labels) for labels in (source.labels, source.namespaces))
    strange = (f"topk(1, last_over_time({counter}{{{labels}}}[{_STRANGERS_SECONDS}s]))" for labels in unnamed)
    return " or ".join([found, *strange, f"group(last_over_time({counter}[{_STRANGERS_SECONDS}s]))"])


def answered(samples: Iterable[Sample], services: Iterable[ScalerKey]) -> Seen:
    """What an instant answer to `question` says."""
    asked = frozenset(services)
    counts: dict[ScalerKey, float] = {}
    strange: Mapping[str, str] | None = None
    exists = False
    for sample in samples:
        key = sample.labels.get(NAMESPACE, ""), sample.labels.get(SERVICE, "")
        exists = True
        if sample.labels.keys() == {NAMESPACE, SERVICE}:
            counts[key] = sample.value
        elif sample.labels:
            strange = sample.labels
    return Seen(counts, asked, strange, exists)


def question_of(scaler: Scaler) -> str:
    """The query that was asked for a scaler's load, shortened."""
    if scaler.spec is None:
        return ""
    metric = scaler.spec.metric
    if metric.query is not None:
        return f"asked was {quoted(metric.query)}"
    source = SOURCES[metric.counted_by]
    window = RATE_WINDOW_STEPS * scaler.spec.step_seconds
    return (
        f"asked was sum(rate({source.counter.name}[{window:g}s])) of {scaler.spec.target_ref.name} by its label "
        f"{' or '.join(source.labels)}"
    )


def why(scaler: Scaler, seen: Seen) -> str:
    """What Prometheus has instead of this scaler's load, and what helps; empty where that is not known."""
    if scaler.spec is None:
        return ""
    source, key = SOURCES[scaler.spec.metric.counted_by], service_of(scaler)
    counter = source.counter.name
    if not seen.exists:
        return f"Prometheus has no {counter} at all: {_exported(source)}"
    if count := seen.samples.get(key):
        return _seldom(counter, count, scaler.spec.step_seconds)
    if seen.strange is not None:
        return f"Prometheus has {counter} under other labels, such as {_example(seen.strange)}: {_labelled(source)}"
    if key not in seen.asked:
        return ""
    return (
        f"Prometheus has {counter} of other services, none of this one: no request has reached its pods since they "
        "began, or they are not scraped"
    )


def service_of(scaler: Scaler) -> ScalerKey:
    """Namespace and name of the service whose load a preset reads."""
    return scaler.namespace, "" if scaler.spec is None else scaler.spec.target_ref.name


def source_of(scaler: Scaler) -> Source | None:
    """The source of a scaler with a preset."""
    return scaler.spec.metric.counted_by if scaler.spec is not None and scaler.spec.metric.query is None else None


def _seldom(counter: str, count: float, step_seconds: int) -> str:
    interval, needed = _SECONDS / count, RATE_WINDOW_STEPS / 2 * step_seconds
    if interval <= needed:
        return (
            f"Prometheus has {count:g} samples of its {counter} in the last hour, none new enough: is it scraped still?"
        )
    return (
        f"Prometheus has {count:g} samples of its {counter} in the last hour, so it seems to be scraped each "
        f"{interval:.0f} s, and stepSeconds {step_seconds:g} needs a sample each {needed:g} s: scrape more often, or "
        "raise stepSeconds"
    )


def _example(labels: Mapping[str, str]) -> str:
    told = {name: value for name, value in labels.items() if not name.startswith(_SAID_ANYWAY)} or labels
    text = ", ".join(f'{name}="{value}"' for name, value in sorted(told.items()))
    return f"{{{text if len(text) <= _LONGEST_EXAMPLE else text[:_LONGEST_EXAMPLE] + '…'}}}"


def _exported(source: LoadSource) -> str:
    if source is SOURCES["knative_otel"]:
        return f"{source.counter.exported}. Knative before 1.19 has metric.source: knative_queue_proxy"
    return f"{source.counter.exported} metric.source chooses another counter"


def _labelled(source: LoadSource) -> str:
    labels = " or ".join(f"{form.namespace} and {form.label}" for form in source.forms)
    return source.counter.labelled or f"scrape it with the labels {labels}"
