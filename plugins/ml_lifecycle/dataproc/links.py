"""Links from a task to its cluster's page in Yandex's console."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.models.taskinstancekey import TaskInstanceKey
    from airflow.sdk import BaseOperator

LINK_KEY = "dataproc_cluster_link"


class ClusterLink(BaseOperatorLink):
    """The cluster in Yandex's console."""

    name = "Data Processing cluster"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002 (the base's)
        """The address that `persist` kept, or nothing where the task did not get that far."""
        from airflow.sdk.execution_time.xcom import XCom

        return XCom.get_value(key=LINK_KEY, ti_key=ti_key) or ""

    @staticmethod
    def persist(context: Any, address: str) -> None:
        """Keep the address for the UI."""
        context["ti"].xcom_push(key=LINK_KEY, value=address)
