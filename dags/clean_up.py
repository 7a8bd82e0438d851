"""Every ten minutes: ends what a crash left behind, so that nothing costs money or traffic unseen."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, task, task_group

from ml_lifecycle.dataproc.operators import SweepClustersOperator
from ml_lifecycle.kserve.operators import SweepRolloutsOperator

DOC = """
### Clean up

- **`sweep_clusters`** deletes our clusters (label `managed-by=ml-lifecycle`) past their label `expires-at`, in every
  folder that settings name.
- **`sweep_rollouts`** closes rollouts whose lease nobody has renewed for ten minutes, as `rollout.on_deadline` says, in
  the namespaces that settings name, and **`follow_rollouts`** lets aliases and tags follow; it is skipped where nothing
  was closed.
- **Param `dry_run`**: only say what would be done.
"""

with DAG(
    "clean_up",
    schedule=timedelta(minutes=10),
    catchup=False,
    max_active_runs=1,
    params={"dry_run": Param(default=False, type="boolean", description="Only say what would be deleted and closed")},
    default_args={
        "owner": "ml-platform",
        "retries": 1,
        "retry_delay": timedelta(seconds=15),
        "execution_timeout": timedelta(minutes=15),
    },
    tags=["ml-lifecycle", "clean-up"],
    description="Deletes clusters past their time to live and closes abandoned rollouts",
    doc_md=DOC,
) as dag:

    @task
    def find_clouds() -> list[dict[str, Any]]:
        """Each cloud folder that the settings of any model name."""
        from ml_lifecycle.settings import places
        from ml_lifecycle.settings_variable import read_variable

        found = places(read_variable())["clouds"]
        return [{"yandex_conn_id": connection, "folder_id": folder} for connection, folder in found]

    @task
    def find_serving_clusters() -> list[dict[str, Any]]:
        """Each serving cluster and the namespaces in it that the settings of any model name."""
        from ml_lifecycle.settings import places
        from ml_lifecycle.settings_variable import read_variable

        found: dict[str, list[str]] = {}
        for connection, namespace in places(read_variable())["kubernetes"]:
            found.setdefault(connection, []).append(namespace)
        return [{"kubernetes_conn_id": connection, "namespaces": names} for connection, names in found.items()]

    SweepClustersOperator.partial(task_id="sweep_clusters", dry_run="{{ params.dry_run }}").expand_kwargs(find_clouds())

    @task
    def follow_rollouts(reports: list[dict[str, Any]]) -> None:
        """Aliases and tags agree with what serves now."""
        from ml_lifecycle.tracking import rollout_aliases

        rollout_aliases.follow_rollouts(reports)

    @task_group(prefix_group_id=False)
    def abandoned_rollouts(kubernetes_conn_id: str, namespaces: list[str]) -> None:
        """Of one serving cluster."""
        swept = SweepRolloutsOperator(
            task_id="sweep_rollouts",
            kubernetes_conn_id=kubernetes_conn_id,
            namespaces=namespaces,
            dry_run="{{ params.dry_run }}",
            # A Lease that may have expired is watched for as long as it lasts; then KServe has to follow.
            execution_timeout=timedelta(minutes=45),
        )
        follow_rollouts(swept.output)

    abandoned_rollouts.expand_kwargs(find_serving_clusters())
