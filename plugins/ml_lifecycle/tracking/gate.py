"""The gate: may a candidate become champion? Pure: numbers in, a judgement with its evidence out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

ACCURACY = "holdout_accuracy"
LOSS = "holdout_loss"
CHAMPION_ACCURACY = "champion_accuracy"
ONNX_DIFFERENCE = "onnx_difference"


class Outcome(StrEnum):
    """How a check ended."""

    PASSED = "passed"
    REFUSED = "refused"


@dataclass(frozen=True)
class Limits:
    """What settings ask of a candidate; see `settings.Gate` for each."""

    min_accuracy: float
    max_loss: float
    max_accuracy_drop: float
    max_onnx_difference: float


@dataclass(frozen=True)
class Check:
    """One comparison. `value` is None where the metric is missing, NaN where it is broken: both are refused."""

    name: str
    value: float | None
    relation: str
    limit: float
    note: str = ""

    @property
    def outcome(self) -> Outcome:
        """Refused unless a finite value stands in the relation to the limit."""
        if self.value is None or not math.isfinite(self.value) or not math.isfinite(self.limit):
            return Outcome.REFUSED
        holds = self.value >= self.limit if self.relation == ">=" else self.value <= self.limit
        return Outcome.PASSED if holds else Outcome.REFUSED

    @property
    def sentence(self) -> str:
        """`accuracy 0.91 is not >= 0.95: short by 0.04`."""
        if self.value is None:
            return f"{self.name} is unknown: {self.note or f'it must be {self.relation} {self.limit:.6g}'}"
        negation = "" if self.outcome is Outcome.PASSED else "not "
        said = f"{self.name} {self.value:.6g} is {negation}{self.relation} {self.limit:.6g}"
        distance = abs(self.value - self.limit)
        return said if self.outcome is Outcome.PASSED or not math.isfinite(distance) else f"{said}, by {distance:.3g}"


@dataclass(frozen=True)
class Judgement:
    """All checks of one candidate."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.outcome is Outcome.PASSED for check in self.checks)

    @property
    def outcome(self) -> Outcome:
        """The gate's outcome."""
        return Outcome.PASSED if self.passed else Outcome.REFUSED

    @property
    def refusals(self) -> list[str]:
        """What was refused, and by how much."""
        return [check.sentence for check in self.checks if check.outcome is Outcome.REFUSED]

    def tags(self) -> dict[str, str]:
        """The evidence as tags of the model version."""
        tags = {f"gate.{check.name}": f"{check.outcome}: {check.sentence}" for check in self.checks}
        return {"gate": str(self.outcome), **tags}

    def rows(self) -> list[dict[str, Any]]:
        """The evidence as rows of a table; what is not finite is written as text, which JSON can hold."""
        return [
            {
                "check": check.name,
                "value": check.value if check.value is None or math.isfinite(check.value) else str(check.value),
                "relation": check.relation,
                "limit": check.limit if math.isfinite(check.limit) else str(check.limit),
                "outcome": str(check.outcome),
            }
            for check in self.checks
        ]


def judge(
    metrics: Mapping[str, float], limits: Limits, *, champion: str | None = None, compared_with: str | None = None
) -> Judgement:
    """Judge a candidate by the metrics of its MLflow run.

    `champion` is the version that holds the alias now, None for the first model of a name: absolute limits decide
    then. `compared_with` is the version that the evaluate job measured on the candidate's own hold-out. Where they
    differ the comparison says nothing, and the candidate is refused.
    """
    checks: list[Check] = [
        Check("accuracy", metrics.get(ACCURACY), ">=", limits.min_accuracy),
        Check("loss", metrics.get(LOSS), "<=", limits.max_loss),
        Check("onnx_difference", metrics.get(ONNX_DIFFERENCE), "<=", limits.max_onnx_difference),
    ]
    if champion is not None:
        checks.append(_against_champion(metrics, limits, champion, compared_with))
    return Judgement(tuple(checks))


def _against_champion(metrics: Mapping[str, float], limits: Limits, champion: str, compared_with: str | None) -> Check:
    name = "accuracy_against_champion"
    measured = metrics.get(CHAMPION_ACCURACY)
    if champion != compared_with or measured is None:
        note = (
            f"version {champion} is champion, but the candidate was measured against "
            f"{f'version {compared_with}' if compared_with else 'none'}; train again"
        )
        return Check(name, None, ">=", math.nan, note)
    return Check(name, metrics.get(ACCURACY), ">=", measured - limits.max_accuracy_drop)
