"""The rollout's state as the text of an annotation: typed when it is read, and never too large. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

from pydantic import ValidationError

from ml_lifecycle.canary.evidence import Evidence, Side, Window
from ml_lifecycle.kserve.exceptions import StateTooLargeError, UnreadableStateError
from ml_lifecycle.kserve.rollout import RolloutState, Step
from ml_lifecycle.kserve.trace import halved

BUDGET = 128 * 1024
"""Bytes; Kubernetes allows 262,144 for all annotations of an object together."""

_TELLING_POINTS = 15
_TELLING_LOOKS = 45
_LONGEST_TEXT = 500
_LONGEST_OF_A_STEP = 100


def write(state: RolloutState, budget: int = BUDGET) -> tuple[RolloutState, str]:
    """The state as it fits into `budget` bytes, and its text; StateTooLargeError where even the barest does not.

    Looks are added up by pairs until they fit, first those of the picture, then those of the evidence, which makes the
    verdict only more careful. What closing needs is never dropped.
    """
    text = ""
    for fitted in _ever_smaller(state):
        text = json.dumps(fitted.to_json(), separators=(",", ":"))
        if len(text) <= budget:
            return fitted, text
    raise StateTooLargeError(state.service, len(text), budget)


def bare(state: RolloutState) -> RolloutState:
    """What closing needs: without evidence and trace, the steps' counts alone, long reasons cut."""
    return replace(
        state,
        evidence=Evidence(),
        snapshot=None,
        trace=(),
        steps=tuple(_bare_step(step) for step in state.steps),
        reason=state.reason[:_LONGEST_TEXT],
        outlook=state.outlook[:_LONGEST_TEXT],
        frozen=state.frozen[:_LONGEST_TEXT],
        paused_for=state.paused_for[:_LONGEST_TEXT],
    )


def read(text: str) -> RolloutState:
    """Of `write`, of other versions of this package too: fields that it does not know are left out.

    UnreadableStateError names what is wrong.
    """
    try:
        return RolloutState.from_json(json.loads(text))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UnreadableStateError(f"{where}: {first['msg']}") from None
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise UnreadableStateError(f"{type(error).__name__}: {str(error)[:_LONGEST_TEXT]}") from None


def _ever_smaller(state: RolloutState) -> Iterator[RolloutState]:
    yield state
    while len(shorter := halved(state.trace)) < len(state.trace) > _TELLING_POINTS:
        state = replace(state, trace=shorter)
        yield state
    while state.evidence.most_looks > _TELLING_LOOKS:
        state = replace(state, evidence=state.evidence.halved())
        yield state
    state = replace(state, trace=())
    yield state
    while state.evidence.most_looks > 1:
        state = replace(state, evidence=state.evidence.halved())
        yield state
    yield bare(state)


def _bare_step(step: Step) -> Step:
    canary, stable = (Side(side.requests, side.errors) for side in (step.seen.canary, step.seen.stable))
    return replace(step, seen=Window(canary, stable), reason=step.reason[:_LONGEST_OF_A_STEP])
