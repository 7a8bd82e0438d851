"""A person's order to an open rollout."""

import dataclasses

import pytest

from ml_lifecycle.canary.snapshot import Gap
from ml_lifecycle.kserve.exceptions import UnreadableStateError
from ml_lifecycle.kserve.look import look
from ml_lifecycle.kserve.rollout import Decision, Phase, RolloutState
from ml_lifecycle.kserve.steering import Action, Order, appended, objection, read, steered, write
from tests.unit.kserve.kserve_status import BAD, GOOD, seen
from tests.unit.kserve.test_kserve_rollout import CANARY, run, state

SPLIT = seen(**CANARY, percent=10, traffic={BAD: 10, GOOD: 90})


def order(action, number=1):
    return Order(Action(action), "ann", "it is late", number)


@pytest.mark.parametrize(("action", "decision"), [("roll_back", Decision.ROLLED_BACK), ("promote", Decision.PROMOTED)])
def test_an_end_by_hand_says_who_and_why(action, decision):
    found = steered(state(), [order(action)])
    assert (found.decision, found.reason) == (decision, "by hand, ann: it is late")


def test_an_order_is_obeyed_once():
    frozen = steered(state(), [order("freeze")])
    assert frozen.frozen == "ann: it is late"
    resumed = steered(frozen, [order("freeze"), order("resume", 2)])
    assert not resumed.frozen
    assert steered(resumed, [order("freeze")]) == resumed
    assert steered(state(), []) == state()


def test_orders_between_two_looks_are_all_obeyed_in_their_order_whatever_the_clocks_say():
    orders = appended(appended((), order("freeze"), state()), order("approve"), state())
    assert [each.number for each in orders] == [1, 2]
    found = steered(state(), reversed(orders))
    assert (found.frozen, found.approved, found.steered) == ("ann: it is late", (10,), 2)
    assert appended((), order("resume"), found)[0].number == 3, "numbered after those that were obeyed"


def test_no_order_comes_after_the_end_was_decided():
    found = steered(state(), [order("roll_back"), order("promote", 2)])
    assert (found.decision, found.steered) == (Decision.ROLLED_BACK, 1)


def test_a_frozen_rollout_takes_no_step_and_no_deadline_but_a_bad_verdict_acts():
    frozen = steered(state(**{"rollout.deadline_minutes": 1}), [order("freeze")])
    found, lines = run(frozen, 30)
    assert (found.phase, [step.percent for step in found.steps]) == (Phase.CANARY, [10])
    assert "frozen by ann: it is late" in lines[-1]
    late = look(found, SPLIT, Gap("x"), 1000.0).state
    assert late.decision is None
    resumed = look(steered(late, [order("resume", 2)]), SPLIT, Gap("x"), 1002.0).state
    assert (resumed.decision, resumed.paused_since) == (None, None)
    assert resumed.paused_seconds == pytest.approx(1002.0)
    assert run(frozen, 30, errors=0.5)[0].decision is Decision.ROLLED_BACK


def test_a_step_waits_for_approval_and_goes_on_with_it():
    steps = {"rollout.steps": [{"percent": 10, "approval": True}, 50, 100]}
    waiting, lines = run(state(**steps), 12)
    assert [step.percent for step in waiting.steps] == [10]
    assert (waiting.paused_for, "waits for approval" in lines[-1]) == ("waits for approval", True)
    approved, _ = run(steered(waiting, [order("approve")]), 40)
    assert approved.decision is Decision.PROMOTED
    assert [step.percent for step in approved.steps] == [10, 50]


def test_an_approval_that_nobody_gives_ends_as_settings_say():
    steps = {"rollout.steps": [{"percent": 10, "approval": True}, 100], "rollout.approval_timeout_hours": 0.01}
    found, _ = run(state(**steps), 60)
    assert found.decision is Decision.ROLLED_BACK
    assert "nobody approved the step of 10 %" in found.reason


@pytest.mark.parametrize(
    ("rollout", "action", "words"),
    [
        (state().close(1.0), "freeze", "no rollout of 'digits' is open"),
        (state().decide(Decision.PROMOTED, ""), "roll_back", "there is nothing to roll back"),
        (state(Phase.TESTING), "approve", "is testing: it has no traffic yet"),
        (state(), "resume", "is not frozen"),
        (state(), "freeze", ""),
        (state(Phase.OPENING), "roll_back", ""),
    ],
)
def test_an_order_that_makes_no_sense_is_refused(rollout, action, words):
    said = objection(rollout, Action(action))
    assert words in said
    assert bool(words) == bool(said)


def test_orders_and_steered_states_survive_json():
    given = (order("approve"), dataclasses.replace(order("freeze", 2), given_in="steer_rollout/run"))
    assert read(write(given)) == given
    found = steered(state(), given)
    assert RolloutState.from_json(found.to_json()) == found


def test_orders_stay_small():
    long = dataclasses.replace(order("freeze"), reason="x" * 100_000)
    assert len(write([long] * 50)) < 25_000


@pytest.mark.parametrize("text", ["{", "{}", "[1]", '[{"action": "sing", "by": "", "reason": ""}]'])
def test_orders_that_cannot_be_read_are_said(text):
    with pytest.raises(UnreadableStateError, match="orders"):
        read(text)


def test_a_state_of_an_earlier_version_of_the_package_still_loads():
    document = state().to_json()
    for field in ("approved", "frozen", "standard", "paused_since", "kept_revision", "trace", "version", "driver"):
        del document[field]
    document["steered_at"] = 12.5
    assert dataclasses.asdict(RolloutState.from_json(document)) == dataclasses.asdict(state())
