"""What a pass decided about one scaler: a row of the log's table and of the XCom. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ml_lifecycle.scaling.resource import Scaler
from ml_lifecycle.scaling.status import Findings, without_metrics


@dataclass(frozen=True)
class Decision:
    """One scaler in one pass; loads in the metric's unit, None where unknown."""

    namespace: str
    name: str
    target: str  # kind/name
    at: str  # ISO time
    mode: str
    load: float | None
    forecast: float | None  # highest load of the coming horizon, where it is trusted
    horizon_seconds: float | None
    replicas: int | None  # asked for before
    desired: int | None
    written: bool
    cause: str
    why: str
    error: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values, for XCom."""
        return dataclasses.asdict(self)


def decision_of(scaler: Scaler, found: Findings, now: datetime) -> Decision:
    """The row for what was found out about `scaler`."""
    spec, decided, predicted = scaler.spec, found.plan, found.forecast
    cause, why, error = _explain(scaler, found)
    return Decision(
        namespace=scaler.namespace,
        name=scaler.name,
        target=f"{spec.target_ref.kind}/{spec.target_ref.name}" if spec else "",
        at=now.isoformat(timespec="seconds"),
        mode=spec.mode if spec else "",
        load=found.load,
        forecast=predicted.peak if predicted is not None and predicted.trusted else None,
        horizon_seconds=found.horizon_seconds,
        replicas=decided.current if decided else None,
        desired=decided.desired if decided else None,
        written=found.written,
        cause=cause,
        why=why,
        error=error,
    )


def unlisted_decision(namespace: str | None, reason: str, now: datetime) -> Decision:
    """The row for all MLScalers of a namespace that could not be listed."""
    return Decision(
        namespace=namespace or "*",
        name="*",
        target="",
        at=now.isoformat(timespec="seconds"),
        mode="",
        load=None,
        forecast=None,
        horizon_seconds=None,
        replicas=None,
        desired=None,
        written=False,
        cause="NotListed",
        why=f"its MLScalers could not be listed: {reason}",
        error=True,
    )


def table(decisions: Sequence[Decision]) -> str:
    """The decisions as a table: name, now, forecast, replicas, desired, why."""
    rows = [("NAME", "NOW", "FORECAST", "REPLICAS", "DESIRED", "WHY")]
    rows += [
        (
            f"{decision.namespace}/{decision.name}",
            _number(decision.load),
            _number(decision.forecast),
            _number(decision.replicas),
            _number(decision.desired) + ("" if decision.written or decision.desired == decision.replicas else " (dry)"),
            decision.why,
        )
        for decision in decisions
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[5]]) for row in rows
    )


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def _explain(scaler: Scaler, found: Findings) -> tuple[str, str, bool]:
    """Cause, sentence, and whether it is an error."""
    reasons = [
        (found.invalid, "InvalidSpec", True),
        (found.conflict, "Conflict", True),
        (found.error, found.error_reason, True),
        (f"left alone: {found.rollout}" if found.rollout else "", "RolloutInProgress", False),
        ("deleted" if scaler.deleting else "", "Deleted", False),
        (without_metrics(found.plan, found.metric_error) if found.metric_error else "", "MetricsMissing", True),
    ]
    for text, cause, error in reasons:
        if text:
            return cause, text, error
    return (str(found.plan.cause), found.plan.reason, False) if found.plan else ("NotReached", "not reached", True)
