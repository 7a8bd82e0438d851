"""Reads what the spec leaves to be measured: once an hour, from Prometheus and the target's own pods."""

from __future__ import annotations

import math
from datetime import datetime
from typing import TYPE_CHECKING

from ml_lifecycle.prometheus.exceptions import PrometheusError
from ml_lifecycle.scaling.exceptions import MetricError
from ml_lifecycle.scaling.measures import Measures, capacity_query, is_due, lead_seconds, measured_before

if TYPE_CHECKING:
    from ml_lifecycle.prometheus.client import PrometheusClient
    from ml_lifecycle.scaling.client import ScalerClient, Target
    from ml_lifecycle.scaling.resource import Scaler


async def read_measures(
    scaler: Scaler, target: Target, client: ScalerClient, prometheus: PrometheusClient, now: datetime
) -> Measures:
    """What is measured now or was before; MetricError where the capacity is needed and not known."""
    spec, before = scaler.spec, measured_before(scaler.status)
    if spec is None or not spec.measures:
        return Measures()
    if not is_due(scaler.status, now) and (spec.capacity_per_replica or before.capacity):
        return before
    capacity, lead = None, None
    if spec.lead_time_seconds is None:
        lead = lead_seconds(await client.pods(target)) or before.lead_seconds
    if spec.capacity_per_replica is None:
        query = capacity_query(scaler, spec, target.deployment)
        try:
            found = await prometheus.instant(query, now.timestamp())
        except PrometheusError:
            if before.capacity is None:
                raise
            found = []
        values = [sample.value for sample in found if math.isfinite(sample.value) and sample.value > 0]
        capacity = values[0] if values else before.capacity
        if capacity is None:
            raise MetricError(
                f"capacityPerReplica cannot be measured: {query!r} gives nothing. It needs container_cpu_usage_seconds_"
                "total, kube_pod_container_resource_limits, a CPU limit and some load; or give capacityPerReplica"
            )
    return Measures(capacity, lead)
