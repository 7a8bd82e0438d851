"""What a training cost, on its MLflow run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ml_lifecycle.tracking.client import TrackingClient

log = logging.getLogger(__name__)

OF_CLUSTER = "cost.cluster."


def record_cost(client: TrackingClient, run_id: str, deletion: Mapping[str, Any] | None) -> None:
    """Set the run's metric `cost` to the sum over all its clusters: a cleared training makes another. Safe to repeat.

    deletion: what DeleteClusterOperator returned; None where the deletion failed.
    """
    if deletion is None or deletion["cost"] is None:
        unknown = deletion["cost_unknown"] if deletion else "the cluster's deletion failed"
        client.tag_run(run_id, {"cost.unknown": unknown})
        log.warning("What the run cost is unknown: %s", unknown)
        return
    if deletion["cluster_id"]:
        client.tag_run(run_id, {f"{OF_CLUSTER}{deletion['cluster_id']}": f"{deletion['cost']:.6g}"})
    tags = client.run_tags(run_id)
    total = sum(float(value) for key, value in tags.items() if key.startswith(OF_CLUSTER))
    client.log_metric(run_id, "cost", total)
    log.info("The run cost %.2f %s", total, deletion["currency"])
