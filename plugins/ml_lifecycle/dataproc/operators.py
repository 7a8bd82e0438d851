"""Creates clusters, runs jobs on them, deletes them.

Wire them so: submit (setup) → wait → jobs → delete (teardown of submit). Submit returns as soon as the cluster has an
id, because a setup that fails, or that creates before it fails, would take its teardown with it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from airflow.sdk import BaseOperator
from airflow.sdk.configuration import conf

from ml_lifecycle.dataproc import cluster as clusters
from ml_lifecycle.dataproc import job as jobs
from ml_lifecycle.dataproc.cleanup import begin_deletion, cancel_and_verify, cancel_live_jobs, delete_and_verify
from ml_lifecycle.dataproc.cluster import Cluster
from ml_lifecycle.dataproc.exceptions import (
    AlreadyExistsError,
    ClusterFailedError,
    ClusterNameTakenError,
    ClusterNotDeletedError,
    ClusterRefusedError,
    ClusterTimeoutError,
    DataprocError,
    JobFailedError,
    JobRefusedError,
    JobTimeoutError,
    ResultMissingError,
    SweepError,
    UnavailableError,
)
from ml_lifecycle.dataproc.job import Job, JobStatus, PysparkSpecification
from ml_lifecycle.dataproc.links import ClusterLink
from ml_lifecycle.dataproc.triggers import ClusterGoneTrigger, ClusterRunningTrigger, DataprocTrigger, JobEndedTrigger
from ml_lifecycle.settings import Cluster as ClusterSettings

if TYPE_CHECKING:
    from airflow.sdk import Context

    from ml_lifecycle.dataproc.client import DataprocClient

DEFERRABLE = conf.getboolean("operators", "default_deferrable", fallback=False)
CONNECTION = "yandexcloud_default"
OLD_CLUSTER_SECONDS = 1800.0

Answer = TypeVar("Answer")


class DataprocOperator(BaseOperator):
    """What all of them share: a connection, and one way to wait.

    :param yandex_conn_id: connection of type yandexcloud.
    :param poll_seconds: between two looks.
    :param deferrable: wait in the triggerer; else the same trigger runs inside the task.
    """

    def __init__(
        self,
        *,
        yandex_conn_id: str = CONNECTION,
        poll_seconds: float = 10.0,
        deferrable: bool = DEFERRABLE,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.yandex_conn_id = yandex_conn_id
        self.poll_seconds = poll_seconds
        self.deferrable = deferrable

    def _with_client(self, action: Callable[[DataprocClient], Coroutine[Any, Any, Answer]]) -> Answer:
        """Run `action` with a client, and wait for it."""

        async def run() -> Answer:
            from ml_lifecycle.dataproc.client import connect

            async with connect(self.yandex_conn_id) as client:
                return await action(client)

        return asyncio.run(run())

    def _wait(self, context: Context, trigger: DataprocTrigger, method: str) -> Any:
        """Defer to `trigger`, or drive it here; `method` gets the event either way."""
        if self.deferrable:
            self.defer(trigger=trigger, method_name=method)
        return getattr(self, method)(context, asyncio.run(_first_event(trigger)))


class SubmitClusterOperator(DataprocOperator):
    """Begins a cluster and returns its id at once; XCom also gets `cluster_id` and `operation_id`.

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

        def remember(cluster_id: str, operation_id: str) -> None:
            context["ti"].xcom_push(key="operation_id", value=operation_id)
            context["ti"].xcom_push(key="cluster_id", value=cluster_id)

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
        remember: Callable[[str, str], None],
    ) -> tuple[str, str]:
        settings = _with_connection_defaults(settings, client)
        folder_id = settings.folder_id or ""
        if found := clusters.problems(settings, self.cluster_name, labels, folder_id, await client.list_presets()):
            raise ClusterRefusedError(found)
        existing = await client.find_cluster_by_name(folder_id, self.cluster_name)
        if existing is not None and (adopted := await self._adopt(client, existing, labels)):
            remember(adopted.id, "")
            return folder_id, adopted.id
        request = clusters.create_request(settings, self.cluster_name, labels, folder_id)
        try:
            started = await client.create_cluster(request)
        except AlreadyExistsError:
            winner = await client.find_cluster_by_name(folder_id, self.cluster_name)
            if winner is None or await self._adopt(client, winner, labels) is None:
                raise
            remember(winner.id, "")
            return folder_id, winner.id
        remember(started.resource_id, started.operation_id)
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
        return str(self._wait(context, trigger, "resume"))

    def resume(self, context: Context, event: Mapping[str, Any]) -> str:  # noqa: ARG002 (Airflow's signature)
        """The id of the running cluster, or ClusterFailedError or ClusterTimeoutError."""
        if event["status"] == "failed":
            raise ClusterFailedError(event["cluster_id"], event["message"])
        if event["status"] == "timeout":
            raise ClusterTimeoutError(event["cluster_id"], float(self.timeout_minutes))
        self.log.info("Cluster %s is running", event["cluster_id"])
        return str(event["cluster_id"])


