"""Opens a rollout and waits for its new revision."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ml_lifecycle.deferral import Event
from ml_lifecycle.kserve.operators.base import RolloutOperator, check, holder, refusing, verified
from ml_lifecycle.kserve.triggers import RevisionReadyTrigger
from ml_lifecycle.runtimes import RUNTIMES

if TYPE_CHECKING:
    from ml_lifecycle.kserve.request import RolloutRequest
    from ml_lifecycle.kserve.rollout import RolloutState

log = logging.getLogger(__name__)


class OpenRolloutOperator(RolloutOperator):
    """Opens the canary at 0 % and waits until the new revision is ready.

    Refuses before anything is changed: serving files that are missing, a Prometheus that does not answer, a service
    that another rollout holds, that is not ours, or whose traffic cannot be split. Its log says what the plan can tell
    by its deadline at today's traffic. Returns
    `{"revision", "url", "kind": "canary" | "first" | "unchanged"}`; the URL reaches the new revision alone.
    """

    def execute(self, context: Mapping[str, Any]) -> Any:
        """Opens, then waits."""
        with refusing():
            request, golden = verified(self.request())
            state = asyncio.run(_open(request, golden, holder(context)))
        self.log.info(
            "%s: version %s (%s), now version %s", request.model, request.version, state.kind.value, _stable(state)
        )
        return self.wait(RevisionReadyTrigger, context, poll_seconds=min(5.0, request.rollout.look_seconds / 2))

    def resume(self, context: Mapping[str, Any], event: Event) -> dict[str, Any]:  # noqa: ARG002
        """The new revision's name and address."""
        check(event, "ready")
        request = self.request()
        path = RUNTIMES[request.serving.runtime].predict_path(request.model)
        self.log.info("revision %s is ready: POST %s%s", event["revision"], event["url"], path)
        return {key: event[key] for key in ("revision", "url", "kind")}


async def _open(request: RolloutRequest, golden: str, held_by: str) -> RolloutState:
    from ml_lifecycle.kserve.client import check_prometheus, connect
    from ml_lifecycle.prometheus.client import connect as connect_prometheus

    async with connect(request.connections.kubernetes, held_by) as client:
        async with connect_prometheus(request.connections.prometheus) as prometheus:
            await check_prometheus(prometheus, request, client.now())
            state = await client.open(request, golden)
            named = await client.named(state, prometheus, aloud=True)
            if expected := await client.expected(named, prometheus):
                log.info("%s", expected)
        return await client.save(named) if named.naming != state.naming else state


def _stable(state: RolloutState) -> str:
    return state.stable.version if state.stable else "none"
