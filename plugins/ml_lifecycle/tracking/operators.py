"""Asks a person in Airflow before a candidate becomes champion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import HITLOperator

from ml_lifecycle.tracking.approval import APPROVE, REJECT, Answer, Question

if TYPE_CHECKING:
    from airflow.sdk import Context


class PromotionApprovalOperator(HITLOperator):
    """The form "Approve or Reject" under Required Actions, returned as `Answer`; None where there is no question.

    Unlike ApprovalOperator it learns what to ask, how long to wait and what to take for the answer of nobody while
    the task runs, from settings; and a rejection skips nothing by itself: the task that publishes writes it on the
    version first, and can do so again after a failure without asking anybody twice.

    :param candidate: `{"model": …, "question": …}`; the question is a `Question`, or None to pass at once. (templated)
    """

    template_fields: Sequence[str] = ("candidate",)

    def __init__(self, *, candidate: Mapping[str, Any], **kwargs: Any) -> None:
        # An execution_timeout of the DAG would be taken for the time that a person has.
        super().__init__(subject="", options=[APPROVE, REJECT], **{**kwargs, "execution_timeout": None})
        self.candidate = candidate

    def execute(self, context: Context) -> Any:
        """Ask and wait without a worker slot; nothing where nothing is asked."""
        context["mapped_model"] = self.candidate["model"]
        question: Question | None = self.candidate["question"]
        if question is None:
            self.log.info("no approval is required")
            return None
        self.subject, self.body = question["subject"], question["body"]
        self.defaults = [question["default"]]
        self.response_timeout = timedelta(hours=question["timeout_hours"])
        self.log.info("%s\n%s", self.subject, self.body)
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Answer:
        """Go on with the answer, or with the default once the time is over."""
        context["mapped_model"] = self.candidate["model"]
        response = super().execute_complete(context, event)
        user = response["responded_by_user"]
        answer = Answer(chosen=response["chosen_options"][0], by=user and (user["name"] or user["id"]))
        self.log.info("%s, by %s", answer["chosen"], answer["by"] or "default: nobody answered in time")
        return answer
