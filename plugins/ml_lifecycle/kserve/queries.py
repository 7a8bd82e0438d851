"""What both sides' counters grew by, and the metrics of one's own, asked at one moment."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from ml_lifecycle.canary.comparison import HISTORY_LOOKS
from ml_lifecycle.canary.evidence import Window
from ml_lifecycle.canary.snapshot import Growth, Growths, window
from ml_lifecycle.kserve.data_planes import Preset, Queries, filled, queries
from ml_lifecycle.kserve.own_queries import own_numbers
from ml_lifecycle.prometheus.exceptions import PrometheusTooHeavyError

if TYPE_CHECKING:
    from ml_lifecycle.prometheus.answer import Sample
    from ml_lifecycle.prometheus.client import PrometheusClient

_YOUNG = "Prometheus has not known this service for two looks: what it counts may be from before"


async def growths(
    prometheus: PrometheusClient,
    preset: Preset,
    *,
    service: str,
    namespace: str,
    canary: str,
    stable: str,
    at: float,
    window_seconds: float,
) -> Growths:
    """What both sides' counters grew by until shortly before Unix time `at`; a side that served nothing has none.

    `window_seconds` before `at` the last look ended. All queries ask for one and the same moment, the preset's lag ago:
    by then every scrape that began before it is in, so no scrape is split between queries, sides or looks.
    """
    moment = at - preset.lag_seconds
    seconds = max(window_seconds - preset.lag_seconds, 0.001)
    ask = partial(_of_sides, prometheus, preset, namespace=namespace, moment=moment, seconds=seconds)
    sides = (canary, stable)
    codes, buckets, known = await asyncio.gather(
        ask(sides, lambda asked: asked.codes),
        ask(sides, lambda asked: asked.buckets),
        ask(sides, lambda asked: asked.known),
    )

    async def growth(side: str) -> Growth:
        fill = partial(filled, side=side, service=service, namespace=namespace, window_seconds=seconds)
        own = await own_numbers(prometheus, preset, fill, at=moment, window_seconds=seconds)
        # Without series `or vector(0)` gives a count of none, and then everything at once.
        young = {} if known else {name: _YOUNG for name, numbers in own.numbers.items() if len(numbers) > 1}
        return Growth(
            codes=_codes(preset, side, codes),
            buckets=_buckets(preset, side, buckets),
            own=own.numbers,
            before=own.before,
            peaks=own.peaks,
            silent=young | own.silent,
        )

    return Growths(moment, *await asyncio.gather(growth(canary), growth(stable)))


async def _of_sides(
    prometheus: PrometheusClient,
    preset: Preset,
    sides: Sequence[str],
    chosen: Callable[[Queries], str],
    *,
    namespace: str,
    moment: float,
    seconds: float,
) -> list[Sample]:
    """One query for all sides; where that is too heavy for Prometheus, one for each."""
    query = chosen(queries(preset, namespace=namespace, sides=sides, window_seconds=seconds))
    try:
        return await prometheus.instant(query, moment)
    except PrometheusTooHeavyError:
        if len(sides) == 1:
            raise
    ask = partial(_of_sides, prometheus, preset, namespace=namespace, moment=moment, seconds=seconds)
    return list(itertools.chain(*await asyncio.gather(*(ask((side,), chosen) for side in sides))))


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
        for series in await prometheus.range(query, end - (looks - 1) * step, end, step):
            if series.labels.get(preset.side_label, stable) == stable:
                for at, value in zip(series.times, series.values, strict=True):
                    found[at][series.labels.get(preset.code, "")] = value
        return found

    if preset.errors is None:
        grown = await ranged(asked.codes)
    else:
        fill = partial(filled, side=stable, service=service, namespace=namespace, window_seconds=step)
        events, totals = [await ranged(fill(text)) for text in (preset.errors.events, preset.errors.total)]
        grown = _grown(events, totals, step) if events and totals else {}
    # A Prometheus that has begun meanwhile meets each pod with its past.
    old = await ranged(asked.known)
    looked = [window(Growths(at, Growth(), Growth(grown[at]))) for at in sorted(grown.keys() & old.keys())]
    return tuple(each for each in looked if isinstance(each, Window))


def _of(preset: Preset, side: str, samples: Iterable[Sample]) -> list[Sample]:
    return [sample for sample in samples if sample.labels.get(preset.side_label) == side]


def _codes(preset: Preset, side: str, samples: Iterable[Sample]) -> dict[str, float]:
    return {sample.labels.get(preset.code, ""): sample.value for sample in _of(preset, side, samples)}


def _buckets(preset: Preset, side: str, samples: Iterable[Sample]) -> dict[str, float]:
    return {str(float(sample.labels["le"]) / preset.unit): sample.value for sample in _of(preset, side, samples)}


def _grown(
    events: Mapping[float, Mapping[str, float]], totals: Mapping[float, Mapping[str, float]], step: float
) -> dict[float, dict[str, float]]:
    """Failed requests and others as if by status code, from counts of one's own a step apart."""
    found = {}
    for before, at in itertools.pairwise(sorted(_steady(totals) & events.keys())):
        failed, total = (sum(each[at].values()) - sum(each[before].values()) for each in (events, totals))
        if at - before < 1.5 * step and 0 <= failed <= total:
            found[at] = {"500": failed, "200": total - failed}
    return found


def _steady(totals: Mapping[float, Mapping[str, float]]) -> set[float]:
    """The times at which a count is not below what it was before: a lost part of it may come back."""
    peak, steady = 0.0, set()
    for at in sorted(totals):
        total = sum(totals[at].values())
        if total >= peak:
            steady.add(at)
        peak = max(peak, total)
    return steady
