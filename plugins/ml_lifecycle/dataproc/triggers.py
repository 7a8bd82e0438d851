"""Waits for clusters and jobs in the triggerer, or inside the task when `deferrable` is off.

Deadlines are unix seconds, so a trigger that moves to another triggerer keeps them. Triggers only watch: what changes
the cloud is the operators'. An event carries its trigger's whole state, `status` and `message`, and so all that the
operator needs to go on.
"""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import TriggerEvent

from ml_lifecycle.dataproc.cluster import ClusterStatus
from ml_lifecycle.dataproc.driver_log import DriverLog
from ml_lifecycle.dataproc.exceptions import ApiError, NotFoundError
from ml_lifecycle.dataproc.job import Job
from ml_lifecycle.deferral import BookedTrigger

if TYPE_CHECKING:
    from ml_lifecycle.dataproc.client import DataprocClient


class DataprocTrigger(BookedTrigger):
    """Looks every `poll_seconds` until `_look` answers with an event.

    The keyword arguments are the whole state: what is serialized, and part of the event.
    """

    def __init__(
        self,
        *,
        yandex_conn_id: str,
        cluster_id: str,
        operation_id: str,
        deadline: float,
        poll_seconds: float,
        not_before: float = 0.0,
        **more: Any,
    ) -> None:
        super().__init__(not_before=not_before)
        self.yandex_conn_id = yandex_conn_id
        self.cluster_id = cluster_id
        self.operation_id = operation_id
        self.deadline = deadline
        self.poll_seconds = poll_seconds
        self._state = {
            "yandex_conn_id": yandex_conn_id,
            "cluster_id": cluster_id,
            "operation_id": operation_id,
            "deadline": deadline,
            "poll_seconds": poll_seconds,
            **more,
        }

    def arguments(self) -> dict[str, Any]:
        """The whole state."""
        return dict(self._state)

    async def events(self) -> AsyncIterator[TriggerEvent]:
        """One event."""
        from ml_lifecycle.dataproc.client import connect

        async with connect(self.yandex_conn_id) as client:
            while True:
                if event := await self._look(client):
                    yield event
                    return
                await asyncio.sleep(self.poll_seconds)

    @abstractmethod
    async def _look(self, client: DataprocClient) -> TriggerEvent | None:
        """The event, or None to wait."""

    def _event(self, status: str, message: str = "", **found: Any) -> TriggerEvent:
        return TriggerEvent({**self._state, "status": status, "message": message, **found})

    def _overdue(self) -> TriggerEvent | None:
        return self._event("timeout") if time.time() >= self.deadline else None


class ClusterRunningTrigger(DataprocTrigger):
    """Waits until a cluster is running; its event's status is `running`, `failed` or `timeout`.

    operation_id may be empty, as for a cluster that an earlier try of the task had begun.
    """

    async def _look(self, client: DataprocClient) -> TriggerEvent | None:
        if self.operation_id:
            operation = await client.operation(self.operation_id)
            if not operation.done:
                return self._overdue()
            if operation.error:
                return self._event("failed", operation.error)
        cluster = await client.find_cluster(self.cluster_id)
        if cluster is None:
            return self._event("failed", "it does not exist any more")
        if cluster.status is ClusterStatus.RUNNING:
            return self._event("running")
        return self._overdue() if cluster.status.coming_up else self._event("failed", f"it is {cluster.status}")


class ClusterGoneTrigger(DataprocTrigger):
    """Waits until a cluster is deleted; its event's status is `gone`, `timeout`, or `refused` by the operation."""

    def __init__(self, *, created_at: float, **state: Any) -> None:
        super().__init__(created_at=created_at, **state)

    async def _look(self, client: DataprocClient) -> TriggerEvent | None:
        if await client.find_cluster(self.cluster_id) is None:
            return self._event("gone")
        operation = await client.operation(self.operation_id)
        return self._event("refused", operation.error) if operation.error else self._overdue()


class JobEndedTrigger(DataprocTrigger):
    """Waits until a job has ended, its driver's output going into the task log meanwhile.

    Its event's status is `ended`, `lingering` (the result has been there for grace_seconds but the driver has not
    ended), `timeout`, `expired` (the cluster's time to live is over) or `gone` with its cluster; it adds `job_status`,
    `seconds` and `last_lines`. The log begins anew when the trigger moves to another triggerer.
    """

    def __init__(
        self,
        *,
        job_id: str,
        job_name: str,
        result_uri: str,
        data_lake_conn_id: str | None,
        grace_seconds: float,
        expires_at: float,
        **state: Any,
    ) -> None:
        super().__init__(
            job_id=job_id,
            job_name=job_name,
            result_uri=result_uri,
            data_lake_conn_id=data_lake_conn_id,
            grace_seconds=grace_seconds,
            expires_at=expires_at,
            **state,
        )
        self.job_id = job_id
        self.job_name = job_name
        self.result_uri = result_uri
        self.data_lake_conn_id = data_lake_conn_id
        self.grace_seconds = grace_seconds
        self.expires_at = expires_at
        self._driver_log = DriverLog()
        self._result_seen: float | None = None

    async def _look(self, client: DataprocClient) -> TriggerEvent | None:
        try:
            job = await client.get_job(self.cluster_id, self.job_id)
        except NotFoundError:
            if await client.find_cluster(self.cluster_id) is None:
                return self._job_event("gone", None)
            # The cluster lives, so the API does not know its job yet, or answers from where it does not.
            self.log.warning("%s (%s): not found on its living cluster: looking again", self.job_name, self.job_id)
            return self._late(None)
        try:
            await self._follow_log(client, ended=job.status.ended)
        except ApiError as error:
            # A log that cannot be read (yet) decides nothing about the job.
            self.log.warning("%s: no log: %s", self.job_name, error)
        if job.status.ended:
            return self._job_event("ended", job, await self._operation_error(client))
        if late := self._late(job):
            return late
        return self._job_event("lingering", job) if await self._lingers() else None

    def _late(self, job: Job | None) -> TriggerEvent | None:
        if time.time() < min(self.deadline, self.expires_at):
            return None
        return self._job_event("timeout" if self.deadline <= self.expires_at else "expired", job)

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

    async def _lingers(self) -> bool:
        if self._result_seen is None and await self._result_exists():
            self._result_seen = time.monotonic()
        return self._result_seen is not None and time.monotonic() - self._result_seen >= self.grace_seconds

    async def _result_exists(self) -> bool:
        from asgiref.sync import sync_to_async

        from ml_lifecycle.data_lake.client import DataLake
        from ml_lifecycle.data_lake.exceptions import DataLakeUnreachableError

        if not self.result_uri:
            return False
        lake = DataLake(self.result_uri.rpartition("/")[0], self.data_lake_conn_id)
        try:
            return await sync_to_async(lake.exists)(self.result_uri)
        except DataLakeUnreachableError as error:
            # It says nothing about the job, which the API decides about.
            self.log.warning("%s: whether it wrote its result is not known: %s", self.job_name, error)
            return False

    async def _operation_error(self, client: DataprocClient) -> str:
        """Why it ended, where the operation says so; `JobService.Get` alone decides whether it succeeded."""
        if not self.operation_id:
            return ""
        try:
            return (await client.operation(self.operation_id)).error
        except NotFoundError:
            return ""

    def _job_event(self, status: str, job: Job | None, message: str = "") -> TriggerEvent:
        return self._event(
            status,
            message,
            job_status=job.status.value if job else "",
            seconds=job.seconds if job else None,
            last_lines=list(self._driver_log.last_lines),
        )
