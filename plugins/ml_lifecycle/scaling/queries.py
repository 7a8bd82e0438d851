"""Which range queries give the loads of many scalers: one for all that share a source, a step and a length. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ml_lifecycle.scaling.load_sources import SOURCES, LoadSource
from ml_lifecycle.scaling.resource import RATE_WINDOW_STEPS, Scaler, ScalerSpec

NAMES_PER_QUERY = 100  # keeps a query's text below what proxies accept, and its answer, a week of each, at 35 MB

ScalerKey = tuple[str, str]
Labels = tuple[str, ...]


@dataclass(frozen=True)
class LoadQuery:
    """One range query; `members` says by the values of `labels` whose series is whose.

    Without `labels` the query must give one series, which is every member's.
    """

    query: str
    step_seconds: int
    points: int
    labels: Labels
    members: Mapping[Labels, tuple[ScalerKey, ...]]

    def owners(self, series_labels: Mapping[str, str]) -> tuple[ScalerKey, ...]:
        """The scalers to whom a series with these labels belongs."""
        return self.members.get(tuple(series_labels.get(label, "") for label in self.labels), ())

    @property
    def scalers(self) -> tuple[ScalerKey, ...]:
        """Everyone who waits for this query."""
        return tuple(key for keys in self.members.values() for key in keys)


def load_queries(scalers: Iterable[Scaler], points: Mapping[ScalerKey, int]) -> list[LoadQuery]:
    """The queries for all scalers that have a valid spec; `points` says how many of the last samples each one needs."""
    written: dict[tuple[str, int], list[ScalerKey]] = defaultdict(list)
    preset: dict[tuple[LoadSource, int, int], list[tuple[Scaler, ScalerSpec]]] = defaultdict(list)
    for scaler in scalers:
        if scaler.spec is None:
            continue
        step = scaler.spec.step_seconds
        if scaler.spec.metric.query is not None:
            written[scaler.spec.metric.query, step].append(scaler.key)
        else:
            preset[_source(scaler.spec), step, points[scaler.key]].append((scaler, scaler.spec))
    queries = [
        LoadQuery(query, step, max(points[key] for key in keys), (), {(): tuple(keys)})
        for (query, step), keys in written.items()
    ]
    for (source, step, number), served in preset.items():
        chunks = (served[start : start + NAMES_PER_QUERY] for start in range(0, len(served), NAMES_PER_QUERY))
        queries += [_requests_per_second(source, chunk, step, number) for chunk in chunks]
    return queries


def _requests_per_second(
    source: LoadSource, served: list[tuple[Scaler, ScalerSpec]], step: int, points: int
) -> LoadQuery:
    members: dict[Labels, tuple[ScalerKey, ...]] = {}
    for scaler, spec in served:
        labels = (scaler.namespace, source.named(spec.target_ref.name))
        members[labels] = (*members.get(labels, ()), scaler.key)
    query = source.query(
        {scaler.namespace for scaler, _ in served},
        {spec.target_ref.name for _, spec in served},
        RATE_WINDOW_STEPS * step,
    )
    return LoadQuery(query, step, points, source.labels, members)


def load_query(scaler: Scaler, spec: ScalerSpec) -> str:
    """The load of one scaler alone."""
    if spec.metric.query is not None:
        return spec.metric.query
    return _source(spec).query([scaler.namespace], [spec.target_ref.name], RATE_WINDOW_STEPS * spec.step_seconds)


def _source(spec: ScalerSpec) -> LoadSource:
    return SOURCES[spec.metric.source or "knative_otel"]
