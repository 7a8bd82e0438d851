"""Closes what a dead run left open."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
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
    from ml_lifecycle.kubernetes.leases import Lease
    from ml_lifecycle.settings import Settings

log = logging.getLogger(__name__)


class SweepRolloutsOperator(BaseOperator):
    """Closes rollouts whose Lease nobody has renewed for ten minutes, as their settings' `on_deadline` says.

    A Lease that has expired by this machine's clock alone is watched first, for as long as it lasts: clocks differ.
    Each Lease is one's own: one that cannot be read, speaks for another service, or names what neither settings nor the
    live service confirm is named and left.

    :param namespaces: those that are looked at; none given: all. (templated)
    :param dry_run: only say what would be closed. (templated)
    Returns the reports of those closed, and skips its downstream where nothing was. One that cannot be closed fails
    the task, but not at the price of the reports of others: then it is logged, and the next sweep meets it again.
    """

    template_fields: Sequence[str] = ("kubernetes_conn_id", "namespaces", "dry_run")

    def __init__(
        self,
        *,
        kubernetes_conn_id: str = "kubernetes_default",
        namespaces: Sequence[str] | None = None,
        dry_run: bool | str = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.kubernetes_conn_id = kubernetes_conn_id
        self.namespaces = namespaces
        # `dry_run` is a method of every operator.
        self.dry_run = dry_run

    def execute(self, context: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Sweeps."""
        from ml_lifecycle.settings_variable import read_settings

        dry = str(self.dry_run).lower() == "true"
        swept, left = asyncio.run(
            _sweep(self.kubernetes_conn_id, self.namespaces, holder(context), dry=dry, settings=read_settings)
        )
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
    connection_id: str,
    namespaces: Sequence[str] | None,
    held_by: str,
    *,
    dry: bool,
    settings: Callable[[str], Settings] | None = None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Reports of what was closed, and why the rest could not be; `settings` of a model, None: not known."""
    from ml_lifecycle.kserve.client import connect

    among = [None] if namespaces is None else list(namespaces)
    swept: list[dict[str, Any]] = []
    left: list[str] = []
    async with connect(connection_id, held_by) as client:
        found = await client.abandoned(among)
        await _close_all(client, found.states, swept, left, dry=dry, settings=settings)
        if watched := await _outlasting(client, found.doubtful):
            found = await client.abandoned(among, watched)
            await _close_all(client, found.states, swept, left, dry=dry, settings=settings)
    return swept, left


async def _outlasting(client: RolloutClient, doubtful: Sequence[Lease]) -> list[str]:
    """The resourceVersions of those that nobody writes for as long as they last; living ones are told in a minute."""
    from ml_lifecycle.kserve.client import outlast

    if doubtful:
        log.info("watched, for they seem to have expired: %s", ", ".join(lease.name for lease in doubtful))
    dead = await asyncio.gather(*(outlast(client.kubernetes, lease) for lease in doubtful))
    return [lease.resource_version for lease, unchanged in zip(doubtful, dead, strict=True) if unchanged]


async def _close_all(
    client: RolloutClient,
    states: Sequence[RolloutState],
    swept: list[dict[str, Any]],
    left: list[str],
    *,
    dry: bool,
    settings: Callable[[str], Settings] | None,
) -> None:
    """Each on its own: whatever goes wrong with one ends there."""
    for state in states:
        if dry:
            swept.append({"model": state.service, "version": state.request.version, "phase": state.phase.value})
            continue
        try:
            swept.append(await client.abandon(state, settings(state.service) if settings else None))
        except LeaseHeldError as error:
            log.info("%s lives again: %s", state.service, error)
        except LifecycleError as error:
            left.append(f"{state.service}: {error}")
        except Exception as error:
            log.exception("the rollout of %s in %s", state.service, state.request.namespace)
            left.append(f"{state.service}: {error!r}")
