"""Reads what the spec leaves to be measured: once an hour, from Prometheus and the target's own pods."""

from __future__ import annotations

import logging
import math
from datetime import datetime
from typing import TYPE_CHECKING

from ml_lifecycle.prometheus.answer import quoted
from ml_lifecycle.prometheus.exceptions import PrometheusError
from ml_lifecycle.scaling.exceptions import MetricError
from ml_lifecycle.scaling.measures import (
    ENOUGH_MOMENTS,
    Measures,
    capacity_query,
    is_due,
    lead_seconds,
    measured_before,
    moments_query,
)
from ml_lifecycle.scaling.queries import Services

if TYPE_CHECKING:
    from ml_lifecycle.prometheus.client import PrometheusClient
    from ml_lifecycle.scaling.client import ScalerClient, Target
    from ml_lifecycle.scaling.resource import Scaler, ScalerSpec

logger = logging.getLogger(__name__)


async def read_measures(
    scaler: Scaler,
    target: Target,
    client: ScalerClient,
    prometheus: PrometheusClient,
    now: datetime,
    services: Services,
) -> Measures:
    """What is measured now or was before; MetricError where the capacity is needed and not known."""
    spec, before = scaler.spec, measured_before(scaler.status)
    if spec is None or not spec.measures:
        return Measures()
    if not is_due(scaler.status, now) and (spec.capacity_per_replica or before.capacity):
        return before
    capacity, lead, measured_of = None, None, ""
    if spec.lead_time_seconds is None:
        lead = lead_seconds(await client.pods(target)) or before.lead_seconds
    if spec.capacity_per_replica is None:
        capacity, measured_of = await _capacity(scaler, spec, target, prometheus, now, services)
    return Measures(capacity, lead, measured_of)


async def _capacity(
    scaler: Scaler, spec: ScalerSpec, target: Target, prometheus: PrometheusClient, now: datetime, services: Services
) -> tuple[float, str]:
    """The capacity, and the object of which it was measured; MetricError where nothing is known of it."""
    before = measured_before(scaler.status)

    async def ask(query: str) -> float:
        found = await prometheus.instant(query, now.timestamp())
        return next((one.value for one in found if math.isfinite(one.value) and one.value > 0), 0.0)

    query = capacity_query(scaler, spec, target.deployment, services)
    try:
        capacity = await ask(query)
        if before.capacity is not None and capacity:
            moments = await ask(moments_query(scaler, spec, target.deployment, services))
            capacity = capacity if moments >= ENOUGH_MOMENTS else 0.0
    except PrometheusError as error:
        if before.capacity is None:
            raise
        logger.warning("%s: what was measured before counts on: %s", scaler, error)
        capacity = 0.0
    if capacity:
        return capacity, str(target)
    if before.capacity is None:
        raise MetricError(
            f"capacityPerReplica cannot be measured: {quoted(query)} gives nothing. It needs "
            "container_cpu_usage_seconds_total, kube_pod_container_resource_limits, a CPU limit and some load; or give "
            "capacityPerReplica"
        )
    return before.capacity, before.capacity_of
