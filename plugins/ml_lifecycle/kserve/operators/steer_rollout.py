"""Leaves a person's order for an open rollout."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from ml_lifecycle.kserve.operators.base import holder, refusing

if TYPE_CHECKING:
    from ml_lifecycle.kserve.rollout import RolloutState

# How long the task waits for its order to be obeyed: some looks, and never longer than it may hold a worker.
_LOOKS, _SECONDS, _LONGEST = 3, 5.0, 600.0


class SteerRolloutOperator(BaseOperator):
    """Leaves a person's order for an open rollout, which obeys it at its next look, and waits for that.

    Fails where the rollout was decided before it came to the order. A second try of the task gives no second order.

    :param action: approve, freeze, resume, roll_back or promote. (templated)
    :param by: who orders it. (templated)
    :param reason: why. (templated)
    """

    template_fields: Sequence[str] = ("kubernetes_conn_id", "namespace", "model", "action", "by", "reason")

    def __init__(
        self,
        *,
        model: str,
        namespace: str,
        action: str,
        by: str,
        reason: str = "",
        kubernetes_conn_id: str = "kubernetes_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.kubernetes_conn_id = kubernetes_conn_id
        self.namespace = namespace
        self.model = model
        self.action = action
        self.by = by
        self.reason = reason

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """The order, and where the rollout stood; waits until it is obeyed, and says so where that takes long."""
        with refusing():
            state, obeyed = asyncio.run(self._order(holder(context)))
        said = "obeyed" if obeyed else "not obeyed yet, it stands on the Lease for whoever drives the rollout next"
        self.log.log(
            logging.INFO if obeyed else logging.WARNING,
            "%s: version %s at %s %%: %s",
            self.action,
            state.request.version,
            state.percent,
            said,
        )
        return {"version": state.request.version, "phase": state.phase.value, "percent": state.percent}

    async def _order(self, held_by: str) -> tuple[RolloutState, bool]:
        from ml_lifecycle.kserve.client import connect
        from ml_lifecycle.kserve.steering import Action, Order

        async with connect(self.kubernetes_conn_id, held_by) as client:
            order = Order(Action(self.action), self.by, self.reason, given_in=held_by)
            state, order = await client.order(self.namespace, self.model, order)
            patience = min(_LOOKS * state.request.rollout.look_seconds + _SECONDS, _LONGEST)
            return state, await client.obeyed(self.namespace, self.model, order, patience)
