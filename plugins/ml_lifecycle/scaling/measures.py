"""Capacity and lead time where the spec leaves them to be measured. Pure.

Capacity: by the utilization law (Denning and Buzen 1978) the busy share of a replica grows with its load, so that

    capacity = load / (replicas * CPU used / CPU limit)

whatever the load is. It is taken over a day, weighted by how busy the replicas were, of the revision that serves now
and of the moments at which it served alone; until these make two hours, what was measured before counts on. It says
nothing of a service whose limit is not the CPU. Lead time: the 90th percentile of what the target's own pods took from
creation to ready.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

from ml_lifecycle.kubernetes.pod_names import pods_of
from ml_lifecycle.scaling.load_sources import begins_alike, service_deployments
from ml_lifecycle.scaling.manifests import sections, text
from ml_lifecycle.scaling.queries import Services, load_query, newest_revision
from ml_lifecycle.scaling.resource import INFERENCE_SERVICE_KIND, Scaler, ScalerSpec

AGAIN_AFTER = timedelta(hours=1)
MEASURED_OVER = "1d:5m"
ENOUGH_MOMENTS = 24  # two hours; what was measured of fewer does not take the place of what was measured before
LEAD_QUANTILE = 0.9
LONGEST_START_SECONDS = 1800  # a pod that was ready later than that after its creation has been unready meanwhile


@dataclass(frozen=True)
class Measures:
    """What was measured; None where the spec gives it, or nothing is known yet."""

    capacity: float | None = None
    lead_seconds: int | None = None
    capacity_of: str = ""  # the object that was measured; empty where that is not known


def is_due(status: Mapping[str, Any], now: datetime) -> bool:
    """Whether the measures are to be taken anew; `now` is aware."""
    measured = status.get("measuredTime")
    return measured is None or abs(now - datetime.fromisoformat(measured)) >= AGAIN_AFTER


def measured_before(status: Mapping[str, Any]) -> Measures:
    """What an earlier pass measured."""
    return Measures(status.get("capacityPerReplica"), status.get("leadTimeSeconds"), status.get("capacityOf", ""))


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


def capacity_query(scaler: Scaler, spec: ScalerSpec, deployment: str, services: Services = MappingProxyType({})) -> str:
    """The load at which one replica of `deployment` is busy all the time; no series where CPU is not measured.

    Both are taken at the moments at which this Deployment had pods and no other of the same service had: only then it
    is known whose load it was.
    """
    load, busy, others = _measured(scaler, spec, deployment, services)
    return (
        f"sum_over_time(({load} and on() {busy}{others})[{MEASURED_OVER}]) / "
        f"sum_over_time(({busy} and on() {load}{others})[{MEASURED_OVER}])"
    )


def moments_query(scaler: Scaler, spec: ScalerSpec, deployment: str, services: Services = MappingProxyType({})) -> str:
    """The number of moments of which `capacity_query` knows."""
    load, busy, others = _measured(scaler, spec, deployment, services)
    return f"count_over_time(({load} and on() {busy}{others})[{MEASURED_OVER}])"


def _measured(scaler: Scaler, spec: ScalerSpec, deployment: str, services: Services) -> tuple[str, str, str]:
    """The load, the busy replicas, and what takes out the moments of other Deployments of the same service."""
    own = pods_of([deployment])
    pods = f'namespace="{scaler.namespace}", pod=~"{own}"'
    used = f'sum by (namespace, pod) (rate(container_cpu_usage_seconds_total{{{pods}, container!=""}}[5m]))'
    limit = f'sum by (namespace, pod) (kube_pod_container_resource_limits{{{pods}, resource="cpu"}})'
    load, busy = f"sum({load_query(scaler, spec, services)})", f"sum({used} / {limit})"
    if spec.target_ref.kind != INFERENCE_SERVICE_KIND:
        return load, busy, ""
    service = spec.target_ref.name
    number = max(newest_revision(services.get((scaler.namespace, service)) or {}), _number(deployment))
    theirs = pods_of(
        name
        for place, other in services
        if place == scaler.namespace and begins_alike(service, other)
        for name in service_deployments(other, 1)
    )
    chosen = [
        f'namespace="{scaler.namespace}"',
        f'pod=~"{pods_of(service_deployments(service, number))}"',
        *(f'pod!~"{names}"' for names in (own, theirs) if names),
    ]
    rate = f'rate(container_cpu_usage_seconds_total{{{", ".join(chosen)}, container!=""}}[5m])'
    return load, busy, f" unless on() sum({rate})"


def _number(deployment: str) -> int:
    number = deployment.removesuffix("-deployment").rpartition("-")[2]
    return int(number) if number.isascii() and number.isdigit() else 1


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
