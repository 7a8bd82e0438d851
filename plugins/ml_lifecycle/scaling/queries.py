"""Which range queries give the loads of many scalers: one for all that share a source, a step and a length. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from types import MappingProxyType
from typing import TypeVar

from ml_lifecycle.scaling.inference_services import live_revision
from ml_lifecycle.scaling.load_sources import NAMESPACE, SERVICE, SOURCES, LoadSource, begins_alike
from ml_lifecycle.scaling.manifests import Manifest
from ml_lifecycle.scaling.resource import RATE_WINDOW_STEPS, Scaler, ScalerSpec

NAMES_PER_QUERY = 100  # keeps a query's text below what proxies accept, and its answer, a week of each, at 35 MB

PARTS = 10  # into which a query is divided that is too heavy

ScalerKey = tuple[str, str]
Services = Mapping[tuple[str, str], Manifest]  # all InferenceServices, by namespace and name
Labels = tuple[str, ...]
T = TypeVar("T")


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
    source: LoadSource | None = None
    served: Sequence[tuple[Scaler, ScalerSpec]] = field(default=(), repr=False)  # of a source, in one query

    def parts(self) -> list[LoadQuery]:
        """The same in several queries of fewer names; empty where there is but one."""
        if self.source is None or len(self.served) < 2:
            return []
        size = -(-len(self.served) // PARTS)
        return [
            _requests_per_second(self.source, self.served[start : start + size], self.step_seconds, self.points)
            for start in range(0, len(self.served), size)
        ]

    def owners(self, series_labels: Mapping[str, str]) -> tuple[ScalerKey, ...]:
        """The scalers to whom a series with these labels belongs."""
        return self.members.get(tuple(series_labels.get(label, "") for label in self.labels), ())

    @property
    def scalers(self) -> tuple[ScalerKey, ...]:
        """Everyone who waits for this query."""
        return tuple(key for keys in self.members.values() for key in keys)


def load_queries(
    scalers: Iterable[Scaler], points: Mapping[ScalerKey, int], services: Services = MappingProxyType({})
) -> list[LoadQuery]:
    """The queries for all scalers that have a valid spec; `points` says how many of the last samples each one needs.

    Those of the package come first, then those that people wrote, one of each namespace in turn.
    """
    written: dict[tuple[str, str, int], list[ScalerKey]] = defaultdict(list)
    preset: dict[tuple[LoadSource, int, int], list[tuple[Scaler, ScalerSpec]]] = defaultdict(list)
    alone: list[LoadQuery] = []
    scalers = list(scalers)
    names = {name for _, name in services} | {one.spec.target_ref.name for one in scalers if one.spec}
    for scaler in scalers:
        spec = scaler.spec
        if spec is None:
            continue
        if spec.metric.query is not None:
            written[scaler.namespace, spec.metric.query, spec.step_seconds].append(scaler.key)
        elif _is_alone(spec, names):
            query = load_query(scaler, spec, services)
            members: dict[Labels, tuple[ScalerKey, ...]] = {(scaler.namespace,): (scaler.key,)}
            alone.append(LoadQuery(query, spec.step_seconds, points[scaler.key], (NAMESPACE,), members))
        else:
            preset[_source(spec), spec.step_seconds, points[scaler.key]].append((scaler, spec))
    queries: list[LoadQuery] = []
    for (source, step, number), served in preset.items():
        chunks = (served[start : start + NAMES_PER_QUERY] for start in range(0, len(served), NAMES_PER_QUERY))
        queries += [_requests_per_second(source, chunk, step, number) for chunk in chunks]
    own = [
        (namespace, LoadQuery(query, step, max(points[key] for key in keys), (), {(): tuple(keys)}))
        for (namespace, query, step), keys in written.items()
    ]
    return [*queries, *alone, *in_turn(own)]


def in_turn(items: Iterable[tuple[str, T]]) -> Iterator[T]:
    """One item of each namespace after the other, so that the many of one do not keep those of others waiting."""
    lines: dict[str, list[T]] = defaultdict(list)
    for namespace, item in items:
        lines[namespace].append(item)
    for row in zip_longest(*lines.values(), fillvalue=None):
        yield from (item for item in row if item is not None)


def _is_alone(spec: ScalerSpec, names: Iterable[str]) -> bool:
    """Whether a query for many would not tell its load from another's."""
    source, service = _source(spec), spec.target_ref.name
    return source.is_alone(service) or (source.versions and any(begins_alike(service, name) for name in names))


def _requests_per_second(
    source: LoadSource, served: Sequence[tuple[Scaler, ScalerSpec]], step: int, points: int
) -> LoadQuery:
    members: dict[Labels, tuple[ScalerKey, ...]] = {}
    for scaler, spec in served:
        labels = (scaler.namespace, spec.target_ref.name)
        members[labels] = (*members.get(labels, ()), scaler.key)
    query = source.query(
        {scaler.namespace for scaler, _ in served},
        {spec.target_ref.name for _, spec in served},
        RATE_WINDOW_STEPS * step,
    )
    return LoadQuery(query, step, points, (NAMESPACE, SERVICE), members, source, served)


def load_query(scaler: Scaler, spec: ScalerSpec, services: Services = MappingProxyType({})) -> str:
    """The load of one scaler alone."""
    if spec.metric.query is not None:
        return spec.metric.query
    source, service, window = _source(spec), spec.target_ref.name, RATE_WINDOW_STEPS * spec.step_seconds
    if not _is_alone(spec, {name for _, name in services}):
        return source.query([scaler.namespace], [service], window)
    others = [name for place, name in services if place == scaler.namespace and begins_alike(service, name)]
    number = newest_revision(services.get((scaler.namespace, service)) or {})
    return source.query_alone(scaler.namespace, service, number, others, window)


def newest_revision(service: Manifest) -> int:
    """The number of the live Revision; 1 where there is none."""
    number = (live_revision(service) or "").rpartition("-")[2]
    return int(number) if number.isascii() and number.isdigit() else 1


def _source(spec: ScalerSpec) -> LoadSource:
    return SOURCES[spec.metric.counted_by]
