"""Runs a job."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import AirflowFailException

from ml_lifecycle.dataproc import cluster as clusters
from ml_lifecycle.dataproc import job as jobs
from ml_lifecycle.dataproc.cleanup import cancel_and_verify
from ml_lifecycle.dataproc.cluster import Cluster
from ml_lifecycle.dataproc.exceptions import (
    ClusterExpiredError,
    ClusterGoneError,
    JobFailedError,
    JobNotCancelledError,
    JobRefusedError,
    JobTimeoutError,
    ResultMissingError,
    UnavailableError,
)
from ml_lifecycle.dataproc.job import Job, JobStatus, PysparkSpecification
from ml_lifecycle.dataproc.links import ClusterLink
from ml_lifecycle.dataproc.operators.base import DataprocOperator
from ml_lifecycle.dataproc.triggers import JobEndedTrigger
from ml_lifecycle.params import refusing

if TYPE_CHECKING:
    from airflow.sdk import Context

    from ml_lifecycle.dataproc.client import DataprocClient

# Airflow sends SIGKILL five seconds after SIGTERM.
KILL_PATIENCE_SECONDS = 2.0


class PysparkJobOperator(DataprocOperator):
    """Runs a PySpark job to its end; returns the JSON object that the job wrote to `result_uri`.

    A later try of the task goes on with the job that an earlier one submitted, unless that job failed: then the work is
    submitted under the next name, until it has been submitted `submissions` times. So a try that Airflow loses costs
    nothing. The driver's output goes into the task log. `JobService.Get` decides whether the job succeeded.

    :param result_uri: where the job writes its result; None if it has none.
    :param grace_seconds: a job that has written its result but not ended is cancelled after this, and has succeeded.
    :param timeout_minutes: a job not ended by then is cancelled, as it is when its cluster's time to live is over.
    :param submissions: how often the work is tried; when the last job has failed the task fails for good.
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
        submissions: int = 2,
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
        self.submissions = submissions
        self._in_charge = False

    def execute(self, context: Context) -> dict[str, Any]:
        """Submit or go on with the job, then wait for it; see `resume`."""
        with refusing():
            trigger = self._begun(context)
        return dict(self.wait_for(trigger, context))

    def _begun(self, context: Context) -> JobEndedTrigger:
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
            return await self._living_cluster(client), *await self._submit(client, specification)

        self._in_charge = True
        cluster, job, operation_id = self._with_client(submit)
        ClusterLink.persist(context, clusters.console_link(cluster.folder_id, cluster.id))
        context["ti"].xcom_push(key="job_id", value=job.id)
        return JobEndedTrigger(
            yandex_conn_id=self.yandex_conn_id,
            cluster_id=self.cluster_id,
            job_id=job.id,
            job_name=job.name,
            operation_id=operation_id,
            result_uri=self.result_uri or "",
            data_lake_conn_id=self.data_lake_conn_id,
            grace_seconds=self.grace_seconds,
            deadline=job.created_at + float(self.timeout_minutes) * 60,
            expires_at=cluster.expires_at,
            poll_seconds=self.poll_seconds,
        )

    async def _living_cluster(self, client: DataprocClient) -> Cluster:
        cluster = await client.find_cluster(self.cluster_id)
        if cluster is None:
            raise ClusterGoneError(self.cluster_id)
        if time.time() >= cluster.expires_at:
            raise ClusterExpiredError(self.cluster_id)
        return cluster

    async def _submit(self, client: DataprocClient, specification: PysparkSpecification) -> tuple[Job, str]:
        existing = await client.list_jobs(self.cluster_id)
        plan = jobs.plan_submission(self.job_name, specification, existing)
        if plan.adopted is not None:
            self.log.info("Job %s (%s) is %s: going on with it", plan.name, plan.adopted.id, plan.adopted.status)
            return plan.adopted, ""
        await self._end_earlier_tries(client, existing)
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

    async def _end_earlier_tries(self, client: DataprocClient, existing: Sequence[Job]) -> None:
        """A try whose work is not this one's, or that is being cancelled, must not run beside this one."""
        living = [job.id for job in jobs.live(jobs.tries_of(self.job_name, existing))]
        if not await cancel_and_verify(client, self.cluster_id, living, poll_seconds=self.poll_seconds):
            raise JobNotCancelledError(living)

    async def _forget_old_result(self) -> None:
        """A result that an earlier run left would otherwise make this job look finished."""
        if self.result_uri:
            from asgiref.sync import sync_to_async

            await sync_to_async(self._lake().remove)(self.result_uri)

    def resume(self, context: Context, event: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """The job's result, or JobFailedError, JobTimeoutError, ResultMissingError.

        What another submission cannot mend fails the task for good: the last one's failure, a cluster that is gone.
        """
        self._in_charge = False
        try:
            with refusing():
                self._check(event)
        except (JobFailedError, JobTimeoutError) as error:
            if jobs.ordinal(self.job_name, event["job_name"]) >= self.submissions:
                raise AirflowFailException(str(error)) from error
            raise
        return self._result(event["job_name"], event["job_id"])

    def _check(self, event: Mapping[str, Any]) -> None:
        name, job_id, lines = event["job_name"], event["job_id"], event["last_lines"]
        if event["status"] == "timeout":
            self._cancel(event["cluster_id"], job_id)
            raise JobTimeoutError(name, job_id, float(self.timeout_minutes), lines)
        if event["status"] == "expired":
            self._cancel(event["cluster_id"], job_id)
            raise ClusterExpiredError(event["cluster_id"], lines)
        if event["status"] == "gone":
            raise ClusterGoneError(event["cluster_id"])
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

    def on_kill(self) -> None:
        """Cancel the job; only while the task itself waits (a deferred task's job is the teardown's to cancel)."""
        if self._in_charge:
            # In a thread: the task's own loop runs in this one, interrupted by the signal that called us. It may hold
            # a lock that the thread needs, of an import for one: so it goes on soon, and the thread with it.
            thread = threading.Thread(target=self._cancel_own)
            thread.start()
            thread.join(KILL_PATIENCE_SECONDS)

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
