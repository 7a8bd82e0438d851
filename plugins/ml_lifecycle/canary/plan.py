"""When a rollout takes its next step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Literal, NamedTuple

import numpy as np

from ml_lifecycle.canary.comparison import HISTORY_LOOKS, Flags, compare, without_noise
from ml_lifecycle.canary.dispersion import Array
from ml_lifecycle.canary.evidence import MOST_LOOKS
from ml_lifecycle.canary.verdict import Limits, Outcome, Verdict


@dataclass(frozen=True)
class Gate:
    """What one step asks for before it is left; None: what the plan asks for, or nothing.

    `until` is a time of day in UTC (`06:30`, its next one after the step began) or a moment in ISO 8601.
    """

    dwell_seconds: float | None = None
    min_requests: int | None = None
    approval: bool = False
    until: str | None = None

    def opens_at(self, since: float) -> float:
        """The Unix time before which a step that began at `since` is not left."""
        if self.until is None:
            return since
        if ":" not in self.until[:3]:
            return datetime.fromisoformat(self.until).timestamp()
        begun = datetime.fromtimestamp(since, UTC)
        hour, minute = self.until.split(":")
        moment = begun.replace(hour=int(hour), minute=int(minute), second=0, microsecond=0)
        return (moment if moment >= begun else moment + timedelta(days=1)).timestamp()


@dataclass(frozen=True)
class Plan:
    """Traffic percents rising to 100; times in seconds. `min_requests` are the canary's in one step.

    `gates`: what single steps ask for, by their percent. A step of 0 % proves nothing, so none of it is asked.
    `warmup_looks`: the canary's first looks with requests, which are no evidence and count for no step.
    """

    steps: tuple[int, ...]
    dwell_seconds: float
    look_seconds: float
    min_requests: int
    deadline_seconds: float
    on_deadline: Literal["roll_back", "freeze"] = "roll_back"
    gates: Mapping[int, Gate] = field(default_factory=dict)
    approval_seconds: float = math.inf
    warmup_looks: int = 0

    @property
    def canary_steps(self) -> tuple[int, ...]:
        """The steps below 100: reaching 100 is the promotion."""
        return tuple(step for step in self.steps if step < 100)


class Move(StrEnum):
    """What the rollout does after a look."""

    STAY = "stay"
    PAUSE = "pause"
    NEXT_STEP = "next_step"
    PROMOTE = "promote"
    ROLL_BACK = "roll_back"
    FREEZE = "freeze"


@dataclass(frozen=True)
class Position:
    """Where a rollout stands; times are Unix seconds.

    `opened_at` leaves pauses out, so that they cost no time of the deadline; `paused_since` is that of a pause that
    goes on; `frozen` says who stopped the rollout by hand, and why; `held` what the next step lacks. A step begins to
    count once the canary has `warmed` up on it.
    """

    step: int
    step_since: float
    step_requests: int
    opened_at: float
    approved: bool = False
    frozen: str = ""
    paused_since: float | None = None
    held: str = ""
    warmed: float = -math.inf


def next_move(plan: Plan, position: Position, verdict: Verdict, now: float) -> tuple[Move, str]:
    """The move, and why.

    A step ends after its dwell time, its minimum of requests and what else its gate asks for; only the last one before
    100 waits for the verdict `promote`. The verdict `roll_back` acts in a pause as well. A rollout that its deadline
    finds undecided ends as the plan says.
    """
    if verdict.outcome is Outcome.ROLL_BACK:
        return Move.ROLL_BACK, verdict.reason
    if position.frozen:
        return Move.PAUSE, f"frozen by {position.frozen}"
    percent = plan.canary_steps[position.step]
    gate = plan.gates.get(percent, Gate())
    last = position.step + 1 >= len(plan.canary_steps)
    waiting = _waiting_for(plan, gate, position, now)
    if not waiting and last and percent and verdict.outcome is not Outcome.PROMOTE:
        waiting = verdict.reason
    overdue = position.paused_since is None and now - position.opened_at >= plan.deadline_seconds
    if overdue and (waiting or not last):
        return _overdue(plan), f"undecided after {plan.deadline_seconds / 60:g} minutes: {verdict.reason}"
    if waiting:
        return Move.STAY, waiting
    if pause := _pause(gate, position, now):
        if position.paused_since is not None and now - position.paused_since >= plan.approval_seconds:
            return _overdue(plan), f"nobody approved the step of {percent} % in {plan.approval_seconds / 3600:g} hours"
        return Move.PAUSE, pause
    if position.held:
        late = now - position.opened_at >= plan.deadline_seconds
        undecided = f"undecided after {plan.deadline_seconds / 60:g} minutes: {position.held}"
        return (_overdue(plan), undecided) if late else (Move.STAY, position.held)
    return (Move.PROMOTE, verdict.reason) if last else (Move.NEXT_STEP, "dwell time and requests reached")


def _overdue(plan: Plan) -> Move:
    return Move.ROLL_BACK if plan.on_deadline == "roll_back" else Move.FREEZE


def _pause(gate: Gate, position: Position, now: float) -> str:
    """What the step waits for that only a clock or a person can bring; empty if nothing."""
    opens_at = gate.opens_at(position.step_since)
    if now < opens_at:
        return f"paused until {datetime.fromtimestamp(opens_at, UTC):%Y-%m-%d %H:%M} UTC"
    return "waits for approval" if gate.approval and not position.approved else ""


class _Course(NamedTuple):
    """What each look of a plan is expected to serve on both sides; `looks`: how many of the plan's each stands for.

    Until the look `last` is over the plan does not promote.
    """

    canary_n: Array
    stable_n: Array
    looks: int
    last: int


def expected_seconds(plan: Plan, limits: Limits, *, requests_per_second: float, error_rate: float) -> float:
    """Seconds until a version as good as the stable one is promoted; infinity if not before the deadline.

    `error_rate` is that of both sides, `requests_per_second` what both serve together. The evidence of a rollout
    without noise, judged on errors: half of all rollouts need more.
    """
    if not plan.canary_steps:
        return 0.0
    course = _course(plan, requests_per_second)
    if course is None:
        return math.inf
    counts = without_noise(course.canary_n, course.stable_n, error_rate)
    promote = compare(counts, limits.errors).promote[HISTORY_LOOKS:]
    may = promote & (np.arange(len(promote)) + 1 >= course.last)
    return plan.look_seconds * _looks(plan, course, may)


def looks_to_see(
    plan: Plan, limits: Limits, *, requests_per_second: float, error_rate: float, canary_rate: float
) -> float:
    """Looks until a canary with an error rate of `canary_rate` is rolled back; infinity if not before the deadline.

    As `expected_seconds`, without noise: half of all such canaries are seen earlier, half later.
    """
    course = _course(plan, requests_per_second)
    if course is None:
        return math.inf
    counts = without_noise(course.canary_n, course.stable_n, error_rate)
    counts = counts._replace(canary_e=canary_rate * counts.canary_n)
    return _looks(plan, course, compare(counts, limits.errors).roll_back[HISTORY_LOOKS:])


def _looks(plan: Plan, course: _Course, reached: Flags) -> float:
    """Looks until the first that has `reached` it, the warm-up's with them; infinity where none has."""
    return plan.warmup_looks + course.looks * float(reached.argmax() + 1) if reached.any() else math.inf


