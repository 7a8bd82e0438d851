from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_lifecycle.tracking.evaluation import Contestant, Evaluation
from ml_lifecycle.tracking.exceptions import EvaluationUnreadableError
from ml_lifecycle.tracking.gate import Judgement, Limits, Outcome, judge
from ml_lifecycle.tracking.paired import Pairs

LIMITS = Limits(min_accuracy=0.8, max_loss=1.0, max_accuracy_drop=0.02, confidence=0.95, max_onnx_difference=1e-3)
CHALLENGER = Contestant("", accuracy=0.9, loss=0.4, calibration_error=0.03, latency_ms=2.0, model_bytes=3_000_000)
FIRST = Evaluation(
    challenger=CHALLENGER,
    champion=None,
    pairs=None,
    holdout_images=360,
    class_accuracy={"a": 0.95, "b": 0.85},
    class_images={"a": 180, "b": 180},
    onnx_difference=1e-6,
)
number = st.floats(allow_nan=True, allow_infinity=True)


def first(**changes: Any) -> Evaluation:
    """An evaluation without a champion; changes of the challenger's numbers and of the evaluation's own."""
    own = {key: changes.pop(key) for key in list(changes) if key in vars(CHALLENGER)}
    return dataclasses.replace(FIRST, challenger=dataclasses.replace(CHALLENGER, **own), **changes)


def beside(pairs: Pairs, version: str = "4") -> Evaluation:
    """A candidate that was measured beside a champion."""
    champion = dataclasses.replace(CHALLENGER, version=version)
    return dataclasses.replace(FIRST, champion=champion, pairs=pairs, holdout_images=pairs.images)


def test_the_first_model_of_a_name_needs_absolute_limits_only() -> None:
    judgement = judge(FIRST, LIMITS)

    assert judgement.passed
    assert [check.name for check in judgement.checks] == ["accuracy", "loss", "onnx_difference"]


@pytest.mark.parametrize(
    ("changes", "limits", "said"),
    [
        ({"accuracy": 0.75}, {}, "accuracy 0.75 is not >= 0.8, by 0.05 (360 images)"),
        ({"loss": 3.0}, {}, "loss 3 is not <= 1, by 2"),
        ({"onnx_difference": 0.5}, {}, "onnx_difference 0.5 is not <= 0.001, by 0.499"),
        ({}, {"max_model_mb": 2.5}, "model_mb 3 is not <= 2.5, by 0.5"),
        ({}, {"max_latency_ms": 1.5}, "latency_ms 2 is not <= 1.5, by 0.5 (p95, one CPU thread)"),
        ({}, {"min_class_accuracy": 0.9}, "class_accuracy of 'b' 0.85 is not >= 0.9, by 0.05 (180 images)"),
        ({}, {"class_floors": {"a": 0.97}}, "class_accuracy of 'a' 0.95 is not >= 0.97, by 0.02 (180 images)"),
    ],
)
def test_a_refusal_says_which_check_and_by_how_much(changes: dict[str, Any], limits: dict[str, Any], said: str) -> None:
    assert judge(first(**changes), dataclasses.replace(LIMITS, **limits)).refusals == [said]


def test_a_named_floor_replaces_the_floor_of_all() -> None:
    limits = dataclasses.replace(LIMITS, min_class_accuracy=0.9, class_floors={"b": 0.8})

    assert judge(FIRST, limits).passed


def test_a_floor_for_an_unknown_class_is_refused_with_the_known_ones() -> None:
    refusals = judge(FIRST, dataclasses.replace(LIMITS, class_floors={"c": 0.5})).refusals

    assert len(refusals) == 1
    assert "class_accuracy of 'c' is unknown" in refusals[0]
    assert refusals[0].endswith("it has a, b")


def test_a_class_without_held_out_images_has_nothing_that_speaks_for_it() -> None:
    evaluation = first(class_images={"a": 360, "b": 0}, class_accuracy={"a": 0.95})

    assert judge(evaluation, LIMITS).passed
    refusals = judge(evaluation, dataclasses.replace(LIMITS, min_class_accuracy=0.1)).refusals
    assert refusals == [
        "class_accuracy of 'b' is unknown: no held-out image shows it; add images, or take the floor away"
    ]


def test_few_images_of_a_class_are_told_but_do_not_decide() -> None:
    evaluation = first(class_images={"a": 357, "b": 3}, class_accuracy={"a": 0.95, "b": 1.0})

    judgement = judge(evaluation, dataclasses.replace(LIMITS, min_class_accuracy=0.9))

    (row,) = [row for row in judgement.rows() if row["class"] == "b"]
    assert (row["outcome"], row["note"]) == ("passed", "3 images")
    assert row["lower"] < 0.6


@pytest.mark.parametrize(
    ("pairs", "passed"),
    [
        (Pairs(340, 0, 0, 20), True),  # never disagree
        (Pairs(340, 8, 8, 4), True),  # as often better as worse, on enough images
        (Pairs(300, 40, 2, 18), True),  # better
        (Pairs(340, 2, 6, 12), False),  # 1.1 % worse, and it might be more
        (Pairs(320, 2, 20, 18), False),  # 5 % worse
        (Pairs(30, 0, 0, 5), False),  # 35 images show nothing
    ],
)
def test_it_must_be_shown_that_the_champion_is_not_missed_by_more_than_the_drop(pairs: Pairs, passed: bool) -> None:
    assert judge(beside(pairs), LIMITS, champion="4").passed is passed


