"""The operator as Airflow drives it: what it writes into the form, and how it resumes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from ml_lifecycle.tracking.operators import PromotionApprovalOperator

QUESTION = {"subject": "May m version 2 become champion?", "body": "| a |", "timeout_hours": 2.0, "default": "Reject"}


def operator(question: dict[str, Any] | None) -> PromotionApprovalOperator:
    return PromotionApprovalOperator(
        task_id="approve", candidate={"model": "m", "question": question}, execution_timeout=timedelta(minutes=15)
    )


def context() -> Any:
    return {"task_instance": SimpleNamespace(id="ti")}


def test_nothing_waits_where_nothing_is_asked() -> None:
    assert operator(None).execute(context()) is None


def test_the_form_holds_what_settings_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.providers.standard.operators import hitl
    from airflow.sdk.exceptions import TaskAwaitingInput

    written: dict[str, Any] = {}
    monkeypatch.setattr(hitl, "upsert_hitl_detail", lambda **detail: written.update(detail))
    found = context()

    with pytest.raises(TaskAwaitingInput) as parked:
        operator(QUESTION).execute(found)

    assert written["subject"] == QUESTION["subject"]
    assert written["body"] == QUESTION["body"]
    assert (written["options"], written["defaults"]) == (["Approve", "Reject"], ["Reject"])
    assert parked.value.timeout == timedelta(hours=2)
    assert found["mapped_model"] == "m"


def test_the_dag_s_time_limit_is_not_taken_for_the_person_s() -> None:
    made = operator(QUESTION)

    assert made.execution_timeout is None
    assert made.response_timeout is None


@pytest.mark.parametrize(
    ("chosen", "user", "answer"),
    [
        ("Approve", {"id": "7", "name": "ann"}, {"chosen": "Approve", "by": "ann"}),
        ("Reject", {"id": "7", "name": ""}, {"chosen": "Reject", "by": "7"}),
        ("Reject", None, {"chosen": "Reject", "by": None}),
    ],
)
def test_it_resumes_with_the_answer(chosen: str, user: dict[str, str] | None, answer: dict[str, Any]) -> None:
    event = {
        "chosen_options": [chosen],
        "params_input": {},
        "responded_at": datetime(2026, 1, 1, tzinfo=UTC),
        "responded_by_user": user,
        "timedout": user is None,
    }

    assert operator(QUESTION).execute_complete(context(), event) == answer


def test_an_answer_that_was_no_option_is_refused() -> None:
    event = {"chosen_options": ["Perhaps"], "params_input": {}, "responded_at": None, "responded_by_user": None}

    with pytest.raises(ValueError, match="Perhaps"):
        operator(QUESTION).execute_complete(context(), event)
