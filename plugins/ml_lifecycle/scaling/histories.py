"""Reads the load of every scaler: from Prometheus, and from the cache what an earlier pass has read."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from ml_lifecycle.exceptions import LifecycleError
from ml_lifecycle.prometheus.answer import quoted
from ml_lifecycle.prometheus.exceptions import PrometheusTooHeavyError
from ml_lifecycle.scaling.budget import within
from ml_lifecycle.scaling.exceptions import MetricError
from ml_lifecycle.scaling.history import History, on_grid
from ml_lifecycle.scaling.history_cache import HistoryCache, locked, series_name
from ml_lifecycle.scaling.queries import LoadQuery, ScalerKey, Services, load_queries, load_query
from ml_lifecycle.scaling.resource import Scaler, ScalerSpec

if TYPE_CHECKING:
    from ml_lifecycle.prometheus.answer import Series
    from ml_lifecycle.prometheus.client import PrometheusClient

logger = logging.getLogger(__name__)

PATIENCE = 0.25  # of the time for all, that a query for many may take
FEWEST_POINTS = 300  # a query for fewer samples is not divided by time


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
    services: Services = MappingProxyType({}),
) -> Loads:
    """The loads up to `now` (Unix seconds); as many queries at a time as `gate` lets, and as many as `seconds` allow.

    A query that is too heavy, or for many and slow, is asked in parts, until what is too heavy fails alone. What a pass
    has not read in time is an error of its scalers; with a cache the next pass has less to read.
    """
    server = prometheus.identity
    wanted = {
        scaler.key: _Wanted(scaler, scaler.spec, server, services) for scaler in scalers if scaler.spec is not None
    }
    with _caches(wanted.values(), now, cache_folder) as caches:
        for one in wanted.values():
            one.cache = caches.get(one.spec.step_seconds)
        loads = Loads()
        read_keys: set[ScalerKey] = set()  # that were answered, be it with nothing

        def remember(keys: Iterable[ScalerKey]) -> None:
            """What the last pass knew, for those of whom nothing was read."""
            before = {key: wanted[key].before() for key in keys if key not in loads.histories}
            loads.histories.update({key: history for key, history in before.items() if history is not None})

        def fail(query: LoadQuery, error: str) -> None:
            loads.errors.update(dict.fromkeys(query.scalers, error))
            remember(query.scalers)

        async def read(query: LoadQuery) -> None:
            try:
                # One that can be divided need not be waited for.
                async with gate, asyncio.timeout(PATIENCE * seconds if query.parts() else seconds):
                    found = await _answer(query, prometheus, now)
                read_keys.update(query.scalers)
                loads.histories.update({key: wanted[key].whole(history) for key, history in found})
            except (PrometheusTooHeavyError, TimeoutError) as error:
                if parts := query.parts():
                    logger.warning("the load of %d scalers is read in parts: %s", len(query.scalers), error)
                    await asyncio.gather(*(read(part) for part in parts))
                    return
                fail(query, str(error) or f"its load was not read within {seconds:.1f} s")
            except LifecycleError as error:
                fail(query, str(error))
            except Exception as error:
                logger.exception("the answer to %s could not be understood", quoted(query.query))
                fail(query, f"unexpected: {error!r}")
            remember(query.scalers)  # those whose series has ended

        asked = {key: one.asked for key, one in wanted.items()}
        tasks = {asyncio.create_task(read(query)): query for query in load_queries(scalers, asked, services)}
        for task in await within(seconds, tasks):
            unread = [key for key in tasks[task].scalers if key not in read_keys and key not in loads.errors]
            loads.errors.update(dict.fromkeys(unread, f"its load was not read within {seconds:.1f} s"))
            remember(unread)
    return loads


@dataclass
class _Wanted:
    """The history that one scaler wants."""

    scaler: Scaler
    spec: ScalerSpec
    server: str
    services: Services
    cache: HistoryCache | None = None

    @property
    def points(self) -> int:
        """All of it."""
        return self.spec.history_points

    @cached_property
    def name(self) -> str:
        """In the cache."""
        query = load_query(self.scaler, self.spec, self.services)
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
    found = await _read(query, prometheus, now, 0, query.points)
    if not query.labels and len(found) > 1:
        raise MetricError(f"{quoted(query.query)} gives {len(found)} series, and one is needed: put it into sum(...)")
    return [
        (key, on_grid(series.times, series.values, end=now, step=query.step_seconds, points=query.points))
        for series in found
        for key in query.owners(series.labels)
    ]


async def _read(query: LoadQuery, prometheus: PrometheusClient, now: float, back: int, points: int) -> list[Series]:
    """The series of so many samples, the last one `back` steps ago; what is too heavy at once is read by halves."""
    step = query.step_seconds
    end = now - back * step
    try:
        return await prometheus.range(query.query, end - (points - 1) * step, end, step)
    except PrometheusTooHeavyError:
        if query.parts() or points < 2 * FEWEST_POINTS:
            raise
    half = points // 2
    newer = await _read(query, prometheus, now, back, half)
    older = await _read(query, prometheus, now, back + half, points - half)
    return _joined(older, newer)


def _joined(older: Iterable[Series], newer: Iterable[Series]) -> list[Series]:
    """Each series of both halves once."""
    joined: dict[frozenset[tuple[str, str]], Series] = {}
    for series in [*older, *newer]:
        name = frozenset(series.labels.items())
        if (before := joined.get(name)) is not None:
            times, values = np.append(before.times, series.times), np.append(before.values, series.values)
            joined[name] = replace(series, times=times, values=values)
        else:
            joined[name] = series
    return list(joined.values())
