"""Carries out what was decided."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_lifecycle.deferral import PATIENCE_SECONDS, Event
from ml_lifecycle.kserve.exceptions import RolloutError
from ml_lifecycle.kserve.operators.base import RolloutOperator
from ml_lifecycle.kserve.triggers import CloseTrigger


class CloseRolloutOperator(RolloutOperator):
    """Carries out what was decided, and rolls back what nobody decided; make it the teardown.

    Returns the report of the rollout: outcome, reason, revisions and the steps with what was seen on them. A run
    whose rollout never opened has `{"outcome": "not_opened"}`.
    """

    def execute(self, context: Mapping[str, Any]) -> Any:
        """Closes."""
        return self.wait(
            CloseTrigger, context, poll_seconds=min(2.0, self.request().rollout.look_seconds), patience=PATIENCE_SECONDS
        )

    def resume(self, context: Mapping[str, Any], event: Event) -> dict[str, Any]:  # noqa: ARG002
        """The report."""
        if event["status"] == "absent":
            request = self.request()
            self.log.info("this run holds no rollout of %s: nothing to close", request.model)
            reason = "it was refused, could not open, or was taken over: see the log of the task open"
            return {"model": request.model, "version": request.version, "outcome": "not_opened", "reason": reason}
        if event["status"] != "closed":
            raise RolloutError(event["reason"])
        report: dict[str, Any] = event["report"]
        self.log.info("%s version %s %s: %s", report["model"], report["version"], report["outcome"], report["reason"])
        return report
