from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_lifecycle.tracking.gate import Judgement, Limits, Outcome, judge

LIMITS = Limits(min_accuracy=0.8, max_loss=1.0, max_accuracy_drop=0.02, max_onnx_difference=1e-3)
GOOD = {"holdout_accuracy": 0.9, "holdout_loss": 0.4, "onnx_difference": 1e-6}
metric = st.floats(allow_nan=True, allow_infinity=True)
metrics = st.dictionaries(
    st.sampled_from(["holdout_accuracy", "holdout_loss", "onnx_difference", "champion_accuracy"]), metric
)


def test_the_first_model_of_a_name_needs_absolute_limits_only() -> None:
    assert judge(GOOD, LIMITS).passed


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("holdout_accuracy", 0.75, "accuracy 0.75 is not >= 0.8, by 0.05"),
        ("holdout_loss", 3.0, "loss 3 is not <= 1, by 2"),
        ("onnx_difference", 0.5, "onnx_difference 0.5 is not <= 0.001, by 0.499"),
    ],
)
def test_a_refusal_says_which_check_and_by_how_much(name: str, value: float, said: str) -> None:
    assert judge(GOOD | {name: value}, LIMITS).refusals == [said]


@pytest.mark.parametrize(("accuracy", "passed"), [(0.88, True), (0.8799, False), (0.95, True)])
def test_the_champion_may_be_missed_by_the_allowed_drop_alone(accuracy: float, passed: bool) -> None:
    candidate = GOOD | {"holdout_accuracy": accuracy, "champion_accuracy": 0.9}

    assert judge(candidate, LIMITS, champion="4", compared_with="4").passed is passed


@pytest.mark.parametrize("compared_with", [None, "none", "3"])
def test_a_comparison_with_another_champion_is_none(compared_with: str | None) -> None:
    judgement = judge(GOOD | {"champion_accuracy": 0.1}, LIMITS, champion="4", compared_with=compared_with)

    assert not judgement.passed
    assert "version 4 is champion" in judgement.refusals[0]
    assert "train again" in judgement.refusals[0]


def test_the_evidence_is_complete_and_plain() -> None:
    judgement = judge(GOOD | {"holdout_loss": math.nan}, LIMITS)

    assert judgement.tags()["gate"] == "refused"
    assert judgement.tags()["gate.accuracy"].startswith("passed: accuracy 0.9")
    assert judgement.tags()["gate.loss"].startswith("refused: ")
    assert [row["value"] for row in judgement.rows()] == [0.9, "nan", 1e-6]


@given(metrics)
def test_what_is_missing_or_not_finite_never_passes(found: dict[str, float]) -> None:
    judgement = judge(found, LIMITS, champion="1", compared_with="1")
    needed = ["holdout_accuracy", "holdout_loss", "onnx_difference", "champion_accuracy"]

    if any(not math.isfinite(found.get(name, math.nan)) for name in needed):
        assert not judgement.passed


@given(
    st.fixed_dictionaries(
        {"holdout_accuracy": st.floats(0, 1), "holdout_loss": st.floats(0, 5), "onnx_difference": st.floats(0, 1)}
    ),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_a_better_candidate_is_never_judged_worse(found: dict[str, float], gain: float, champion: float) -> None:
    found |= {"champion_accuracy": champion}
    better = found | {
        "holdout_accuracy": min(1.0, found["holdout_accuracy"] + gain),
        "holdout_loss": found["holdout_loss"] * (1 - gain / 2),
    }

    def judged(values: dict[str, float]) -> Judgement:
        return judge(values, LIMITS, champion="1", compared_with="1")

    assert judged(better).passed or not judged(found).passed


@given(metrics)
def test_it_passes_exactly_when_nothing_is_refused(found: dict[str, float]) -> None:
    judgement = judge(found, LIMITS)

    assert judgement.passed is (judgement.refusals == [])
    assert judgement.passed is all(check.outcome is Outcome.PASSED for check in judgement.checks)
