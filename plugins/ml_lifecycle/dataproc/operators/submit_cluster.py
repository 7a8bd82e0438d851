"""Begins a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ml_lifecycle.dataproc import cluster as clusters
from ml_lifecycle.dataproc.cleanup import delete_and_verify
from ml_lifecycle.dataproc.cluster import Cluster
from ml_lifecycle.dataproc.exceptions import AlreadyExistsError, ClusterNameTakenError, ClusterRefusedError
from ml_lifecycle.dataproc.links import ClusterLink
from ml_lifecycle.dataproc.operators.base import DataprocOperator
from ml_lifecycle.settings import Cluster as ClusterSettings

if TYPE_CHECKING:
    from airflow.sdk import Context

    from ml_lifecycle.dataproc.client import DataprocClient

OLD_CLUSTER_SECONDS = 1800.0


class SubmitClusterOperator(DataprocOperator):
    """Begins a cluster and returns its id at once; XCom also gets `cluster_id`, `operation_id` and `created_at`.

    A second try of the task, or a resumed run, goes on with the cluster that the first one made: names are unique in a
    folder, and labels say whose the cluster is. The labels managed-by, dag, run and expires-at are added.

    :param cluster: `Settings.cluster` as JSON.
    :param cluster_name: see `ml_lifecycle.dataproc.cluster.cluster_name`.
    :param labels: further labels, `model` for one; values are sanitised.
    """

    template_fields: Sequence[str] = ("cluster", "cluster_name", "labels", "yandex_conn_id", "poll_seconds")
    template_fields_renderers: ClassVar[dict[str, str]] = {"cluster": "json", "labels": "json"}
    operator_extra_links = (ClusterLink(),)

    def __init__(
        self, *, cluster: dict[str, Any] | str, cluster_name: str, labels: dict[str, str] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.cluster = cluster
        self.cluster_name = cluster_name
        self.labels = labels or {}

    def execute(self, context: Context) -> str:
        """Find or create; the cluster's id."""
        settings = ClusterSettings.model_validate(self.cluster)
        dag_run: Any = context["dag_run"]
        expires_at = time.time() + settings.time_to_live_hours * 3600
        labels = clusters.cluster_labels(dag_run.dag_id, dag_run.run_id, expires_at, self.labels)

        def remember(cluster_id: str, operation_id: str, created_at: float) -> None:
            context["ti"].xcom_push(key="operation_id", value=operation_id)
            context["ti"].xcom_push(key="cluster_id", value=cluster_id)
            context["ti"].xcom_push(key="created_at", value=created_at)

        async def submit(client: DataprocClient) -> tuple[str, str]:
            return await self._submit(client, settings, labels, remember)

        folder_id, cluster_id = self._with_client(submit)
        ClusterLink.persist(context, clusters.console_link(folder_id, cluster_id))
        return cluster_id

    async def _submit(
        self,
        client: DataprocClient,
        settings: ClusterSettings,
        labels: Mapping[str, str],
        remember: Callable[[str, str, float], None],
    ) -> tuple[str, str]:
        settings = _with_connection_defaults(settings, client)
        folder_id = settings.folder_id or ""
        if found := clusters.problems(settings, self.cluster_name, labels, folder_id, await client.list_presets()):
            raise ClusterRefusedError(found)
        existing = await client.find_cluster_by_name(folder_id, self.cluster_name)
        if existing is not None and (adopted := await self._adopt(client, existing, labels)):
            remember(adopted.id, "", adopted.created_at)
            return folder_id, adopted.id
        request = clusters.create_request(settings, self.cluster_name, labels, folder_id)
        try:
            started = await client.create_cluster(request)
        except AlreadyExistsError:
            winner = await client.find_cluster_by_name(folder_id, self.cluster_name)
            if winner is None or await self._adopt(client, winner, labels) is None:
                raise
            remember(winner.id, "", winner.created_at)
            return folder_id, winner.id
        remember(started.resource_id, started.operation_id, time.time())
        self.log.info("Cluster %s (%s) is being created", self.cluster_name, started.resource_id)
        return folder_id, started.resource_id

    async def _adopt(self, client: DataprocClient, found: Cluster, labels: Mapping[str, str]) -> Cluster | None:
        """`found` if it can be gone on with; None once it has been cleared away; ClusterNameTakenError."""
        if not clusters.same_run(found, labels):
            owner = f"dag {found.labels.get('dag', '?')}, run {found.labels.get('run', '?')}"
            raise ClusterNameTakenError(found.name, found.id, owner if found.is_ours else "somebody else")
        if found.status.coming_up:
            self.log.info("Cluster %s (%s) of this run is %s: going on with it", found.name, found.id, found.status)
            return found
        self.log.info("Cluster %s (%s) of this run is %s: deleting it first", found.name, found.id, found.status)
        await delete_and_verify(
            client, found, deadline=time.time() + OLD_CLUSTER_SECONDS, poll_seconds=self.poll_seconds
        )
        return None


def _with_connection_defaults(settings: ClusterSettings, client: DataprocClient) -> ClusterSettings:
    """What the settings leave open and the connection knows."""
    keys = settings.ssh_public_keys or ((client.ssh_public_key,) if client.ssh_public_key else ())
    return settings.model_copy(
        update={
            "folder_id": settings.folder_id or client.folder_id,
            "service_account_id": settings.service_account_id or client.service_account_id,
            "ssh_public_keys": keys,
        }
    )
