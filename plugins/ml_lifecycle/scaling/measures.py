"""Capacity and lead time where the spec leaves them to be measured. Pure.

Capacity: by the utilization law (Denning and Buzen 1978) the busy share of a replica grows with its load, so that

    capacity = load / (replicas * CPU used / CPU limit)

whatever the load is. It is taken over a day, weighted by how busy the replicas were; it says nothing of a service whose
limit is not the CPU. Lead time: the 90th percentile of what the target's own pods took from creation to ready.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ml_lifecycle.scaling.manifests import sections, text
from ml_lifecycle.scaling.queries import load_query
from ml_lifecycle.scaling.resource import Scaler, ScalerSpec

AGAIN_AFTER = timedelta(hours=1)
LEAD_QUANTILE = 0.9
LONGEST_START_SECONDS = 1800  # a pod that was ready later than that after its creation has been unready meanwhile


@dataclass(frozen=True)
class Measures:
    """What was measured; None where the spec gives it, or nothing is known yet."""

    capacity: float | None = None
    lead_seconds: int | None = None


def is_due(status: Mapping[str, Any], now: datetime) -> bool:
    """Whether the measures are to be taken anew; `now` is aware."""
    measured = status.get("measuredTime")
    return measured is None or abs(now - datetime.fromisoformat(measured)) >= AGAIN_AFTER


def measured_before(status: Mapping[str, Any]) -> Measures:
    """What an earlier pass measured."""
    return Measures(status.get("capacityPerReplica"), status.get("leadTimeSeconds"))


def with_measures(scaler: Scaler, measures: Measures) -> Scaler:
    """The scaler with the measures in the places that its spec leaves open."""
    if scaler.spec is None or not scaler.spec.measures:
        return scaler
    given = scaler.spec
    spec = given.model_copy(
        update={
            "capacity_per_replica": given.capacity_per_replica or measures.capacity,
            "lead_time_seconds": measures.lead_seconds if given.lead_time_seconds is None else given.lead_time_seconds,
        }
    )
    return dataclasses.replace(scaler, spec=spec)


def capacity_query(scaler: Scaler, spec: ScalerSpec, deployment: str) -> str:
    """The load at which one replica of `deployment` is busy all the time; no series where CPU is not measured."""
    pods = f'namespace="{scaler.namespace}", pod=~"{deployment}-[a-z0-9]+-[a-z0-9]{{5}}"'
    used = f'sum by (namespace, pod) (rate(container_cpu_usage_seconds_total{{{pods}, container!=""}}[5m]))'
    limit = f'sum by (namespace, pod) (kube_pod_container_resource_limits{{{pods}, resource="cpu"}})'
    load = f"sum({load_query(scaler, spec)})"
    return f"avg_over_time({load}[1d:5m]) / avg_over_time(sum({used} / {limit})[1d:5m])"


def lead_seconds(pods: Iterable[Mapping[str, Any]]) -> int | None:
    """From creation to ready, the 90th percentile; None where no pod has started without a hitch."""
    taken = sorted(seconds for seconds in map(_start_seconds, pods) if seconds is not None)
    return taken[math.ceil(LEAD_QUANTILE * len(taken)) - 1] if taken else None


def _start_seconds(pod: Mapping[str, Any]) -> int | None:
    if any(item.get("restartCount") for item in sections(pod, "status", "containerStatuses")):
        return None
    created = _moment(text(pod, "metadata", "creationTimestamp"))
    for condition in sections(pod, "status", "conditions"):
        if condition.get("type") == "Ready" and condition.get("status") == "True":
            ready = _moment(text(condition, "lastTransitionTime"))  # virtual nodes say none
            taken = (ready - created).total_seconds() if ready and created else -1
            return round(taken) if 0 <= taken <= LONGEST_START_SECONDS else None
    return None


def _moment(said: str) -> datetime | None:
    """An aware time; None where there is none."""
    try:
        moment = datetime.fromisoformat(said)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None
