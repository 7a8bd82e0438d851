"""Returns a service to an earlier version."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ml_lifecycle.deferral import PATIENCE_SECONDS, Event
from ml_lifecycle.kserve.operators.base import RolloutOperator, check, holder, refusing, verified
from ml_lifecycle.kserve.triggers import CloseTrigger

if TYPE_CHECKING:
    from ml_lifecycle.kserve.request import RolloutRequest
    from ml_lifecycle.kserve.rollout import RolloutState


class RollBackOperator(RolloutOperator):
    """Returns to an earlier version at once: traffic first where Knative still has its revision, then the spec.

    `rollout` is the request of the version that comes back. Refuses before anything is changed: serving files that are
    gone, an open rollout, a version that serves already. Returns the report, as CloseRolloutOperator does.

    :param reason: why, for the registry's tags and the log. (templated)
    """

    template_fields: Sequence[str] = ("rollout", "reason")

    def __init__(self, *, reason: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reason = reason

    def execute(self, context: Mapping[str, Any]) -> Any:
        """Decides, then closes."""
        with refusing():
            request, _ = verified(self.request())
            state = asyncio.run(_open_return(request, self.reason, holder(context)))
        way = f"traffic goes to {state.kept_revision} first" if state.kept_revision else "it gets a new revision"
        self.log.info("%s: from version %s back to %s; %s", request.model, state.request.version, request.version, way)
        seconds = min(2.0, request.rollout.look_seconds)
        return self.wait(CloseTrigger, context, poll_seconds=seconds, patience=PATIENCE_SECONDS)

    def resume(self, context: Mapping[str, Any], event: Event) -> dict[str, Any]:  # noqa: ARG002
        """The report."""
        check(event, "closed")
        report: dict[str, Any] = event["report"]
        self.log.info("%s: version %s serves again", report["model"], report["stable_version"])
        return report


async def _open_return(request: RolloutRequest, reason: str, held_by: str) -> RolloutState:
    from ml_lifecycle.kserve.client import connect

    async with connect(request.connections.kubernetes, held_by) as client:
        return await client.open_return(request, reason)
