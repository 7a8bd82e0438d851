"""Cancels jobs and deletes clusters, and does not believe it before it sees it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from ml_lifecycle.dataproc.cluster import Cluster, ClusterStatus
from ml_lifecycle.dataproc.exceptions import (
    ApiError,
    ClusterNotDeletedError,
    InvalidRequestError,
    NotFoundError,
    PermissionRefusedError,
)
from ml_lifecycle.dataproc.job import live

if TYPE_CHECKING:
    from ml_lifecycle.dataproc.client import DataprocClient

CANCEL_SECONDS = 120.0
# Before a deletion, which ends every job anyway, a job has this long to end by itself.
FAREWELL_SECONDS = 20.0
LONGEST_CANCEL_POLL = 2.0


async def begin_deletion(client: DataprocClient, found: Cluster, *, deadline: float, poll_seconds: float) -> str:
    """Cancel the cluster's jobs and ask for its deletion until it is accepted.

    Returns the operation's id, empty if the cluster is gone. deadline: unix seconds; ClusterNotDeletedError after it,
    or at once where trying again cannot help.
    """
    if found.status is ClusterStatus.RUNNING:
        # A job that cannot be cancelled is no reason to let the cluster live.
        with suppress(ApiError):
            await cancel_live_jobs(client, found.id, poll_seconds=poll_seconds, patience=FAREWELL_SECONDS)
    while True:
        try:
            return (await client.delete_cluster(found.id)).operation_id
        except NotFoundError:
            return ""
        except ApiError as error:
            hopeless = isinstance(error, (PermissionRefusedError, InvalidRequestError))
            if hopeless or time.time() + poll_seconds >= deadline:
                raise ClusterNotDeletedError(found.id, str(error)) from error
        await asyncio.sleep(poll_seconds)


async def delete_and_verify(client: DataprocClient, found: Cluster, *, deadline: float, poll_seconds: float) -> None:
    """Delete a cluster and see that it is gone; ClusterNotDeletedError after `deadline` (unix seconds)."""
    operation_id = await begin_deletion(client, found, deadline=deadline, poll_seconds=poll_seconds)
    while operation_id and await client.find_cluster(found.id) is not None:
        refusal = (await client.operation(operation_id)).error
        if time.time() + poll_seconds >= deadline:
            raise ClusterNotDeletedError(found.id, refusal or "it is not gone in time")
        await asyncio.sleep(poll_seconds)
        if refusal:
            operation_id = await begin_deletion(client, found, deadline=deadline, poll_seconds=poll_seconds)


async def cancel_live_jobs(
    client: DataprocClient, cluster_id: str, *, poll_seconds: float, patience: float = CANCEL_SECONDS
) -> list[str]:
    """Cancel the jobs that have not ended and wait for their end; their ids. An absent cluster has none."""
    try:
        found = [job.id for job in live(await client.list_jobs(cluster_id))]
    except NotFoundError:
        return []
    await cancel_and_verify(client, cluster_id, found, poll_seconds=poll_seconds, patience=patience)
    return found


async def cancel_and_verify(
    client: DataprocClient,
    cluster_id: str,
    job_ids: Sequence[str],
    *,
    poll_seconds: float,
    patience: float = CANCEL_SECONDS,
) -> bool:
    """Cancel jobs and wait at most `patience` seconds for their end; whether all ended."""
    for job_id in job_ids:
        await client.cancel_job(cluster_id, job_id)
    deadline = time.monotonic() + patience
    waiting = list(job_ids)
    while waiting and time.monotonic() < deadline:
        waiting = [job_id for job_id in waiting if not await _ended(client, cluster_id, job_id)]
        if waiting:
            await asyncio.sleep(min(poll_seconds, LONGEST_CANCEL_POLL))
    return not waiting


async def _ended(client: DataprocClient, cluster_id: str, job_id: str) -> bool:
    try:
        return (await client.get_job(cluster_id, job_id)).status.ended
    except NotFoundError:
        return True
