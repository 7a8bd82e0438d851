"""Queries of one's own for one side: their numbers, or why there are none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_lifecycle.kserve.data_planes import Preset, peak
from ml_lifecycle.prometheus.exceptions import PrometheusQueryError
from ml_lifecycle.settings import OwnGauge

if TYPE_CHECKING:
    from ml_lifecycle.prometheus.client import PrometheusClient

Fill = Callable[[str], str]
Numbers = tuple[float, ...]


@dataclass(frozen=True)
class OwnNumbers:
    """By metric: counts as (events, total), a gauge as (value,), now and `before`, at the last look.

    `peaks`: what counts had reached by the last look; `silent`: why there is nothing.
    """

    numbers: dict[str, Numbers]
    before: dict[str, Numbers]
    peaks: dict[str, Numbers]
    silent: dict[str, str]


async def own_numbers(
    prometheus: PrometheusClient, preset: Preset, fill: Fill, *, at: float, window_seconds: float
) -> OwnNumbers:
    """All own queries of one side, which `fill` writes out, at Unix time `at` and again at the last look's."""
    asked = {name: [fill(template) for template in templates] for name, templates in _templates(preset).items()}
    counts = {name: [peak(text, window_seconds) for text in texts] for name, texts in asked.items() if len(texts) > 1}
    found, before, peaks = await asyncio.gather(
        _all(prometheus, asked, at), _all(prometheus, asked, at - window_seconds), _all(prometheus, counts, at)
    )
    return OwnNumbers(
        numbers={name: each for name, each in found.items() if not isinstance(each, str)},
        before={name: each for name, each in before.items() if not isinstance(each, str)},
        peaks={name: each for name, each in peaks.items() if not isinstance(each, str)},
        silent={name: each for name, each in found.items() if isinstance(each, str)},
    )


async def refusals(prometheus: PrometheusClient, preset: Preset, fill: Fill, *, at: float) -> dict[str, str]:
    """Why Prometheus refuses queries, by metric; that one gives nothing yet is no refusal."""
    refused = {}
    for name, templates in _templates(preset).items():
        for template in templates:
            try:
                await prometheus.instant(fill(template), at)
            except PrometheusQueryError as error:
                refused[name] = str(error)
    return refused


def _templates(preset: Preset) -> dict[str, tuple[str, ...]]:
    """Each metric's queries: of counts events and total, of a gauge its value."""
    found: dict[str, tuple[str, ...]] = {}
    if preset.errors is not None:
        found["errors"] = (preset.errors.events, preset.errors.total)
    for metric in preset.own:
        found[metric.name] = (metric.value,) if isinstance(metric, OwnGauge) else (metric.events, metric.total)
    return found


async def _all(prometheus: PrometheusClient, asked: dict[str, list[str]], at: float) -> dict[str, Numbers | str]:
    """Each metric's numbers, or the first reason why it has none."""

    async def one(texts: Sequence[str]) -> Numbers | str:
        found = await asyncio.gather(*(_number(prometheus, text, at) for text in texts))
        reasons = [each for each in found if isinstance(each, str)]
        return reasons[0] if reasons else tuple(each for each in found if not isinstance(each, str))

    return dict(zip(asked, await asyncio.gather(*map(one, asked.values())), strict=True))


async def _number(prometheus: PrometheusClient, query: str, at: float) -> float | str:
    """The one value of a query, or why there is none."""
    try:
        samples = await prometheus.instant(query, at)
    except PrometheusQueryError as error:
        return str(error)
    if len(samples) > 1:
        return f"{query} gives {len(samples)} series, not one: wrap it in sum() or avg()"
    return samples[0].value if samples else f"{query} gives nothing; where that means none, append: or vector(0)"
