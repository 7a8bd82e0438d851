"""Leaves a person's order for an open rollout."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from ml_lifecycle.kserve.operators.base import holder, refusing

if TYPE_CHECKING:
    from ml_lifecycle.kserve.rollout import RolloutState


class SteerRolloutOperator(BaseOperator):
    """Leaves a person's order for an open rollout, which obeys it at its next look.

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
        """The order, and where the rollout stood."""
        with refusing():
            state = asyncio.run(self._order(holder(context)))
        self.log.info("%s: version %s at %s %%", self.action, state.request.version, state.percent)
        return {"version": state.request.version, "phase": state.phase.value, "percent": state.percent}

    async def _order(self, held_by: str) -> RolloutState:
        from ml_lifecycle.kserve.client import connect
        from ml_lifecycle.kserve.steering import Action, Order

        async with connect(self.kubernetes_conn_id, held_by) as client:
            order = Order(Action(self.action), self.by, self.reason, client.now())
            return await client.order(self.namespace, self.model, order)
