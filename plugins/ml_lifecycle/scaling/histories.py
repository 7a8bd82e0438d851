"""Reads the load of every scaler: from Prometheus, and from the cache what an earlier pass has read."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ml_lifecycle.exceptions import LifecycleError
from ml_lifecycle.scaling.budget import within
from ml_lifecycle.scaling.exceptions import MetricError
from ml_lifecycle.scaling.history import History, on_grid
from ml_lifecycle.scaling.history_cache import HistoryCache, locked, series_name
from ml_lifecycle.scaling.queries import LoadQuery, ScalerKey, load_queries, load_query
from ml_lifecycle.scaling.resource import Scaler, ScalerSpec

if TYPE_CHECKING:
    from ml_lifecycle.prometheus.client import PrometheusClient

logger = logging.getLogger(__name__)


@dataclass
class Loads:
    """What was read: a history for each scaler, or what went wrong; neither where the metric has no series.

    Both where Prometheus could not be read and the cache could: the history then ends with what the last pass knew.
    """

    histories: dict[ScalerKey, History] = field(default_factory=dict)
    errors: dict[ScalerKey, str] = field(default_factory=dict)


async def read_loads(
    scalers: Sequence[Scaler],
    prometheus: PrometheusClient,
    now: float,
    *,
    gate: asyncio.Semaphore,
    seconds: float,
    cache_folder: Path | None = None,
) -> Loads:
    """The loads up to `now` (Unix seconds); as many queries at a time as `gate` lets, and as many as `seconds` allow.

    What a pass has not read in time is an error of its scalers; with a cache the next pass has less to read.
    """
    server = prometheus.identity
    wanted = {scaler.key: _Wanted(scaler, scaler.spec, server) for scaler in scalers if scaler.spec is not None}
    with _caches(wanted.values(), now, cache_folder) as caches:
        for one in wanted.values():
            one.cache = caches.get(one.spec.step_seconds)
        loads = Loads()

        def remember(keys: Iterable[ScalerKey]) -> None:
            """What the last pass knew, for those of whom nothing was read."""
            before = {key: wanted[key].before() for key in keys if key not in loads.histories}
            loads.histories.update({key: history for key, history in before.items() if history is not None})

        def fail(query: LoadQuery, error: str) -> None:
            loads.errors.update(dict.fromkeys(query.scalers, error))
            remember(query.scalers)

        async def read(query: LoadQuery) -> None:
            try:
                async with gate:
                    found = await _answer(query, prometheus, now)
                loads.histories.update({key: wanted[key].whole(history) for key, history in found})
            except LifecycleError as error:
                fail(query, str(error))
            except Exception as error:
                logger.exception("the answer to %r could not be understood", query.query)
                fail(query, f"unexpected: {error!r}")
            remember(query.scalers)  # those whose series has ended

        asked = {key: one.asked for key, one in wanted.items()}
        tasks = {asyncio.create_task(read(query)): query for query in load_queries(scalers, asked)}
        for task in await within(seconds, tasks):
            fail(tasks[task], f"its load was not read within {seconds:.1f} s")
    return loads


@dataclass
class _Wanted:
    """The history that one scaler wants."""

    scaler: Scaler
    spec: ScalerSpec
    server: str
    cache: HistoryCache | None = None

    @property
    def points(self) -> int:
        """All of it."""
        return self.spec.history_points

    @cached_property
    def name(self) -> str:
        """In the cache."""
        query = load_query(self.scaler, self.spec)
        return series_name(self.server, query, self.spec.step_seconds, self.points)

    @property
    def asked(self) -> int:
        """So many of the last samples must be read."""
        return self.points if self.cache is None else self.cache.missing(self.name, self.points)

    def whole(self, read: History) -> History:
        """The history of which at least the newest samples, as many as were asked for, have been read."""
        if self.cache is None:
            return History(read.loads[-self.points :], read.step_seconds)
        self.cache.write(self.name, read.loads[-self.points :], self.points)
        return History(self.cache.read(self.name, self.points), read.step_seconds)

    def before(self) -> History | None:
        """The history as far as the last pass knew it."""
        loads = None if self.cache is None else self.cache.read_before(self.name, self.points)
        return None if loads is None else History(loads, self.spec.step_seconds)


@contextmanager
def _caches(wanted: Iterable[_Wanted], now: float, folder: Path | None) -> Iterator[dict[int, HistoryCache]]:
    """By step length; none without a folder, or where another pass has it."""
    caches: dict[int, HistoryCache] = {}
    with ExitStack() as stack:
        try:
            if folder is not None and stack.enter_context(locked(folder)):
                caches = {step: _opened(folder, step, now, room) for step, room in _rooms(wanted).items()}
        except OSError as error:
            logger.warning("%s cannot be used (%s): whole histories are read from Prometheus", folder, error)
        try:
            yield caches
        finally:  # also where the pass ends here: what it has read is not read again
            for cache in caches.values():
                cache.save()


def _rooms(wanted: Iterable[_Wanted]) -> Mapping[int, Mapping[str, int]]:
    """Numbers of samples by name, for each step length."""
    rooms: dict[int, dict[str, int]] = defaultdict(dict)
    for one in wanted:
        rooms[one.spec.step_seconds][one.name] = one.points
    return rooms


def _opened(folder: Path, step: int, now: float, room: Mapping[str, int]) -> HistoryCache:
    cache = HistoryCache(folder, step, now)
    cache.make_room(room)
    return cache


async def _answer(query: LoadQuery, prometheus: PrometheusClient, now: float) -> list[tuple[ScalerKey, History]]:
    step = query.step_seconds
    found = await prometheus.range(query.query, now - (query.points - 1) * step, now, step)
    if not query.labels and len(found) > 1:
        raise MetricError(f"{query.query!r} gives {len(found)} series, and one is needed: put it into sum(...)")
    return [
        (key, on_grid(series.times, series.values, end=now, step=step, points=query.points))
        for series in found
        for key in query.owners(series.labels)
    ]
