"""Waits for clusters and jobs in the triggerer, or inside the task when `deferrable` is off.

Deadlines are unix seconds, so a trigger that moves to another triggerer keeps them. Triggers only watch: what changes
the cloud is the operators'. Each event carries all that its operator needs to go on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from ml_lifecycle.dataproc.cluster import ClusterStatus
from ml_lifecycle.dataproc.driver_log import DriverLog
from ml_lifecycle.dataproc.exceptions import ApiError, NotFoundError
from ml_lifecycle.dataproc.job import Job

if TYPE_CHECKING:
    from ml_lifecycle.dataproc.client import DataprocClient


class DataprocTrigger(BaseTrigger):
    """A trigger whose keyword arguments are its whole state."""

    def __init__(self, **state: Any) -> None:
        super().__init__()
        self._state = state

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The class path and every keyword argument."""
        kind = type(self)
        return f"{kind.__module__}.{kind.__qualname__}", dict(self._state)


class ClusterRunningTrigger(DataprocTrigger):
    """Waits until a cluster is running.

    Events: `{"status": "running" | "failed" | "timeout", "cluster_id", "message"}`. operation_id may be empty, as for
    a cluster that an earlier try of the task had begun.
    """

    def __init__(
        self,
        *,
        yandex_conn_id: str,
        cluster_id: str,
        operation_id: str,
        deadline: float,
        poll_seconds: float,
    ) -> None:
        super().__init__(
            yandex_conn_id=yandex_conn_id,
            cluster_id=cluster_id,
            operation_id=operation_id,
            deadline=deadline,
            poll_seconds=poll_seconds,
        )
        self.yandex_conn_id = yandex_conn_id
        self.cluster_id = cluster_id
        self.operation_id = operation_id
        self.deadline = deadline
        self.poll_seconds = poll_seconds

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """One event."""
        from ml_lifecycle.dataproc.client import connect

        async with connect(self.yandex_conn_id) as client:
            while True:
                status, message = await self._look(client)
                if status == "waiting" and time.time() >= self.deadline:
                    status = "timeout"
                if status != "waiting":
                    yield TriggerEvent({"status": status, "cluster_id": self.cluster_id, "message": message})
                    return
                await asyncio.sleep(self.poll_seconds)

    async def _look(self, client: DataprocClient) -> tuple[str, str]:
        if self.operation_id:
            operation = await client.operation(self.operation_id)
            if not operation.done:
                return "waiting", ""
            if operation.error:
                return "failed", operation.error
        try:
            cluster = await client.get_cluster(self.cluster_id)
        except NotFoundError:
            return "failed", "it does not exist any more"
        if cluster.status is ClusterStatus.RUNNING:
            return "running", ""
        return ("waiting", "") if cluster.status.coming_up else ("failed", f"it is {cluster.status}")


class ClusterGoneTrigger(DataprocTrigger):
    """Waits until a cluster is deleted.

    Events: `{"status": "gone" | "refused" | "timeout", "cluster_id", "created_at", "message"}`; `refused` when the
    deletion's operation failed.
    """

    def __init__(
        self,
        *,
        yandex_conn_id: str,
        cluster_id: str,
        operation_id: str,
        created_at: float,
        deadline: float,
        poll_seconds: float,
    ) -> None:
        super().__init__(
            yandex_conn_id=yandex_conn_id,
            cluster_id=cluster_id,
            operation_id=operation_id,
            created_at=created_at,
            deadline=deadline,
            poll_seconds=poll_seconds,
        )
        self.yandex_conn_id = yandex_conn_id
        self.cluster_id = cluster_id
        self.operation_id = operation_id
        self.created_at = created_at
        self.deadline = deadline
        self.poll_seconds = poll_seconds

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """One event."""
        from ml_lifecycle.dataproc.client import connect

        async with connect(self.yandex_conn_id) as client:
            while True:
                status, message = await self._look(client)
                if status == "waiting" and time.time() >= self.deadline:
                    status = "timeout"
                if status != "waiting":
                    event = {"status": status, "cluster_id": self.cluster_id, "message": message}
                    yield TriggerEvent(event | {"created_at": self.created_at, "deadline": self.deadline})
                    return
                await asyncio.sleep(self.poll_seconds)

    async def _look(self, client: DataprocClient) -> tuple[str, str]:
        if await client.find_cluster(self.cluster_id) is None:
            return "gone", ""
        operation = await client.operation(self.operation_id)
        return ("refused", operation.error) if operation.error else ("waiting", "")


