"""What a person may tell an open rollout: orders on its Lease, which the next look obeys in their order. Pure."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ml_lifecycle.kserve.exceptions import UnreadableStateError
from ml_lifecycle.kserve.rollout import Decision, Phase, RolloutState

STEERING_ANNOTATION = "ml-lifecycle.io/steering"
_MOST_ORDERS = 20
_LONGEST_TEXT = 500


class Action(StrEnum):
    """What a person wants of the rollout."""

    APPROVE = "approve"
    FREEZE = "freeze"
    RESUME = "resume"
    ROLL_BACK = "roll_back"
    PROMOTE = "promote"


@dataclass(frozen=True)
class Order:
    """One action, by whom and why.

    `number` counts the orders to one rollout from 1 on; no clock tells them apart. `given_in` is the DAG run that gave
    it: a second try of its task gives no second order.
    """

    action: Action
    by: str
    reason: str
    number: int = 0
    given_in: str = ""

    @property
    def words(self) -> str:
        """By whom and why."""
        return f"{self.by}: {self.reason}" if self.reason else self.by


Orders = tuple[Order, ...]


def write(orders: Iterable[Order]) -> str:
    """Text of an annotation: the latest orders, without what is too long to be read."""
    latest = [
        replace(order, by=order.by[:_LONGEST_TEXT], reason=order.reason[:_LONGEST_TEXT])
        for order in tuple(orders)[-_MOST_ORDERS:]
    ]
    return json.dumps([asdict(order) for order in latest], separators=(",", ":"))


def read(text: str) -> Orders:
    """Of `write`; UnreadableStateError where it is no list of orders."""
    try:
        found: Orders = _typed().validate_json(text)
    except ValidationError as error:
        raise UnreadableStateError(f"orders: {error.errors(include_input=False)[0]['msg']}") from None
    return found


@functools.cache
def _typed() -> TypeAdapter[Any]:
    return TypeAdapter(Orders)


def appended(orders: Orders, order: Order, state: RolloutState) -> Orders:
    """With one more order to the rollout, numbered after all before."""
    number = max((state.steered, *(earlier.number for earlier in orders))) + 1
    return (*orders, replace(order, number=number))


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


def steered(state: RolloutState, orders: Iterable[Order]) -> RolloutState:
    """The state that obeys `orders`, each once and one after the other; none comes after the end was decided."""
    for order in sorted(orders, key=lambda order: order.number):
        if order.number > state.steered and state.decision is None and state.phase is not Phase.CLOSED:
            state = replace(_obeyed(state, order), steered=order.number)
    return state


def _obeyed(state: RolloutState, order: Order) -> RolloutState:
    if objection(state, order.action):
        return state
    if order.action is Action.APPROVE:
        return replace(state, approved=(*state.approved, state.percent))
    if order.action is Action.FREEZE:
        return replace(state, frozen=order.words)
    if order.action is Action.RESUME:
        return replace(state, frozen="")
    decision = Decision.PROMOTED if order.action is Action.PROMOTE else Decision.ROLLED_BACK
    return state.decide(decision, f"by hand, {order.words}")
