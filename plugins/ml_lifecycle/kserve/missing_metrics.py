"""Why a look found no series at all: what Prometheus has of the metric instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ml_lifecycle.kserve.data_planes import Preset, queries

if TYPE_CHECKING:
    from ml_lifecycle.prometheus.client import PrometheusClient

# Prometheus looks back five minutes for a sample.
_LOOKBACK_SECONDS = 300


async def why_nothing(
    prometheus: PrometheusClient, preset: Preset, namespace: str, sides: Sequence[str], at: float
) -> str:
    """One sentence, with the selector that was asked for; PrometheusError where even that cannot be said."""
    chosen = queries(preset, namespace=namespace, sides=sides, window_seconds=1).chosen
    if found := await prometheus.instant(f"topk(1, {preset.count})", at):
        labels = ",".join(f'{name}="{value}"' for name, value in sorted(found[0].labels.items()) if name != "__name__")
        labelled = preset.counter.labelled or f"scrape it with the labels {preset.namespace} and {preset.side}"
        return (
            f"Prometheus has {preset.count} under other labels, such as {{{labels}}}, and nothing of {chosen}: "
            f"{labelled}, or choose another source in rollout.metrics"
        )
    newest = f"max(max_over_time(timestamp({preset.count})[1d:5m]))"
    if (samples := await prometheus.instant(newest, at)) and (age := at - samples[0].value) > _LOOKBACK_SECONDS / 2:
        return (
            f"the newest sample of {preset.count} is {age / 60:.0f} minutes old: it is scraped no more, or this "
            "machine's clock is ahead of Prometheus's"
        )
    return f"Prometheus has no {preset.count} at all, nothing of {chosen}: {preset.counter.exported}"
