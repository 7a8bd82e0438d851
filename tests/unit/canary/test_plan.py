import dataclasses

import pytest

from ml_lifecycle.canary.plan import Gate, Move, Plan, Position, expected_seconds, looks_to_see, next_move
from ml_lifecycle.canary.verdict import Limits, Outcome, Verdict

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


def test_a_step_begins_to_count_when_the_canary_has_warmed_up_on_it():
    warm = dataclasses.replace(position(), warmed=110.0)
    assert next_move(PLAN, warm, HOLD, 120) == (Move.STAY, "10 s left of this step")
    assert next_move(PLAN, warm, HOLD, 130)[0] is Move.NEXT_STEP


def test_a_warm_up_makes_the_promotion_later_by_as_many_looks():
    warming, steady = dataclasses.replace(PLAN, warmup_looks=7), {"requests_per_second": 200, "error_rate": 0.01}
    expected = [expected_seconds(plan, Limits(), **steady) for plan in (PLAN, warming)]
    assert expected[1] == expected[0] + 7 * PLAN.look_seconds


def test_a_step_that_waits_for_requests_makes_all_that_follows_later():
    """10 a minute: 50 requests take 50 looks at 10 %, and 10 more at 50 %."""
    slow = Plan((10, 50, 100), 60, 60, min_requests=50, deadline_seconds=36_000)
    hasty, limits = dataclasses.replace(slow, min_requests=0), Limits(floor=0.01)
    traffic = {"requests_per_second": 10 / 60, "error_rate": 0.0}
    assert expected_seconds(slow, limits, **traffic) > expected_seconds(hasty, limits, **traffic) + 30 * 60
    worse = {**traffic, "canary_rate": 0.1}
    assert looks_to_see(slow, limits, **worse) > looks_to_see(hasty, limits, **worse)


def test_many_looks_are_taken_together_with_nearly_the_same_outlook():
    few = Plan((10, 50, 100), 300, 60, min_requests=0, deadline_seconds=14_400)
    many = dataclasses.replace(few, look_seconds=1)
    traffic = {"requests_per_second": 20, "error_rate": 0.005}
    minutes = [expected_seconds(plan, Limits(), **traffic) / 60 for plan in (few, many)]
    assert minutes[1] == pytest.approx(minutes[0], rel=0.3)


def gated(**gate):
    return dataclasses.replace(PLAN, gates={10: Gate(**gate)}, approval_seconds=3600)


def test_a_gate_has_its_own_dwell_time_and_requests():
    assert next_move(gated(dwell_seconds=5), position(), HOLD, 105)[0] is Move.NEXT_STEP
    assert next_move(gated(min_requests=100), position(), HOLD, 120) == (
        Move.STAY,
        "80 of at least 100 requests on this step",
    )


def test_a_pause_until_a_moment_takes_no_step_and_no_deadline():
    plan = gated(until="1970-01-01T01:00:00Z")
    move, reason = next_move(plan, position(), HOLD, 200)
    assert (move, reason) == (Move.PAUSE, "paused until 1970-01-01 01:00 UTC")
    paused = dataclasses.replace(position(), paused_since=200.0)
    assert next_move(plan, paused, HOLD, 3599)[0] is Move.PAUSE
    assert next_move(plan, paused, HOLD, 3600)[0] is Move.NEXT_STEP
    assert next_move(plan, paused, ROLL_BACK, 300)[0] is Move.ROLL_BACK


@pytest.mark.parametrize(
    ("since", "opens_at"), [(0.0, 6.5 * 3600), (6.5 * 3600, 6.5 * 3600), (6.5 * 3600 + 1, 30.5 * 3600)]
)
def test_a_time_of_day_is_its_next_one_after_the_step_began(since, opens_at):
    assert Gate(until="06:30").opens_at(since) == opens_at


def test_approval_is_waited_for_until_it_is_too_late():
    plan = gated(approval=True)
    assert next_move(plan, position(), HOLD, 120) == (Move.PAUSE, "waits for approval")
    approved = dataclasses.replace(position(), approved=True)
    assert next_move(plan, approved, HOLD, 120)[0] is Move.NEXT_STEP
    paused = dataclasses.replace(position(), paused_since=120.0)
    assert next_move(plan, paused, HOLD, 3720)[0] is Move.ROLL_BACK


def test_blue_green_switches_after_its_checks_without_a_verdict_on_traffic():
    plan = Plan((0, 100), dwell_seconds=20, look_seconds=5, min_requests=50, deadline_seconds=600)
    where = position(requests=0)
    assert next_move(plan, where, HOLD, 110)[0] is Move.STAY
    assert next_move(plan, where, HOLD, 120)[0] is Move.PROMOTE


def test_frozen_by_hand_stays_but_for_a_bad_verdict():
    frozen = dataclasses.replace(position(step=1), frozen="ann")
    assert next_move(PLAN, frozen, PROMOTE, 5000) == (Move.PAUSE, "frozen by ann")
    assert next_move(PLAN, frozen, ROLL_BACK, 5000)[0] is Move.ROLL_BACK
