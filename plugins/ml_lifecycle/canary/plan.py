"""When a rollout takes its next step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import numpy as np

from ml_lifecycle.canary.comparison import HISTORY_LOOKS, compare, without_noise
from ml_lifecycle.canary.verdict import Limits, Outcome, Verdict


@dataclass(frozen=True)
class Plan:
    """Traffic percents rising to 100; times in seconds. `min_requests` are the canary's in one step."""

    steps: tuple[int, ...]
    dwell_seconds: float
    look_seconds: float
    min_requests: int
    deadline_seconds: float
    on_deadline: Literal["roll_back", "freeze"] = "roll_back"

    @property
    def canary_steps(self) -> tuple[int, ...]:
        """The steps below 100: reaching 100 is the promotion."""
        return tuple(step for step in self.steps if step < 100)


class Move(StrEnum):
    """What the rollout does after a look."""

    STAY = "stay"
    NEXT_STEP = "next_step"
    PROMOTE = "promote"
    ROLL_BACK = "roll_back"
    FREEZE = "freeze"


@dataclass(frozen=True)
class Position:
    """Where a rollout stands; times are Unix seconds."""

    step: int
    step_since: float
    step_requests: int
    opened_at: float


def next_move(plan: Plan, position: Position, verdict: Verdict, now: float) -> tuple[Move, str]:
    """The move, and why.

    A step ends after its dwell time and its minimum of requests; only the last one before 100 waits for the verdict
    `promote`. A rollout that its deadline finds undecided ends as the plan says.
    """
    if verdict.outcome is Outcome.ROLL_BACK:
        return Move.ROLL_BACK, verdict.reason
    waiting = _waiting_for(plan, position, now)
    last = position.step + 1 >= len(plan.canary_steps)
    if not waiting and last and verdict.outcome is Outcome.PROMOTE:
        return Move.PROMOTE, verdict.reason
    if now - position.opened_at >= plan.deadline_seconds:
        late = f"undecided after {plan.deadline_seconds / 60:g} minutes: {verdict.reason}"
        return (Move.ROLL_BACK if plan.on_deadline == "roll_back" else Move.FREEZE), late
    if waiting or last:
        return Move.STAY, waiting or verdict.reason
    return Move.NEXT_STEP, "dwell time and requests reached"


def expected_seconds(plan: Plan, limits: Limits, *, requests_per_second: float, error_rate: float) -> float:
    """Seconds until a version as good as the stable one is promoted; infinity if not before the deadline.

    `error_rate` is that of both sides, `requests_per_second` what both serve together. The evidence of a rollout
    without noise, judged on errors: half of all rollouts need more.
    """
    per_step = max(1, math.ceil(plan.dwell_seconds / plan.look_seconds))
    looks = int(plan.deadline_seconds / plan.look_seconds)
    steps = plan.canary_steps
    if not steps or looks < len(steps) * per_step:
        return math.inf if steps else 0.0
    shares = np.full(looks, steps[-1] / 100)
    shares[: per_step * len(steps)] = np.repeat([step / 100 for step in steps], per_step)
    requests = requests_per_second * plan.look_seconds
    canary, stable = requests * shares, requests * (1 - shares)
    promote = compare(without_noise(canary, stable, error_rate), limits.errors).promote[HISTORY_LOOKS:]
    may = promote & (np.arange(looks) + 1 >= len(steps) * per_step)
    return plan.look_seconds * float(may.argmax() + 1) if may.any() else math.inf


def _waiting_for(plan: Plan, position: Position, now: float) -> str:
    left = position.step_since + plan.dwell_seconds - now
    # A look that comes a moment early must not cost the step another whole look.
    if left > plan.look_seconds / 4:
        return f"{left:.0f} s left of this step"
    if position.step_requests < plan.min_requests:
        return f"{position.step_requests} of at least {plan.min_requests} requests on this step"
    return ""
