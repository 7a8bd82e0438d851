"""The counters of both revisions, as each data plane names them, read at one query time."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_lifecycle.canary.comparison import HISTORY_LOOKS
from ml_lifecycle.canary.evidence import Window
from ml_lifecycle.canary.snapshot import Counters, Snapshot, between

if TYPE_CHECKING:
    from ml_lifecycle.prometheus.client import PrometheusClient, Sample


@dataclass(frozen=True)
class Preset:
    """The names of one data plane's metrics; `unit` is one second in the histogram's bounds."""

    count: str
    bucket: str
    revision: str
    configuration: str
    namespace: str
    code: str
    unit: float = 1.0


PRESETS: Mapping[str, Preset] = {
    "knative_otel": Preset(
        count="kn_serving_invocation_duration_seconds_count",
        bucket="kn_serving_invocation_duration_seconds_bucket",
        revision="kn_revision_name",
        configuration="kn_configuration_name",
        namespace="k8s_namespace_name",
        code="http_response_status_code",
    ),
    "knative_queue_proxy": Preset(
        count="revision_app_request_count",
        bucket="revision_app_request_latencies_bucket",
        revision="revision_name",
        configuration="configuration_name",
        namespace="namespace_name",
        code="response_code",
        unit=1000.0,
    ),
}


@dataclass(frozen=True)
class Queries:
    """PromQL of one look: requests by status code, by bucket, and counter resets within the window."""

    codes: str
    buckets: str
    resets: str


def queries(preset: Preset, *, service: str, namespace: str, window_seconds: float) -> Queries:
    """For all revisions of a service; cumulative, so that the differences of two looks are exact."""
    where = f'{preset.configuration}="{service}-predictor",{preset.namespace}="{namespace}"'
    window = max(1, round(window_seconds))
    return Queries(
        codes=f"sum by ({preset.revision},{preset.code}) ({preset.count}{{{where}}})",
        buckets=f"sum by ({preset.revision},le) ({preset.bucket}{{{where}}})",
        resets=f"sum by ({preset.revision}) (resets({preset.count}{{{where}}}[{window}s]))",
    )


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
    """Both revisions' counters at Unix time `at`; a revision that has served nothing yet has none."""
    asked = queries(preset, service=service, namespace=namespace, window_seconds=window_seconds)
    codes, buckets, resets = await asyncio.gather(
        *(prometheus.instant(query, at) for query in (asked.codes, asked.buckets, asked.resets))
    )
    sides = [_counters(preset, revision, codes, buckets, resets) for revision in (canary, stable)]
    return Snapshot(at, *sides)


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
    """What the stable revision answered in the `looks` times `step` seconds before Unix time `end`, without gaps."""
    asked = queries(preset, service=service, namespace=namespace, window_seconds=step)
    codes: dict[float, dict[str, float]] = defaultdict(dict)
    for series in await prometheus.range(asked.codes, end - looks * step, end, step):
        if series.labels.get(preset.revision) == stable:
            for at, value in zip(series.times, series.values, strict=True):
                codes[at][series.labels.get(preset.code, "")] = value
    snapshots = [Snapshot(at, Counters(), Counters(codes[at])) for at in sorted(codes)]
    pairs = [pair for pair in itertools.pairwise(snapshots) if pair[1].at - pair[0].at < 1.5 * step]
    return tuple(window for window in (between(*pair) for pair in pairs) if isinstance(window, Window))


def _counters(
    preset: Preset, revision: str, codes: list[Sample], buckets: list[Sample], resets: list[Sample]
) -> Counters:
    def own(samples: list[Sample]) -> list[Sample]:
        return [sample for sample in samples if sample.labels.get(preset.revision) == revision]

    return Counters(
        codes={sample.labels.get(preset.code, ""): sample.value for sample in own(codes)},
        buckets={str(float(sample.labels["le"]) / preset.unit): sample.value for sample in own(buckets)},
        resets=sum(sample.value for sample in own(resets)),
    )