class JobEndedTrigger(DataprocTrigger):
    """Waits until a job has ended, its driver's output going into the task log meanwhile.

    Events: `{"status": "ended" | "lingering" | "timeout" | "gone", "cluster_id", "job_id", "job_name", "job_status",
    "message", "seconds", "last_lines"}`. `lingering`: the result has been there for grace_seconds but the driver has
    not ended. The log begins anew when the trigger moves to another triggerer.
    """

    def __init__(
        self,
        *,
        yandex_conn_id: str,
        cluster_id: str,
        job_id: str,
        job_name: str,
        operation_id: str,
        result_uri: str,
        data_lake_conn_id: str | None,
        grace_seconds: float,
        deadline: float,
        poll_seconds: float,
    ) -> None:
        super().__init__(
            yandex_conn_id=yandex_conn_id,
            cluster_id=cluster_id,
            job_id=job_id,
            job_name=job_name,
            operation_id=operation_id,
            result_uri=result_uri,
            data_lake_conn_id=data_lake_conn_id,
            grace_seconds=grace_seconds,
            deadline=deadline,
            poll_seconds=poll_seconds,
        )
        self.yandex_conn_id = yandex_conn_id
        self.cluster_id = cluster_id
        self.job_id = job_id
        self.job_name = job_name
        self.operation_id = operation_id
        self.result_uri = result_uri
        self.data_lake_conn_id = data_lake_conn_id
        self.grace_seconds = grace_seconds
        self.deadline = deadline
        self.poll_seconds = poll_seconds
        self._driver_log = DriverLog()
        self._result_seen: float | None = None

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """One event."""
        from ml_lifecycle.dataproc.client import connect

        async with connect(self.yandex_conn_id) as client:
            while True:
                try:
                    job = await client.get_job(self.cluster_id, self.job_id)
                except NotFoundError as error:
                    yield self._event("gone", None, str(error))
                    return
                try:
                    await self._follow_log(client, ended=job.status.ended)
                except ApiError as error:
                    # A log that cannot be read (yet) decides nothing about the job.
                    self.log.warning("%s: no log: %s", self.job_name, error)
                status = "ended" if job.status.ended else await self._overdue()
                if status:
                    yield self._event(status, job, await self._operation_error(client) if status == "ended" else "")
                    return
                await asyncio.sleep(self.poll_seconds)

    async def _follow_log(self, client: DataprocClient, *, ended: bool) -> None:
        while True:
            page = await client.job_log(self.cluster_id, self.job_id, self._driver_log.page_token)
            for line in self._driver_log.feed(page.content, page.next_token):
                self.log.info("%s | %s", self.job_name, line)
            if not page.next_token:
                break
        if ended:
            for line in self._driver_log.close():
                self.log.info("%s | %s", self.job_name, line)

    async def _overdue(self) -> str:
        if time.time() >= self.deadline:
            return "timeout"
        if self._result_seen is None and await self._result_exists():
            self._result_seen = time.monotonic()
        waited = 0.0 if self._result_seen is None else time.monotonic() - self._result_seen
        return "lingering" if self._result_seen is not None and waited >= self.grace_seconds else ""

    async def _result_exists(self) -> bool:
        from asgiref.sync import sync_to_async

        from ml_lifecycle.data_lake.client import DataLake

        lake = DataLake(self.result_uri.rpartition("/")[0], self.data_lake_conn_id)
        return await sync_to_async(lake.exists)(self.result_uri)

    async def _operation_error(self, client: DataprocClient) -> str:
        """Why it ended, where the operation says so; `JobService.Get` alone decides whether it succeeded."""
        if not self.operation_id:
            return ""
        try:
            return (await client.operation(self.operation_id)).error
        except NotFoundError:
            return ""

    def _event(self, status: str, job: Job | None, message: str) -> TriggerEvent:
        return TriggerEvent(
            {
                "status": status,
                "cluster_id": self.cluster_id,
                "job_id": self.job_id,
                "job_name": self.job_name,
                "job_status": job.status.value if job else "",
                "message": message,
                "seconds": job.seconds if job else None,
                "last_lines": list(self._driver_log.last_lines),
            }
        )
