import dataclasses

import pytest

from ml_lifecycle.canary.plan import Move, Plan, Position, next_move
from ml_lifecycle.canary.verdict import Outcome, Verdict

PLAN = Plan((10, 50, 100), dwell_seconds=20, look_seconds=5, min_requests=50, deadline_seconds=600)
HOLD, PROMOTE, ROLL_BACK = (
    Verdict(outcome, ("because",)) for outcome in (Outcome.HOLD, Outcome.PROMOTE, Outcome.ROLL_BACK)
)


def position(step=0, since=100.0, requests=80):
    return Position(step=step, step_since=since, step_requests=requests, opened_at=0.0)


@pytest.mark.parametrize(
    ("where", "verdict", "now", "move"),
    [
        (position(), HOLD, 110, Move.STAY),
        (position(), HOLD, 120, Move.NEXT_STEP),
        (position(requests=49), HOLD, 120, Move.STAY),
        (position(), PROMOTE, 110, Move.STAY),
        (position(step=1), HOLD, 500, Move.STAY),
        (position(step=1), PROMOTE, 120, Move.PROMOTE),
        (position(step=1), PROMOTE, 110, Move.STAY),
        (position(), ROLL_BACK, 101, Move.ROLL_BACK),
        (position(), HOLD, 600, Move.ROLL_BACK),
        (position(), PROMOTE, 600, Move.ROLL_BACK),
        (position(step=1), PROMOTE, 600, Move.PROMOTE),
    ],
)
def test_moves(where, verdict, now, move):
    assert next_move(PLAN, where, verdict, now)[0] is move


def test_the_deadline_may_freeze():
    plan = dataclasses.replace(PLAN, on_deadline="freeze")
    assert next_move(plan, position(), HOLD, 600) == (Move.FREEZE, "undecided after 10 minutes: because")
    assert next_move(plan, position(), ROLL_BACK, 600)[0] is Move.ROLL_BACK