class PysparkJobOperator(DataprocOperator):
    """Runs a PySpark job to its end; returns the JSON object that the job wrote to `result_uri`.

    A second try goes on with the job that the first one submitted, unless it failed: then it is submitted under the
    next name. The driver's output goes into the task log. `JobService.Get` decides whether the job succeeded.

    :param result_uri: where the job writes its result; None if it has none.
    :param grace_seconds: a job that has written its result but not ended is cancelled after this, and has succeeded.
    :param timeout_minutes: a job not ended by then is cancelled.
    """

    template_fields: Sequence[str] = (
        "cluster_id",
        "job_name",
        "main_python_file_uri",
        "python_file_uris",
        "args",
        "properties",
        "archive_uris",
        "file_uris",
        "jar_file_uris",
        "result_uri",
        "data_lake_conn_id",
        "timeout_minutes",
        "yandex_conn_id",
        "poll_seconds",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"args": "json", "properties": "json"}
    operator_extra_links = (ClusterLink(),)

    def __init__(
        self,
        *,
        cluster_id: str,
        job_name: str,
        main_python_file_uri: str,
        python_file_uris: Sequence[str] = (),
        args: Sequence[str] = (),
        properties: Mapping[str, str] | None = None,
        archive_uris: Sequence[str] = (),
        file_uris: Sequence[str] = (),
        jar_file_uris: Sequence[str] = (),
        result_uri: str | None = None,
        data_lake_conn_id: str | None = None,
        timeout_minutes: float | str = 240.0,
        grace_seconds: float = 60.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.cluster_id = cluster_id
        self.job_name = job_name
        self.main_python_file_uri = main_python_file_uri
        self.python_file_uris = python_file_uris
        self.args = args
        self.properties = properties or {}
        self.archive_uris = archive_uris
        self.file_uris = file_uris
        self.jar_file_uris = jar_file_uris
        self.result_uri = result_uri
        self.data_lake_conn_id = data_lake_conn_id
        self.timeout_minutes = timeout_minutes
        self.grace_seconds = grace_seconds
        self._in_charge = False

    def execute(self, context: Context) -> dict[str, Any]:
        """Submit or go on with the job, then wait for it; see `resume`."""
        specification = PysparkSpecification(
            main_python_file_uri=self.main_python_file_uri,
            args=tuple(self.args),
            python_file_uris=tuple(self.python_file_uris),
            file_uris=tuple(self.file_uris),
            jar_file_uris=tuple(self.jar_file_uris),
            archive_uris=tuple(self.archive_uris),
            properties=dict(self.properties),
        )
        if found := jobs.problems(self.job_name, specification):
            raise JobRefusedError(found)

        async def submit(client: DataprocClient) -> tuple[Cluster, Job, str]:
            return await client.get_cluster(self.cluster_id), *await self._submit(client, specification)

        self._in_charge = True
        cluster, job, operation_id = self._with_client(submit)
        ClusterLink.persist(context, clusters.console_link(cluster.folder_id, cluster.id))
        context["ti"].xcom_push(key="job_id", value=job.id)
        trigger = JobEndedTrigger(
            yandex_conn_id=self.yandex_conn_id,
            cluster_id=self.cluster_id,
            job_id=job.id,
            job_name=job.name,
            operation_id=operation_id,
            result_uri=self.result_uri or "",
            data_lake_conn_id=self.data_lake_conn_id,
            grace_seconds=self.grace_seconds,
            deadline=job.created_at + float(self.timeout_minutes) * 60,
            poll_seconds=self.poll_seconds,
        )
        return dict(self._wait(context, trigger, "resume"))

    async def _submit(self, client: DataprocClient, specification: PysparkSpecification) -> tuple[Job, str]:
        existing = await client.list_jobs(self.cluster_id)
        plan = jobs.plan_submission(self.job_name, specification, existing)
        if plan.adopted is not None:
            self.log.info("Job %s (%s) is %s: going on with it", plan.name, plan.adopted.id, plan.adopted.status)
            return plan.adopted, ""
        await self._forget_old_result()
        try:
            started = await client.create_job(jobs.create_request(self.cluster_id, plan.name, specification))
        except UnavailableError:
            # The answer may have been lost after the job began.
            plan = jobs.plan_submission(self.job_name, specification, await client.list_jobs(self.cluster_id))
            if plan.adopted is None:
                raise
            return plan.adopted, ""
        self.log.info("Job %s (%s) submitted to cluster %s", plan.name, started.resource_id, self.cluster_id)
        return await client.get_job(self.cluster_id, started.resource_id), started.operation_id

    async def _forget_old_result(self) -> None:
        """A result that an earlier run left would otherwise make this job look finished."""
        if self.result_uri:
            from asgiref.sync import sync_to_async

            await sync_to_async(self._lake().remove)(self.result_uri)

    def resume(self, context: Context, event: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """The job's result, or JobFailedError, JobTimeoutError, ResultMissingError."""
        self._in_charge = False
        name, job_id, lines = event["job_name"], event["job_id"], event["last_lines"]
        if event["status"] == "timeout":
            self._cancel(event["cluster_id"], job_id)
            raise JobTimeoutError(name, job_id, float(self.timeout_minutes), lines)
        if event["status"] == "gone":
            raise JobFailedError(name, job_id, "with its cluster", event["message"], lines)
        if event["status"] == "lingering":
            self.log.warning(
                "Job %s (%s) wrote its result %g s ago and has not ended: cancelling it",
                name,
                job_id,
                self.grace_seconds,
            )
            self._cancel(event["cluster_id"], job_id)
        elif event["job_status"] != JobStatus.DONE:
            raise JobFailedError(name, job_id, event["job_status"], event["message"], lines)
        return self._result(name, job_id)

    def on_kill(self) -> None:
        """Cancel the job; only while the task itself waits (a deferred task's job is the teardown's to cancel)."""
        if self._in_charge:
            # The task's own loop may be running in this thread, interrupted by the signal that called us.
            thread = threading.Thread(target=self._cancel_own)
            thread.start()
            thread.join()

    def _cancel_own(self) -> None:
        # By name: the signal may have come after the job was made and before its id was known here.
        async def cancel(client: DataprocClient) -> None:
            own = jobs.tries_of(self.job_name, await client.list_jobs(self.cluster_id))
            live = [job.id for job in jobs.live(own)]
            await cancel_and_verify(client, self.cluster_id, live, poll_seconds=self.poll_seconds)

        self._with_client(cancel)

    def _cancel(self, cluster_id: str, job_id: str) -> None:
        async def cancel(client: DataprocClient) -> None:
            await cancel_and_verify(client, cluster_id, [job_id], poll_seconds=self.poll_seconds)

        self._with_client(cancel)

    def _result(self, name: str, job_id: str) -> dict[str, Any]:
        from ml_lifecycle.data_lake.exceptions import ObjectMissingError

        if not self.result_uri:
            return {}
        try:
            return self._lake().read_json(self.result_uri)
        except ObjectMissingError as error:
            raise ResultMissingError(name, job_id, self.result_uri) from error

    def _lake(self) -> Any:
        from ml_lifecycle.data_lake.client import DataLake

        return DataLake((self.result_uri or "").rpartition("/")[0], self.data_lake_conn_id)


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


class DeleteClusterOperator(DataprocOperator):
    """Cancels a cluster's live jobs, deletes it, and sees that it is gone. Make it the teardown of submit.

    Absent is success. Without an id (the task that submitted it died first) it is found by its name. Returns
    `{"cluster_id", "cluster_name", "existed", "created_at", "deleted_at", "lived_seconds"}`.

    :param timeout_minutes: how long a refused or slow deletion is tried again before ClusterNotDeletedError.
    """

    template_fields: Sequence[str] = (
        "cluster_id",
        "cluster_name",
        "folder_id",
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
        timeout_minutes: float | str = 30.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.cluster_id = cluster_id
        self.cluster_name = cluster_name
        self.folder_id = folder_id
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
            return self._report(None, None)
        found, operation_id = begun
        if not operation_id:
            return self._report(found.id, found.created_at)
        trigger = ClusterGoneTrigger(
            yandex_conn_id=self.yandex_conn_id,
            cluster_id=found.id,
            operation_id=operation_id,
            created_at=found.created_at,
            deadline=deadline,
            poll_seconds=self.poll_seconds,
        )
        return dict(self._wait(context, trigger, "resume"))

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
            return self._report(event["cluster_id"], event["created_at"])
        if event["status"] == "refused" and time.time() + self.poll_seconds < event["deadline"]:
            self.log.warning("Deleting %s was refused (%s): trying again", event["cluster_id"], event["message"])
            time.sleep(self.poll_seconds)
            return self._delete(context, event["deadline"])
        reason = event["message"] or f"not gone after {self.timeout_minutes} minutes"
        raise ClusterNotDeletedError(event["cluster_id"], reason)

    def _report(self, cluster_id: str | None, created_at: float | None) -> dict[str, Any]:
        deleted_at = time.time()
        lived = deleted_at - created_at if created_at is not None else 0.0
        if cluster_id:
            self.log.info("Cluster %s (%s) is deleted; it lived %.0f s", self.cluster_name, cluster_id, lived)
        return {
            "cluster_id": cluster_id,
            "cluster_name": self.cluster_name,
            "existed": cluster_id is not None,
            "created_at": created_at,
            "deleted_at": deleted_at if cluster_id else None,
            "lived_seconds": round(lived, 1),
        }


class SweepClustersOperator(DataprocOperator):
    """Deletes the clusters of ours whose time to live is over: what a crash left behind.

    Returns `{"deleted": [names], "expired": [names], "kept": [names], "dry_run"}`. One that cannot be deleted does
    not keep the others; it fails the task at the end.

    :param dry_run: only say what would be deleted.
    """

    template_fields: Sequence[str] = ("folder_id", "dry_run", "yandex_conn_id", "poll_seconds")

    def __init__(
        self,
        *,
        folder_id: str | None = None,
        dry_run: bool | str = False,
        timeout_minutes: float = 10.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.folder_id = folder_id
        # BaseOperator has a method dry_run(), which renders templates; the field keeps the word users know.
        self.dry_run = dry_run
        self.timeout_minutes = timeout_minutes

    def execute(self, context: Context) -> dict[str, Any]:  # noqa: ARG002
        """Delete what has expired."""
        only_say = str(self.dry_run).lower() in ("true", "1", "yes")

        async def sweep(client: DataprocClient) -> dict[str, Any]:
            return await self._sweep(client, only_say=only_say)

        return self._with_client(sweep)

    async def _sweep(self, client: DataprocClient, *, only_say: bool) -> dict[str, Any]:
        folder_id = self.folder_id or client.folder_id
        if not folder_id:
            raise ClusterRefusedError(["folder_id: not given, and the connection has none either"])
        now = time.time()
        ours = [found for found in await client.list_clusters(folder_id) if found.is_ours]
        expired = [found for found in ours if found.expired(now)]
        deleted, failures = [], []
        for found in [] if only_say else expired:
            try:
                deadline = now + self.timeout_minutes * 60
                await delete_and_verify(client, found, deadline=deadline, poll_seconds=self.poll_seconds)
                deleted.append(found.name)
                self.log.info("Deleted cluster %s (%s), past its time to live", found.name, found.id)
            except DataprocError as error:
                failures.append(str(error))
        if failures:
            raise SweepError(failures)
        return {
            "deleted": deleted,
            "expired": [found.name for found in expired],
            "kept": [found.name for found in ours if found not in expired],
            "dry_run": only_say,
        }


async def _first_event(trigger: DataprocTrigger) -> Any:
    async for event in trigger.run():
        return event.payload
    raise DataprocError(f"{type(trigger).__name__} ended without an event")


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