def _course(plan: Plan, requests_per_second: float) -> _Course | None:
    """The looks after the warm-up until the deadline; None where there are none. Many are taken together."""
    looks = int(plan.deadline_seconds / plan.look_seconds) - plan.warmup_looks
    together = max(1, math.ceil(looks / MOST_LOOKS))
    looks //= together
    if looks < 1:
        return None
    seconds = together * plan.look_seconds
    requests = requests_per_second * seconds
    lengths = [_expected_looks(plan, step, requests * step / 100, seconds, most=looks) for step in plan.canary_steps]
    walked = np.repeat(np.array(plan.canary_steps) / 100, lengths)[:looks]
    shares = np.concatenate([walked, np.full(looks - len(walked), plan.canary_steps[-1] / 100)])
    return _Course(requests * shares, requests * (1 - shares), together, sum(lengths))


def _expected_looks(plan: Plan, percent: int, canary_requests: float, seconds: float, *, most: int) -> int:
    """Looks that a step takes, `most` where it takes more, at so many canary requests in each of so many seconds."""
    gate = plan.gates.get(percent, Gate())
    dwell = plan.dwell_seconds if gate.dwell_seconds is None else gate.dwell_seconds
    wanted = plan.min_requests if gate.min_requests is None else gate.min_requests
    served = wanted / canary_requests if percent and canary_requests else 0.0
    return max(1, math.ceil(min(max(dwell / seconds, served), most)))


def _waiting_for(plan: Plan, gate: Gate, position: Position, now: float) -> str:
    dwell = plan.dwell_seconds if gate.dwell_seconds is None else gate.dwell_seconds
    left = max(position.step_since, position.warmed) + dwell - now
    # A look that comes a moment early must not cost the step another whole look.
    if left > plan.look_seconds / 4:
        return f"{left:.0f} s left of this step"
    wanted = plan.min_requests if gate.min_requests is None else gate.min_requests
    if plan.canary_steps[position.step] and position.step_requests < wanted:
        return f"{position.step_requests} of at least {wanted} requests on this step"
    return ""
