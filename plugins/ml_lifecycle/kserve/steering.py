"""What a person may tell an open rollout: an order on its Lease, which the next look obeys. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Self

from ml_lifecycle.kserve.rollout import Decision, Phase, RolloutState

STEERING_ANNOTATION = "ml-lifecycle.io/steering"


class Action(StrEnum):
    """What a person wants of the rollout."""

    APPROVE = "approve"
    FREEZE = "freeze"
    RESUME = "resume"
    ROLL_BACK = "roll_back"
    PROMOTE = "promote"


@dataclass(frozen=True)
class Order:
    """One action, by whom and why; `at` in Unix seconds tells it from earlier ones."""

    action: Action
    by: str
    reason: str
    at: float

    @property
    def words(self) -> str:
        """By whom and why."""
        return f"{self.by}: {self.reason}" if self.reason else self.by

    def to_json(self) -> dict[str, Any]:
        """JSON of it."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Of `to_json`."""
        return cls(**{**document, "action": Action(document["action"])})


def objection(state: RolloutState, action: Action) -> str:
    """Why the order makes no sense now; empty where it does."""
    model = state.service
    if state.phase is Phase.CLOSED or state.decision is not None:
        return f"no rollout of {model!r} is open: there is nothing to {action.value.replace('_', ' ')}"
    if action in (Action.APPROVE, Action.PROMOTE) and state.phase is not Phase.CANARY:
        return f"the rollout of {model!r} is {state.phase.value}: it has no traffic yet; wait for its smoke test"
    if action is Action.RESUME and not state.frozen:
        return f"the rollout of {model!r} is not frozen"
    return ""


def steered(state: RolloutState, order: Order | None) -> RolloutState:
    """The state that obeys `order`; one that it has obeyed already changes nothing."""
    if order is None or order.at <= state.steered_at or objection(state, order.action):
        return state
    state = replace(state, steered_at=order.at)
    if order.action is Action.APPROVE:
        return replace(state, approved=(*state.approved, state.percent))
    if order.action is Action.FREEZE:
        return replace(state, frozen=order.words)
    if order.action is Action.RESUME:
        return replace(state, frozen="")
    decision = Decision.PROMOTED if order.action is Action.PROMOTE else Decision.ROLLED_BACK
    return state.decide(decision, f"by hand, {order.words}")
