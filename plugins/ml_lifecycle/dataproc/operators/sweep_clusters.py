"""Deletes clusters that outlived their run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ml_lifecycle.dataproc.cleanup import delete_and_verify
from ml_lifecycle.dataproc.cluster import Cluster
from ml_lifecycle.dataproc.exceptions import ClusterRefusedError, DataprocError, SweepError
from ml_lifecycle.dataproc.operators.base import DataprocOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from ml_lifecycle.dataproc.client import DataprocClient


class SweepClustersOperator(DataprocOperator):
    """Deletes the clusters of ours whose time to live is over: what a crash left behind.

    Returns `{"deleted": [names], "expired": [names], "kept": [names], "dry_run"}`. They are deleted side by side; one
    that cannot be does not keep the others; it fails the task at the end.

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
        expired = [found for found in ours if now >= found.expires_at]
        deleted, failures = [], []

        async def end(found: Cluster) -> None:
            try:
                deadline = now + self.timeout_minutes * 60
                await delete_and_verify(client, found, deadline=deadline, poll_seconds=self.poll_seconds)
            except DataprocError as error:
                failures.append(str(error))
            else:
                deleted.append(found.name)
                self.log.info("Deleted cluster %s (%s), past its time to live", found.name, found.id)

        if not only_say:
            await asyncio.gather(*(end(found) for found in expired))
        if failures:
            raise SweepError(failures)
        return {
            "deleted": sorted(deleted),
            "expired": [found.name for found in expired],
            "kept": [found.name for found in ours if found not in expired],
            "dry_run": only_say,
        }
