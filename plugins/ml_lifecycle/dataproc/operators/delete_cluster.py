"""Deletes the cluster of a run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ml_lifecycle.dataproc import cluster as clusters
from ml_lifecycle.dataproc.cleanup import begin_deletion
from ml_lifecycle.dataproc.cluster import Cluster
from ml_lifecycle.dataproc.cost import Amount
from ml_lifecycle.dataproc.exceptions import ClusterNotDeletedError
from ml_lifecycle.dataproc.operators.base import DataprocOperator
from ml_lifecycle.dataproc.triggers import ClusterGoneTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context

    from ml_lifecycle.dataproc.client import DataprocClient

NO_PRICE = {"currency": "", "least": None, "most": None, "unknown": "no hourly_price was given"}


class DeleteClusterOperator(DataprocOperator):
    """Cancels a cluster's live jobs, deletes it, and sees that it is gone. Make it the teardown of submit.

    Absent is success. Without an id (the task that submitted it died first) it is found by its name. Returns
    `{"cluster_id", "cluster_name", "existed", "created_at", "deleted_at", "lived_seconds", "cost", "cost_least",
    "currency", "cost_unknown"}`: cost is the most that it may have cost, None where cost_unknown says why.

    :param created_at: unix seconds, for the cost of a cluster that is gone already; an earlier try or clean_up did it.
    :param hourly_price: `ml_lifecycle.dataproc.cost.Amount` as JSON.
    :param timeout_minutes: how long a refused or slow deletion is tried again before ClusterNotDeletedError.
    """

    template_fields: Sequence[str] = (
        "cluster_id",
        "cluster_name",
        "folder_id",
        "created_at",
        "hourly_price",
        "timeout_minutes",
        "yandex_conn_id",
        "poll_seconds",
    )

    def __init__(
        self,
        *,
        cluster_id: str | None,
        cluster_name: str,
        folder_id: str | None = None,
        created_at: float | str | None = None,
        hourly_price: dict[str, Any] | None = None,
        timeout_minutes: float | str = 30.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.cluster_id = cluster_id
        self.cluster_name = cluster_name
        self.folder_id = folder_id
        self.created_at = created_at
        self.hourly_price = hourly_price
        self.timeout_minutes = timeout_minutes

    def execute(self, context: Context) -> dict[str, Any]:
        """Begin the deletion, then wait; see `resume`."""
        return self._delete(context, time.time() + float(self.timeout_minutes) * 60)

    def _delete(self, context: Context, deadline: float) -> dict[str, Any]:
        dag_run: Any = context["dag_run"]
        labels = clusters.cluster_labels(dag_run.dag_id, dag_run.run_id, 0, {})

        async def begin(client: DataprocClient) -> tuple[Cluster, str] | None:
            found = await self._find(client, labels)
            if found is None:
                return None
            return found, await begin_deletion(client, found, deadline=deadline, poll_seconds=self.poll_seconds)

        begun = self._with_client(begin)
        if begun is None:
            self.log.info("Cluster %s does not exist: nothing to delete", self.cluster_id or self.cluster_name)
            created_at = float(self.created_at) if self.created_at else None
            return self._report(existed=False, cluster_id=self.cluster_id, created_at=created_at)
        found, operation_id = begun
        if not operation_id:
            return self._report(existed=True, cluster_id=found.id, created_at=found.created_at)
        trigger = ClusterGoneTrigger(
            yandex_conn_id=self.yandex_conn_id,
            cluster_id=found.id,
            operation_id=operation_id,
            created_at=found.created_at,
            deadline=deadline,
            poll_seconds=self.poll_seconds,
        )
        return dict(self.wait_for(trigger, context))

    async def _find(self, client: DataprocClient, labels: Mapping[str, str]) -> Cluster | None:
        if self.cluster_id:
            return await client.find_cluster(self.cluster_id)
        folder_id = self.folder_id or client.folder_id
        found = await client.find_cluster_by_name(folder_id, self.cluster_name) if folder_id else None
        # Found by name alone, it must be this run's: a namesake of somebody else's is not ours to delete.
        return found if found is not None and clusters.same_run(found, labels) else None

    def resume(self, context: Context, event: Mapping[str, Any]) -> dict[str, Any]:
        """What was deleted; a refused deletion is tried again until time is up."""
        if event["status"] == "gone":
            return self._report(existed=True, cluster_id=event["cluster_id"], created_at=event["created_at"])
        if event["status"] == "refused" and time.time() + self.poll_seconds < event["deadline"]:
            self.log.warning("Deleting %s was refused (%s): trying again", event["cluster_id"], event["message"])
            time.sleep(self.poll_seconds)
            return self._delete(context, event["deadline"])
        reason = event["message"] or f"not gone after {self.timeout_minutes} minutes"
        raise ClusterNotDeletedError(event["cluster_id"], reason)

    def _report(self, *, existed: bool, cluster_id: str | None, created_at: float | None) -> dict[str, Any]:
        """Of a cluster that was gone already, all until now counts: it may have cost less, never more."""
        deleted_at = time.time()
        lived = deleted_at - created_at if cluster_id and created_at else 0.0
        cost = Amount(**(self.hourly_price or NO_PRICE)).times(lived / 3600)
        if not cluster_id:
            cost = Amount(cost.currency, 0.0, 0.0)
        elif not created_at:
            cost = Amount(cost.currency, None, None, f"when cluster {cluster_id} was created is not known")
        else:
            self.log.info(
                "Cluster %s (%s) is deleted; it lived %.0f s, cost %s", self.cluster_name, cluster_id, lived, cost
            )
        return {
            "cluster_id": cluster_id,
            "cluster_name": self.cluster_name,
            "existed": existed,
            "created_at": created_at,
            "deleted_at": deleted_at if cluster_id else None,
            "lived_seconds": round(lived, 1),
            "cost": cost.most,
            "cost_least": cost.least,
            "currency": cost.currency,
            "cost_unknown": cost.unknown,
        }
