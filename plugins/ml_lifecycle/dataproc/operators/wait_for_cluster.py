"""Waits for a cluster."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ml_lifecycle.dataproc.exceptions import ClusterFailedError, ClusterTimeoutError
from ml_lifecycle.dataproc.operators.base import DataprocOperator
from ml_lifecycle.dataproc.triggers import ClusterRunningTrigger
from ml_lifecycle.params import refusing

if TYPE_CHECKING:
    from airflow.sdk import Context


class WaitForClusterOperator(DataprocOperator):
    """Waits until a cluster is running; returns its id.

    :param operation_id: of its creation, for the reason when it fails; may be empty.
    :param timeout_minutes: a cluster not running by then fails the task; its teardown deletes it.
    """

    template_fields: Sequence[str] = ("cluster_id", "operation_id", "timeout_minutes", "yandex_conn_id", "poll_seconds")

    def __init__(
        self, *, cluster_id: str, operation_id: str = "", timeout_minutes: float | str = 30.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.cluster_id = cluster_id
        self.operation_id = operation_id
        self.timeout_minutes = timeout_minutes

    def execute(self, context: Context) -> str:
        """Wait; see `resume`."""
        trigger = ClusterRunningTrigger(
            yandex_conn_id=self.yandex_conn_id,
            cluster_id=self.cluster_id,
            operation_id=self.operation_id or "",
            deadline=time.time() + float(self.timeout_minutes) * 60,
            poll_seconds=self.poll_seconds,
        )
        return str(self.wait_for(trigger, context))

    def resume(self, context: Context, event: Mapping[str, Any]) -> str:  # noqa: ARG002 (Airflow's signature)
        """The id of the running cluster; ClusterFailedError and ClusterTimeoutError end the task for good."""
        with refusing():
            if event["status"] == "failed":
                raise ClusterFailedError(event["cluster_id"], event["message"])
            if event["status"] == "timeout":
                raise ClusterTimeoutError(event["cluster_id"], float(self.timeout_minutes))
        self.log.info("Cluster %s is running", event["cluster_id"])
        return str(event["cluster_id"])
