"""Asks Prometheus why metrics give no load: once for each source, and for no scaler that has one."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ml_lifecycle.scaling.budget import each_within
from ml_lifecycle.scaling.load_sources import SOURCES
from ml_lifecycle.scaling.missing_loads import Seen, answered, asked_for, question, service_of, source_of

if TYPE_CHECKING:
    from ml_lifecycle.prometheus.client import PrometheusClient
    from ml_lifecycle.scaling.resource import Scaler, Source

logger = logging.getLogger(__name__)


async def look_for(
    scalers: Sequence[Scaler], prometheus: PrometheusClient, now: float, seconds: float
) -> dict[Source, Seen]:
    """What there is of the counters of these scalers' sources at `now` (Unix seconds), as far as it was said in time.

    That it is not known is logged, and no failure.
    """
    served: dict[Source, list[Scaler]] = defaultdict(list)
    for scaler in scalers:
        if (source := source_of(scaler)) is not None:
            served[source].append(scaler)

    async def ask(source: Source) -> Seen:
        services = asked_for(map(service_of, served[source]))
        return answered(await prometheus.instant(question(SOURCES[source], services), now), services)

    found, errors = await each_within(seconds, {source: ask(source) for source in served})
    for source, error in errors.items():
        logger.warning("what Prometheus has of %s could not be found out: %r", source, error)
    return found
