"""Cancels jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ml_lifecycle.dataproc.cleanup import cancel_live_jobs
from ml_lifecycle.dataproc.operators.base import DataprocOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from ml_lifecycle.dataproc.client import DataprocClient


class CancelJobsOperator(DataprocOperator):
    """Cancels the live jobs of a cluster; returns the ids of those that were live. An absent cluster has none."""

    template_fields: Sequence[str] = ("cluster_id", "yandex_conn_id", "poll_seconds")

    def __init__(self, *, cluster_id: str | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cluster_id = cluster_id

    def execute(self, context: Context) -> list[str]:  # noqa: ARG002
        """Cancel them and see them end."""
        if not self.cluster_id:
            return []
        cluster_id = self.cluster_id

        async def cancel(client: DataprocClient) -> list[str]:
            return await cancel_live_jobs(client, cluster_id, poll_seconds=self.poll_seconds)

        return self._with_client(cancel)
