"""What each source of metrics calls requests, their status and duration; the PromQL of one look at both sides. Pure.

A side is a revision in Knative mode and a Kubernetes Service in Standard mode; sources that know pods only tell the
sides by the pods' names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ml_lifecycle.kubernetes.pod_names import pods_of, predictor_deployment
from ml_lifecycle.prometheus.request_counters import REQUEST_COUNTERS, RequestCounter
from ml_lifecycle.settings import ErrorQueries, OwnCounts, OwnGauge, Rollout

# How long a series that a gap has hidden is known: one that comes back later counts as new.
_MEMORY = "6h"
_SIDE = "side"
_LOOKBACK_SECONDS = 300.0
# What a scrape adds and differs where two of them find the same process: its requests count once.
_ONCE = "max without (job,service,endpoint,container)"
# What was scraped together: what appears beside series of its own process has begun with it or after them.
_PROCESS = "job,instance,pod,pod_name,k8s_pod_name"


@dataclass(frozen=True)
class Preset:
    """The names of one source's metrics.

    `bucket` is a histogram of the requests' duration, `unit` one second in its bounds. `side` is the label whose value
    names a side, or with `by_pod` its pods. A rollout's own queries and its lag come with it: see `source`.
    """

    counter: RequestCounter
    bucket: str
    side: str
    code: str
    by_pod: bool = False
    unit: float = 1.0
    errors: ErrorQueries | None = None
    own: tuple[OwnCounts | OwnGauge, ...] = ()
    lag_seconds: float = 2.0

    @property
    def count(self) -> str:
        """The counter of requests."""
        return self.counter.name

    @property
    def namespace(self) -> str:
        """The label of the namespace."""
        return self.counter.namespace

    @property
    def side_label(self) -> str:
        """The label that names the side in the answers."""
        return _SIDE if self.by_pod else self.side


PRESETS: Mapping[str, Preset] = {
    "knative_otel": Preset(
        counter=REQUEST_COUNTERS["knative_otel"],
        bucket="kn_serving_invocation_duration_seconds_bucket",
        side="kn_revision_name",
        code="http_response_status_code",
    ),
    "knative_queue_proxy": Preset(
        counter=REQUEST_COUNTERS["knative_queue_proxy"],
        bucket="revision_app_request_latencies_bucket",
        side="revision_name",
        code="response_code",
        unit=1000.0,
    ),
    "istio": Preset(
        counter=REQUEST_COUNTERS["istio"],
        bucket="istio_request_duration_milliseconds_bucket",
        side="destination_service_name",
        code="response_code",
        unit=1000.0,
    ),
    "ml_serving": Preset(
        counter=REQUEST_COUNTERS["ml_serving"],
        bucket="ml_serving_request_duration_seconds_bucket",
        side="pod",
        code="code",
        by_pod=True,
    ),
    "kserve": Preset(
        counter=REQUEST_COUNTERS["kserve"],
        bucket="request_predict_seconds_bucket",
        side="pod",
        code="",
        by_pod=True,
    ),
}


def source(rollout: Rollout, *, standard: bool = False) -> Preset:
    """The preset that a rollout's settings choose, else the usual one of the mode, with the settings' own queries."""
    name = rollout.metrics or ("istio" if standard else "knative_otel")
    return replace(PRESETS[name], errors=rollout.errors, own=rollout.own_metrics, lag_seconds=rollout.lag_seconds)


@dataclass(frozen=True)
class Queries:
    """PromQL of one look, by side: what requests grew by, by status code and by bucket.

    `known`: how many series there were a look, or five minutes, before this one begins; nothing where Prometheus has
    begun since.
    `chosen`: the selector of all of it, for people.
    """

    codes: str
    buckets: str
    known: str
    chosen: str


def queries(preset: Preset, *, namespace: str, sides: Sequence[str], window_seconds: float) -> Queries:
    """The growth of each series in the window before the moment that is asked for, added up by side.

    One query tells both moments, so that one Prometheus in one state tells both. Each series counts for itself, from
    its lowest value to its last: that has happened in the window, whatever was reset, lost, came back or was scraped
    for the first time meanwhile. What a series brings along when it appears is its own past, and counts only where it
    can have no other: see `_new`.
    """
    names = "|".join(map(pods_expression, sides) if preset.by_pod else sides)
    chosen = [f'{preset.namespace}="{namespace}"', f'{preset.side}=~"{names}"', *filter(None, [preset.counter.only])]
    window = _milliseconds(window_seconds)
    earlier = _milliseconds(window_seconds + min(window_seconds, _LOOKBACK_SECONDS))
    count, bucket = (f"{name}{{{','.join(chosen)}}}" for name in (preset.count, preset.bucket))
    whole = f"{preset.bucket}{{{','.join([*chosen, _WHOLE])}}}"
    most = f"scalar(sum({_certain(count, window)}))"
    codes = _growth(count, count, window, f"({most})", f"({count} offset {earlier})")
    buckets = _growth(bucket, whole, window, f"({most})", f"({count} offset {earlier})")
    return Queries(
        codes=f"sum by ({_labels(preset, preset.code)}) ({_ONCE}({_by_side(preset, codes, sides)}))",
        buckets=f"sum by ({_labels(preset, 'le')}) ({_ONCE}({_by_side(preset, buckets, sides)}))",
        known=f"count({count} offset {earlier})",
        chosen=count,
    )


_WHOLE = 'le="+Inf"'


def _certain(series: str, window: str) -> str:
    """What each series grew by while it was scraped: from its lowest to its last. A reset makes it less, never more."""
    first = f"min_over_time({series}[{window}])"
    return f"(last_over_time({series}[{window}]) - (({series} offset {window} <= {first}) or {first}) >= 0 < Inf)"


def _growth(series: str, whole: str, window: str, most: str, before: str) -> str:
    new = _new(series, whole, window, most, before)
    return f"((last_over_time({series}[{window}]) and ({new})) < Inf) or {_certain(series, window)}"


def _new(series: str, whole: str, window: str, most: str, before: str) -> str:
    """Series that have begun in the window, with their first value: all of it happened in the window.

    That is one beside which its process was scraped when the window began, and that nobody remembers: the first error
    of a pod. And one of a process that nobody remembers: a new pod, where its first value is no more than `most`, all
    that the others served for certain, and Prometheus was there one look before (`before`); else it may be an old pod,
    scraped for the first time with its whole past.
    """
    began = f"(min_over_time({series}[{window}]) unless {series} offset {window})"
    remembered = f"present_over_time({whole}[{_MEMORY}] offset {window})"
    first = f"({began} unless ignoring(le) {remembered}) and on({_PROCESS}) {whole} offset {window}"
    pod = f"({began} unless on({_PROCESS}) {remembered}) <= {most} and on() {before}"
    return f"({first}) or ({pod})"


def filled(template: str, *, side: str, service: str, namespace: str, window_seconds: float) -> str:
    """A query of one's own for one side."""
    values = {
        "side": side,
        "pods": pods_expression(side),
        "service": service,
        "namespace": namespace,
        "window": _milliseconds(window_seconds),
    }
    return re.sub(r"\$(side|pods|service|namespace|window)\b", lambda found: values[found[1]], template)


def peak(query: str, window_seconds: float) -> str:
    """The most that a count of one's own had reached by the last look, `window_seconds` ago.

    Below it, series are missing whose past would come back as new; after a reset it is forgotten in ten minutes.
    """
    return f"max_over_time(({query})[10m:15s] offset {_milliseconds(window_seconds)})"


def pods_expression(side: str) -> str:
    """The pods of a revision's or a predictor's Deployment, and of no other whose name begins alike."""
    return f"(?:{pods_of([predictor_deployment(side)])})"


def _by_side(preset: Preset, expression: str, sides: Sequence[str]) -> str:
    """With the label that names the side, where the source knows pods only: a cut name does not hold the side's."""
    if not preset.by_pod:
        return expression
    for side in sides:
        expression = f'label_replace({expression}, "{_SIDE}", "{side}", "{preset.side}", "{pods_expression(side)}")'
    return expression


def _labels(preset: Preset, *others: str) -> str:
    return ",".join([preset.side_label, *filter(None, others)])


def _milliseconds(seconds: float) -> str:
    return f"{max(1, round(1000 * seconds))}ms"
