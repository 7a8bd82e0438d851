from __future__ import annotations

import dataclasses

import pytest

from ml_lifecycle.settings import Approval
from ml_lifecycle.tracking.approval import Answer, Question, Ruling, question, rule
from ml_lifecycle.tracking.evaluation import Contestant, Evaluation
from ml_lifecycle.tracking.gate import Limits, judge
from ml_lifecycle.tracking.paired import Pairs

LIMITS = Limits(
    min_accuracy=0.5, max_loss=1, max_accuracy_drop=0.1, confidence=0.9, max_onnx_difference=1, min_class_accuracy=0.1
)
CHALLENGER = Contestant("", accuracy=0.9, loss=0.4, calibration_error=0.03, latency_ms=2.0, model_bytes=3_000_000)
EVALUATION = Evaluation(
    challenger=CHALLENGER,
    champion=dataclasses.replace(CHALLENGER, version="4", latency_ms=1.25),
    pairs=Pairs(300, 20, 20, 20),
    holdout_images=360,
    class_accuracy={f"class {place:02}": 0.5 + place / 100 for place in range(30)} | {"a|b": 0.2},
    class_images={f"class {place:02}": 12 for place in range(30)} | {"a|b": 12},
    onnx_difference=0.0,
)
ASKED = Question(subject="?", body="", timeout_hours=1.5, default="Reject", barred=["bob"])


def test_the_form_shows_the_evidence() -> None:
    asked = question(
        Approval(required=True, timeout_hours=1.5, default="approve"),
        judge(EVALUATION, LIMITS, champion="4"),
        EVALUATION,
        model="digits",
        version="5",
        run_url="http://mlflow/run",
    )

    assert asked["subject"] == "May digits version 5 become champion?"
    assert (asked["timeout_hours"], asked["default"]) == (1.5, "Approve")
    lines = asked["body"].splitlines()
    assert "[MLflow run](http://mlflow/run)" in lines[0]
    assert "| accuracy | 0.9 | 0.8779 … 0.9185 | >= 0.5 | passed | 360 images |" in lines
    assert "| p95 of one image on one CPU thread | 2.00 ms | 1.25 ms |" in lines
    assert any(line.startswith("| accuracy_against_champion | 0 | -0.0") for line in lines)
    # The classes closest to their floor, and a name that would break the table.
    assert len([line for line in lines if line.startswith("| class_accuracy")]) == 10
    assert any(line.startswith("| class_accuracy of 'a\\|b' | 0.2") for line in lines)
    assert "Without an answer within 1.5 h: *Approve*." in lines[-1]


@pytest.mark.parametrize(
    ("asked", "answer", "ruling"),
    [
        (None, None, Ruling(approved=True, words="not required")),
        (ASKED, None, Ruling(False, "not approved: the task was marked as success, which names no person")),
        (
            ASKED,
            Answer(chosen="Approve", by="bob"),
            Ruling(False, "not approved: bob asked for it; clear the task approve, and let another person answer"),
        ),
        (ASKED, Answer(chosen="Reject", by="bob"), Ruling(approved=False, words="rejected by bob")),
        (ASKED, Answer(chosen="Approve", by="ann"), Ruling(approved=True, words="approved by ann")),
        (ASKED, Answer(chosen="Reject", by="ann"), Ruling(approved=False, words="rejected by ann")),
        (ASKED, Answer(chosen="Reject", by=None), Ruling(False, "rejected by default: no answer within 1.5 h")),
    ],
)
def test_what_an_answer_means(asked: Question | None, answer: Answer | None, ruling: Ruling) -> None:
    assert rule(asked, answer) == ruling


@pytest.mark.parametrize(("by_another", "barred"), [(True, ["ann", "bob"]), (False, [])])
def test_who_asked_for_it_is_barred_from_answering_where_settings_say_so(
    *, by_another: bool, barred: list[str]
) -> None:
    asked = question(
        Approval(required=True, by_another=by_another),
        judge(EVALUATION, LIMITS, champion="4"),
        EVALUATION,
        model="digits",
        version="5",
        run_url="http://mlflow/run",
        askers=("bob", "ann", "bob", ""),
    )

    assert asked["barred"] == barred
    assert ("Not by ann, bob, who asked for it." in asked["body"]) is by_another
