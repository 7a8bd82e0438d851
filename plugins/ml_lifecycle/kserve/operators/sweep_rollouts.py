"""Closes what a dead run left open."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowSkipException
from airflow.sdk import BaseOperator

from ml_lifecycle.exceptions import LifecycleError
from ml_lifecycle.kserve.exceptions import RolloutStuckError
from ml_lifecycle.kserve.operators.base import holder
from ml_lifecycle.kubernetes.exceptions import LeaseHeldError

if TYPE_CHECKING:
    from ml_lifecycle.kserve.client import RolloutClient
    from ml_lifecycle.kserve.rollout import RolloutState

log = logging.getLogger(__name__)


class SweepRolloutsOperator(BaseOperator):
    """Closes rollouts whose Lease nobody has renewed for ten minutes, as their settings' `on_deadline` says.

    :param namespace: one namespace, or all of them. (templated)
    :param dry_run: only say what would be closed. (templated)
    Returns the reports of those closed, and skips its downstream where nothing was. One that cannot be closed fails
    the task, but not at the price of the reports of others: then it is logged, and the next sweep meets it again.
    """

    template_fields: Sequence[str] = ("kubernetes_conn_id", "namespace", "dry_run")

    def __init__(
        self,
        *,
        kubernetes_conn_id: str = "kubernetes_default",
        namespace: str | None = None,
        dry_run: bool | str = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.kubernetes_conn_id = kubernetes_conn_id
        self.namespace = namespace
        # `dry_run` is a method of every operator.
        self.dry_run = dry_run

    def execute(self, context: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Sweeps."""
        dry = str(self.dry_run).lower() == "true"
        swept, left = asyncio.run(_sweep(self.kubernetes_conn_id, self.namespace, holder(context), dry=dry))
        for rollout in swept:
            self.log.info("abandoned rollout of %s: %s", rollout["model"], rollout)
        if left and not swept:
            raise RolloutStuckError("; ".join(left))
        for reason in left:
            self.log.error("could not be closed, the next sweep tries again: %s", reason)
        if dry or not swept:
            would = ", ".join(rollout["model"] for rollout in swept)
            raise AirflowSkipException(f"dry run: would close {would}" if would else "no abandoned rollout")
        return swept


async def _sweep(
    connection_id: str, namespace: str | None, held_by: str, *, dry: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """Reports of what was closed, and why the rest could not be."""
    from ml_lifecycle.kserve.client import connect

    swept, left = [], []
    async with connect(connection_id, held_by) as client:
        for state in await client.abandoned(namespace):
            if dry:
                swept.append({"model": state.service, "version": state.request.version, "phase": state.phase.value})
                continue
            try:
                swept.append(await _close_abandoned(client, state))
            except LeaseHeldError as error:
                log.info("%s lives again: %s", state.service, error)
            except LifecycleError as error:
                left.append(f"{state.service}: {error}")
    return swept, left


async def _close_abandoned(client: RolloutClient, state: RolloutState) -> dict[str, Any]:
    from ml_lifecycle.kserve.rollout import Decision

    freeze = state.request.rollout.on_deadline == "freeze"
    decision = Decision.FROZEN if freeze else Decision.ROLLED_BACK
    taken = await client.take_over(state)
    return await client.close(taken.decide(decision, f"{state.holder} abandoned the rollout"))
