"""The counters of both sides, and the metrics of one's own, read at one query time."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from ml_lifecycle.canary.comparison import HISTORY_LOOKS
from ml_lifecycle.canary.evidence import Window
from ml_lifecycle.canary.snapshot import Counters, Snapshot, between
from ml_lifecycle.kserve.data_planes import Preset, filled, queries
from ml_lifecycle.kserve.own_queries import own_numbers

if TYPE_CHECKING:
    from ml_lifecycle.prometheus.answer import Sample
    from ml_lifecycle.prometheus.client import PrometheusClient


async def snapshot(
    prometheus: PrometheusClient,
    preset: Preset,
    *,
    service: str,
    namespace: str,
    canary: str,
    stable: str,
    at: float,
    window_seconds: float,
) -> Snapshot:
    """Both sides' counters shortly before Unix time `at`; a side that has served nothing yet has none.

    `window_seconds` before `at` the last look was read. All queries ask for one and the same moment, the preset's lag
    ago: by then every scrape that began before it is in, so no scrape is split between queries, sides or looks.
    """
    moment = at - preset.lag_seconds
    window = max(window_seconds - preset.lag_seconds, 0.001)
    asked = queries(preset, namespace=namespace, sides=(canary, stable), window_seconds=window)
    codes, buckets, broken = await asyncio.gather(
        *(prometheus.instant(query, moment) for query in (asked.codes, asked.buckets, asked.broken))
    )

    async def counters(side: str) -> Counters:
        fill = partial(filled, side=side, service=service, namespace=namespace, window_seconds=window)
        own = await own_numbers(prometheus, preset, fill, at=moment, window_seconds=window)
        errors = own.numbers.get("errors")
        return Counters(
            codes=_codes(preset, side, codes) if errors is None else _split(*errors),
            buckets=_buckets(preset, side, buckets),
            broken=sum(sample.value for sample in _of(preset, side, broken)),
            own=own.numbers,
            peaks=own.peaks,
            silent=own.silent,
        )

    return Snapshot(moment, *await asyncio.gather(counters(canary), counters(stable)))


async def history(
    prometheus: PrometheusClient,
    preset: Preset,
    *,
    service: str,
    namespace: str,
    stable: str,
    end: float,
    step: float,
    looks: int = HISTORY_LOOKS,
) -> tuple[Window, ...]:
    """What the stable side answered in the `looks` times `step` seconds before Unix time `end`, without gaps."""
    asked = queries(preset, namespace=namespace, sides=(stable,), window_seconds=step)
    end -= preset.lag_seconds

    async def ranged(query: str) -> dict[float, dict[str, float]]:
        """Its values at each time, by status code where there is one."""
        found: dict[float, dict[str, float]] = defaultdict(dict)
        for series in await prometheus.range(query, end - looks * step, end, step):
            if series.labels.get(preset.side_label, stable) == stable:
                for at, value in zip(series.times, series.values, strict=True):
                    found[at][series.labels.get(preset.code, "")] = value
        return found

    broken = await ranged(asked.broken)
    if preset.errors is None:
        codes = await ranged(asked.codes)
    else:
        fill = partial(filled, side=stable, service=service, namespace=namespace, window_seconds=step)
        events, totals = [await ranged(fill(text)) for text in (preset.errors.events, preset.errors.total)]
        codes = {
            at: _split(sum(events[at].values()), sum(totals[at].values())) for at in _steady(totals) & events.keys()
        }
    snapshots = [
        Snapshot(at, Counters(), Counters(codes[at], broken=sum(broken.get(at, {}).values()))) for at in sorted(codes)
    ]
    pairs = [pair for pair in itertools.pairwise(snapshots) if pair[1].at - pair[0].at < 1.5 * step]
    return tuple(window for window in (between(*pair) for pair in pairs) if isinstance(window, Window))


def _of(preset: Preset, side: str, samples: Iterable[Sample]) -> list[Sample]:
    return [sample for sample in samples if sample.labels.get(preset.side_label) == side]


def _codes(preset: Preset, side: str, samples: Iterable[Sample]) -> dict[str, float]:
    return {sample.labels.get(preset.code, ""): sample.value for sample in _of(preset, side, samples)}


def _buckets(preset: Preset, side: str, samples: Iterable[Sample]) -> dict[str, float]:
    return {str(float(sample.labels["le"]) / preset.unit): sample.value for sample in _of(preset, side, samples)}


def _steady(totals: Mapping[float, Mapping[str, float]]) -> set[float]:
    """The times at which a count is not below what it was before: a lost part of it may come back."""
    peak, steady = 0.0, set()
    for at in sorted(totals):
        total = sum(totals[at].values())
        if total >= peak:
            steady.add(at)
        peak = max(peak, total)
    return steady


def _split(events: float, total: float) -> dict[str, float]:
    """Failed requests and others as if by status code."""
    return {"500": events, "200": total - events}
