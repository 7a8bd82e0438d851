"""Steps the traffic on evidence."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException

from ml_lifecycle.deferral import Event
from ml_lifecycle.kserve.operators.base import RolloutOperator, check, holder, refusing
from ml_lifecycle.kserve.triggers import CanaryTrigger

if TYPE_CHECKING:
    from ml_lifecycle.kserve.request import RolloutRequest
    from ml_lifecycle.kserve.rollout import RolloutState


class CanaryOperator(RolloutOperator):
    """Steps the traffic while looking at both sides, until the evidence, or the deadline, decides.

    Returns `{"decision", "reason"}` when the version is to be promoted, and fails with the reason otherwise. What was
    decided is carried out by CloseRolloutOperator. A pause is told once; the looks go on meanwhile.
    """

    def execute(self, context: Mapping[str, Any]) -> Any:
        """Begins, or goes on after a kill; says how many requests the verdict needs."""
        request = self.request()
        with refusing():
            state = asyncio.run(_begin(request, holder(context)))
        if state.decision is not None:
            return self.resume(context, {"status": "decided", "decision": str(state.decision), "reason": state.reason})
        return self.wait(CanaryTrigger, context, poll_seconds=request.rollout.look_seconds)

    def resume(self, context: Mapping[str, Any], event: Event) -> Any:
        """The decision, or after a pause was told the next looks."""
        if event["status"] == "paused":
            self._tell(event["report"], context)
            return self.wait(CanaryTrigger, context, poll_seconds=self.request().rollout.look_seconds)
        check(event, "decided")
        if event["decision"] != "promoted":
            raise AirflowFailException(f"{event['decision']}: {event['reason']}")
        return {"decision": event["decision"], "reason": event["reason"]}

    def _tell(self, report: Mapping[str, Any], context: Mapping[str, Any]) -> None:
        """Whom settings name; who cannot be told must not end the rollout."""
        from ml_lifecycle.exceptions import LifecycleError
        from ml_lifecycle.kserve.message import Links, write
        from ml_lifecycle.kserve.notifiers import run_page, send
        from ml_lifecycle.settings_variable import read_settings

        message = write(report, Links(airflow=run_page(context)))
        self.log.warning("%s", message.text)
        try:
            send(read_settings(self.request().model).rollout.notifiers, message, context)
        except LifecycleError as error:
            self.log.error("the rollout waits, and not everybody was told: %s", error)  # noqa: TRY400 - it says all


async def _begin(request: RolloutRequest, held_by: str) -> RolloutState:
    from ml_lifecycle.kserve.client import connect
    from ml_lifecycle.kserve.rollout import begin_canary

    async with connect(request.connections.kubernetes, held_by) as client:
        state = await client.own(request.namespace, request.model)
        return await client.save(begin_canary(state))