def test_a_refusal_tells_too_few_images_from_a_worse_model() -> None:
    (small,) = judge(beside(Pairs(30, 0, 0, 5)), LIMITS, champion="4").refusals
    (worse,) = judge(beside(Pairs(320, 2, 20, 18)), LIMITS, champion="4").refusals

    assert small.startswith("accuracy_against_champion 0, at least -0.0717545, is not >= -0.02, by 0.0518 (version 4; ")
    assert small.endswith("the hold-out is too small to tell: about 133 images would do)")
    assert "2 gained and 20 lost" in worse
    assert "too small" not in worse


@pytest.mark.parametrize("version", [None, "3"])
def test_a_comparison_with_another_champion_is_none(version: str | None) -> None:
    evaluation = FIRST if version is None else beside(Pairs(0, 360, 0, 0), version)

    judgement = judge(evaluation, LIMITS, champion="4")

    assert not judgement.passed
    assert "version 4 is champion" in judgement.refusals[0]
    assert "train again" in judgement.refusals[0]


def test_the_evidence_is_complete_and_plain() -> None:
    limits = dataclasses.replace(LIMITS, min_class_accuracy=0.9, max_model_mb=10)
    judgement = judge(dataclasses.replace(beside(Pairs(340, 8, 8, 4)), onnx_difference=math.nan), limits, champion="4")

    tags = judgement.tags()
    assert tags["gate"] == "refused"
    assert tags["gate.accuracy"].startswith("passed: accuracy 0.9")
    assert tags["gate.onnx_difference"].startswith("refused: ")
    assert tags["gate.class_accuracy"] == "refused: class_accuracy of 'b' 0.85 is not >= 0.9, by 0.05 (180 images)"
    assert "0.95 confident" in tags["gate.accuracy_against_champion"]
    assert "mid-p" in tags["gate.accuracy_against_champion"]
    rows = json.loads(json.dumps(judgement.rows(), allow_nan=False))
    assert [row["check"] for row in rows] == [check.name for check in judgement.checks]
    assert rows[-1]["lower"] < rows[-1]["value"] == 0 < rows[-1]["upper"]
    assert rows[2]["value"] == "nan"


@given(st.fixed_dictionaries(dict.fromkeys(("accuracy", "loss", "onnx_difference", "latency_ms"), number)))
def test_what_is_not_finite_never_passes(found: dict[str, float]) -> None:
    judgement = judge(first(**found), dataclasses.replace(LIMITS, max_latency_ms=5))

    if not all(map(math.isfinite, found.values())):
        assert not judgement.passed


count = st.integers(0, 300)


@given(st.builds(Pairs, count, count, count, count), st.floats(0, 0.2), st.floats(0.55, 0.99))
def test_one_more_image_that_only_the_candidate_gets_right_never_refuses_it(
    pairs: Pairs, drop: float, confidence: float
) -> None:
    limits = dataclasses.replace(LIMITS, max_accuracy_drop=drop, confidence=confidence)
    gained = dataclasses.replace(pairs, only_challenger_right=pairs.only_challenger_right + 1)

    def judged(found: Pairs) -> Judgement:
        return judge(beside(found), limits, champion="4")

    assert judged(gained).passed or not judged(pairs).passed


@given(st.builds(Pairs, count, count, count, count))
def test_it_passes_exactly_when_nothing_is_refused(pairs: Pairs) -> None:
    judgement = judge(beside(pairs), LIMITS, champion="4")

    assert judgement.passed is (judgement.refusals == [])
    assert judgement.passed is all(check.outcome is Outcome.PASSED for check in judgement.checks)


def test_the_evaluation_is_read_as_the_job_writes_it() -> None:
    own = {"accuracy": 0.9, "loss": 0.4, "calibration_error": 0.03, "latency_ms": {"p50": 1.0, "p95": 2.0}}
    paired = {"both_right": 340, "only_challenger_right": 8, "only_champion_right": 8, "both_wrong": 4}
    document = {
        **own,
        "model_bytes": 3_000_000,
        "per_class": {"a": 0.95, "b": 0.85},
        "per_class_images": {"a": 180, "b": 180},
        "holdout_images": 360,
        "onnx_difference": 1e-6,
        "champion": {**own, "model_bytes": 3_000_000, "version": "4", "paired": paired},
        "serving_files": {},
        "model": "m",
    }

    assert Evaluation.from_document({**document, "champion": None}, "run", "m") == FIRST
    assert Evaluation.from_document(document, "run", "m") == beside(Pairs(**paired))
    with pytest.raises(EvaluationUnreadableError, match="it is of the model 'm', not of 'another'"):
        Evaluation.from_document(document, "run", "another")
    del document["per_class_images"]
    with pytest.raises(EvaluationUnreadableError, match=r"per_class_images.*train again"):
        Evaluation.from_document(document, "run", "m")
