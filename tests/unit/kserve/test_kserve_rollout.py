"""The state machine: what it does after a look, how it closes, and that nothing is lost on the way to JSON."""

import dataclasses
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_lifecycle.canary.evidence import Side, Window
from ml_lifecycle.canary.histogram import Histogram
from ml_lifecycle.canary.plan import looks_to_see
from ml_lifecycle.canary.snapshot import Gap, Growth, Growths
from ml_lifecycle.canary.verdict import Limits
from ml_lifecycle.kserve.closing import Act, ended, inherited, left_serving, next_closing
from ml_lifecycle.kserve.found import Absent, NeverServed, Serving
from ml_lifecycle.kserve.look import look, trouble
from ml_lifecycle.kserve.predictor import Predictor
from ml_lifecycle.kserve.report import report
from ml_lifecycle.kserve.request import RolloutRequest
from ml_lifecycle.kserve.revisions import FIELD_MANAGER
from ml_lifecycle.kserve.rollout import (
    Decision,
    Kind,
    Phase,
    RolloutState,
    begin_canary,
    begin_testing,
    opened,
    remember,
)
from ml_lifecycle.settings import parse_settings
from tests.unit.kserve.kserve_status import BAD, GOOD, RESTORED, seen

URI = "file:///lake/models/digits/"
CANDIDATE = Predictor(storage_uri=URI + "2", runtime="r", cpu="1", memory="1Gi")
CANARY = {"uri": URI + "2", "created": BAD, "ready": BAD}


def request(**overrides):
    given = {"rollout.steps": [10, 50, 100], "rollout.dwell_seconds": 20, "rollout.floor": 0.01, **overrides}
    settings = parse_settings({"defaults": {"data_lake": "file:///lake"}}, "digits", given)
    return RolloutRequest.of(settings, version="2")


def state(phase=Phase.CANARY, **overrides):
    found = opened(request(**overrides), "dag/run", CANDIDATE, Serving(seen()), 0.0)
    if phase is Phase.OPENING:
        return found
    found = begin_testing(found, seen(**CANARY))
    return begin_canary(found) if phase is Phase.CANARY else found


def growth(requests, errors=0, slow="0.01"):
    bounds = ("0.005", "0.01", "0.025", "0.05", "0.1", "inf")
    buckets = {le: float(requests if float(le) >= float(slow) else 0) for le in bounds}
    return Growth({"200": float(requests - errors), "500": float(errors)}, buckets)


def run(state, looks, per_look=200, errors=0.0, percent=None):
    """Looks every 5 s, the traffic following the state."""
    lines = []
    for number in range(looks + 1):
        share = state.percent
        after = Growths(5.0 * number, growth(per_look // 5, int(errors * per_look // 5)), growth(per_look))
        service = seen(**CANARY, percent=share, traffic={BAD: share, GOOD: 100 - share})
        found = look(state, service, after, 5.0 * number)
        state = found.state
        lines.append(found.line)
        if state.phase is not Phase.CANARY:
            break
    return state, lines


def test_opening_knows_what_there_is_to_do():
    uri = URI + "2"
    assert opened(request(), "h", CANDIDATE, Absent(), 0).kind is Kind.FIRST
    assert opened(request(), "h", CANDIDATE, NeverServed(seen(rolled_out="", ready="")), 0).kind is Kind.FIRST
    assert state(Phase.OPENING).kind is Kind.CANARY
    assert opened(request(), "h", CANDIDATE, Serving(seen(uri=uri)), 0).kind is Kind.UNCHANGED


def test_trap_10_the_same_storage_uri_opens_no_canary_772():
    found = begin_canary(
        begin_testing(opened(request(), "h", CANDIDATE, Serving(seen(uri=URI + "2")), 0), seen(uri=URI + "2"))
    )
    assert (found.decision, found.reason) == (Decision.PROMOTED, "this version is live already")
    assert next_closing(found, seen(uri=URI + "2")).act is Act.DONE


def test_a_first_version_is_promoted_after_its_smoke_test():
    found = begin_canary(begin_testing(opened(request(), "h", CANDIDATE, Absent(), 0), seen(created=GOOD)))
    assert found.decision is Decision.PROMOTED


def test_a_plan_of_one_step_switches_after_the_smoke_test():
    assert state(**{"rollout.steps": [100]}).decision is Decision.PROMOTED


def test_clean_traffic_steps_up_and_is_promoted():
    ended_state, lines = run(state(), 40)
    assert ended_state.decision is Decision.PROMOTED
    assert [step.percent for step in ended_state.steps] == [10, 50]
    assert any("now 50 %" in line for line in lines)
    assert sum(step.seen.canary.requests for step in ended_state.steps) == ended_state.evidence.totals.canary.requests


def test_errors_roll_back_and_the_reason_has_the_numbers():
    ended_state, _ = run(state(), 40, errors=0.2)
    assert ended_state.decision is Decision.ROLLED_BACK
    assert "canary requests failed (2" in ended_state.reason


def test_a_catastrophe_ends_at_the_first_look_with_data():
    ended_state, lines = run(state(), 40, errors=0.9)
    assert ended_state.decision is Decision.ROLLED_BACK
    assert len(lines) == 2
    assert "within one look" in ended_state.reason


SCORE = {"kind": "gauge", "name": "score", "value": "score($side)", "tolerance": 0.1, "harm": "fewer"}


def look_at_score(state, number, canary):
    """One more look at clean traffic, with a gauge of one's own; None: its query gives nothing on the canary."""
    new, old = growth(200), growth(1800)
    new = dataclasses.replace(
        new,
        own={} if canary is None else {"score": (canary + number / 1e6,)},
        before={"score": (0.7,)},
        silent={} if canary is not None else {"score": "score(new) gives nothing"},
    )
    old = dataclasses.replace(old, own={"score": (0.8,)}, before={"score": (0.8,)})
    after = Growths(5.0 * number, new, old)
    service = seen(**CANARY, percent=state.percent, traffic={BAD: state.percent, GOOD: 100 - state.percent})
    return look(state, service, after, 5.0 * number)


def test_a_metric_of_ones_own_decides_with_the_others_and_is_reported():
    good = bad = silent = state(**{"rollout.own_metrics": [SCORE]})
    for number in range(40):
        good, bad, silent = (
            look_at_score(each, number, score).state if each.phase is Phase.CANARY else each
            for each, score in ((good, 0.8), (bad, 0.5), (silent, None))
        )
        assert RolloutState.from_json(json.loads(json.dumps(good.to_json()))) == good
    assert (good.decision, bad.decision, silent.decision) == (Decision.PROMOTED, Decision.ROLLED_BACK, None)
    assert bad.reason.startswith("score: 0.5")
    assert "score: no data, score(new) gives nothing on the canary side" in silent.steps[-1].reason
    step = report(bad, seen(), 300.0)["steps"][-1]
    assert step["own_metrics"]["score"]["canary"] == pytest.approx(0.5, abs=0.001)
    assert report(silent, seen(), 300.0)["steps"][-1]["own_metrics"] == {}


def test_gaps_hold_and_keep_the_evidence():
    before = state()
    found = look(before, seen(**CANARY, percent=10, traffic={BAD: 10, GOOD: 90}), Gap("Prometheus is away"), 5.0)
    assert found.state.phase is Phase.CANARY
    assert found.state.evidence == before.evidence
    assert "hold: Prometheus is away" in found.line


def after(*growths, seconds=5.0):
    """The state and the lines after looks at what (canary, stable) grew by, each `seconds` after the one before."""
    found, lines = state(), []
    for number, (canary, stable) in enumerate([(growth(0), growth(0)), *growths]):
        at = seconds * number
        service = seen(**CANARY, percent=found.percent, traffic={BAD: found.percent, GOOD: 100 - found.percent})
        looked = look(found, service, Growths(at, canary, stable), at)
        found, lines = looked.state, [*lines, looked.line]
    return found, lines


SILENT = Growth()


@pytest.mark.parametrize(
    ("canary", "stable", "named"),
    [
        (Growth({"200": 40.0, "500": -3.0}), growth(200), "requests answered 500 grew by -3"),
        (Growth({"200": math.nan}), growth(200), "requests answered 200 grew by nan"),
        (Growth({"200": 40.0}), Growth({"200": math.inf}), "on the stable side"),
        (growth(200), SILENT, "none of 200 requests were the stable side's at 90 % of the traffic"),
        (SILENT, growth(200), "none of 200 requests were the canary side's at 10 % of the traffic"),
    ],
)
def test_odd_counts_are_no_evidence_but_named_and_the_next_look_reaches_back(canary, stable, named):
    usual = (growth(20), growth(180))
    before, _ = after(usual, usual)
    found, lines = after(usual, usual, (canary, stable))
    assert (found.evidence, found.snapshot) == (before.evidence, before.snapshot)
    assert found.steps[0].seen == before.steps[0].seen
    assert "hold: " in lines[-1]
    assert named in lines[-1]
    again, _ = after(usual, usual, (canary, stable), usual)
    assert again.evidence.totals.canary.requests == 60


def test_a_canary_that_fails_always_is_not_judged_beside_a_stable_side_that_is_not_scraped():
    found, lines = after(*[(growth(200, 100), SILENT)] * 9)
    assert found.decision is None
    assert "that side is not scraped" in lines[-1]


def test_a_side_without_requests_is_not_silent_where_chance_or_a_split_to_come_explains_it():
    """Few requests; and a step that began within the window, before which the canary had none."""
    found, _ = after((SILENT, growth(190)), (SILENT, growth(190)))
    assert found.evidence.totals.stable.requests == 380
    waiting = look(state(), seen(**CANARY, percent=10, traffic={GOOD: 100}), Growths(0.0, SILENT, SILENT), 0.0).state
    split = seen(**CANARY, percent=10, traffic={BAD: 10, GOOD: 90})
    begun = look(waiting, split, Growths(5.0, SILENT, growth(2000)), 5.0).state
    assert begun.evidence.totals.stable.requests == 2000


WARMUP = {"rollout.warmup_looks": 3, "rollout.look_seconds": 5}


def cold(found, *, looks, errors, slow="0.01"):
    """Looks at a canary that fails so often and is so slow, beside a stable side that fails once in 180 requests."""
    lines, seconds = [], 5.0 if found.snapshot is None else found.snapshot.at + 5.0
    if found.snapshot is None:
        found = look(found, serving(found), Growths(0.0, growth(0), growth(0)), 0.0).state
    for number in range(looks):
        at = seconds + 5.0 * number
        looked = look(found, serving(found), Growths(at, growth(20, errors, slow), growth(180, 1)), at)
        found, lines = looked.state, [*lines, looked.line]
        if found.phase is not Phase.CANARY:
            break
    return found, lines


def serving(found):
    return seen(**CANARY, percent=found.percent, traffic={BAD: found.percent, GOOD: 100 - found.percent})


def test_a_cold_start_is_seen_and_logged_and_is_no_evidence():
    """3 of 20 requests fail and all are slow; without the setting the same looks are what it is judged by."""
    history = past(200, 1, looks=240)
    judged, _ = cold(remember(state(), history), looks=3, errors=3, slow="0.1")
    found, lines = cold(remember(state(**WARMUP), history), looks=3, errors=3, slow="0.1")
    before = remember(state(**WARMUP), history).evidence
    assert dataclasses.replace(found.evidence, warmup=()) == before
    assert [look.numbers for look in found.evidence.warmup] == [(20, 3, 180, 1)] * 3
    assert judged.decision is Decision.ROLLED_BACK
    assert "warm-up  canary 20 requests, 3 errors, p95" in lines[1]
    assert "hold: warm-up 2 of 3, which only a catastrophe ends" in lines[1]
    step = report(found, seen(), 20.0)["steps"][0]
    assert (step["looks"], step["warmup_looks"], step["canary"]["requests"]) == (0, 3, 0)
    assert [point.get("warmup", False) for point in report(found, seen(), 20.0)["looks"]] == [False, True, True, True]
    assert RolloutState.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_a_step_begins_to_count_after_the_warm_up():
    """20 s of dwell and 50 requests are asked for; 20 s and 60 requests of the warm-up are none of them."""
    found, lines = cold(state(**WARMUP), looks=3, errors=0)
    assert (found.steps[-1].percent, found.steps[-1].looks, found.steps[-1].seen) == (10, 0, Window())
    assert lines[-1].endswith("→ 20 s left of this step")
    found, lines = cold(found, looks=3, errors=0)
    assert (found.steps[-1].percent, found.steps[-1].seen.canary.requests) == (10, 60)
    found, lines = cold(found, looks=1, errors=0)
    assert (found.steps[-1].percent, found.steps[-1].warmup) == (50, 0)
    assert "warm-up" not in lines[-1]


def test_the_traffic_stays_while_it_warms_up_whatever_the_plan_allows():
    hasty = {**WARMUP, "rollout.dwell_seconds": 0.001, "rollout.min_requests": 0}
    found, lines = cold(state(**hasty), looks=3, errors=0)
    assert [step.percent for step in found.steps] == [10]
    assert lines[-1].endswith("→ warm-up 3 of 3")
    assert [step.percent for step in cold(found, looks=1, errors=0)[0].steps] == [10, 50]


def test_no_look_before_the_warm_up_is_over_gives_more_traffic_but_at_0_percent():
    hasty = {**WARMUP, "rollout.dwell_seconds": 0.001, "rollout.min_requests": 0}
    found = look(state(**hasty), serving(state()), Gap("Prometheus is away"), 5.0)
    assert found.line.endswith("→ warm-up 0 of 3")
    assert found.state.percent == 10
    switching = state(**WARMUP, **{"rollout.strategy": "blue_green"})
    assert look(switching, serving(switching), Gap("nobody"), 5.0).state.decision is Decision.PROMOTED


def test_a_catastrophe_ends_the_warm_up():
    found, lines = cold(remember(state(**WARMUP), past(200, 1, looks=240)), looks=3, errors=18)
    assert (found.decision, len(lines)) == (Decision.ROLLED_BACK, 1)
    assert found.reason.startswith("warm-up 1 of 3; 18 of 20 canary requests failed within one look")


def test_only_looks_with_canary_requests_are_of_the_warm_up():
    found = look(state(**WARMUP), serving(state()), Growths(0.0, growth(0), growth(0)), 0.0).state
    for at in (5.0, 10.0):
        found = look(found, serving(found), Growths(at, growth(0), growth(180, 1)), at).state
    assert (len(found.evidence.errors), found.evidence.warmup) == (2, ())
    found, _ = cold(found, looks=4, errors=0)
    assert (found.steps[0].warmup, found.steps[0].looks) == (3, 3)


def test_the_deadline_ends_a_warm_up_too():
    late = state(**WARMUP, **{"rollout.deadline_minutes": 0.2, "rollout.dwell_seconds": 0.001})
    found, _ = cold(late, looks=3, errors=0)
    assert "undecided after 0.2 minutes: warm-up 3 of 3" in found.reason


def test_a_rollout_that_an_earlier_version_opened_has_no_warm_up():
    before, _ = run(state(), 3)
    document = before.to_json()
    del document["request"]["rollout"]["warmup_looks"], document["steps"][0]["warmup"], document["steps"][0]["warmed"]
    assert "warmup" not in document["evidence"]
    assert RolloutState.from_json(document) == before


def test_a_step_begins_when_the_traffic_is_really_split():
    waiting = look(state(), seen(**CANARY, percent=10, traffic={GOOD: 100}), Gap("x"), 5.0).state
    assert waiting.steps[0].since is None
    split = look(waiting, seen(**CANARY, percent=10, traffic={BAD: 10, GOOD: 90}), Gap("x"), 10.0).state
    assert split.steps[0].since == 10.0


@pytest.mark.parametrize("action", ["roll_back", "freeze"])
def test_the_deadline_ends_as_settings_say(action):
    late = state(**{"rollout.deadline_minutes": 1, "rollout.on_deadline": action})
    found = look(late, seen(**CANARY, percent=10, traffic={BAD: 10, GOOD: 90}), Gap("nothing to see"), 61.0).state
    assert found.decision is (Decision.FROZEN if action == "freeze" else Decision.ROLLED_BACK)
    assert "undecided after 1 minutes" in found.reason


@pytest.mark.parametrize(
    ("service", "reason"),
    [
        (None, "was deleted"),
        (seen(uri="file:///other"), "was edited"),
        (seen(**{**CANARY, "created": RESTORED}), "was edited"),
    ],
)
def test_somebody_elses_hand_is_noticed(service, reason):
    assert reason in trouble(state(), service)


def test_trap_2_a_flipped_rolled_out_revision_is_noticed_1968():
    assert not trouble(state(), seen(**CANARY))
    assert "digits-predictor-00000" in trouble(state(), seen(**CANARY, rolled_out="digits-predictor-00000"))


def test_a_rollout_that_nobody_decided_is_rolled_back_with_the_phase_as_reason():
    assert "smoke test" in ended(state(Phase.TESTING), seen(**CANARY), 5.0).reason
    assert "before the new revision was ready" in ended(state(Phase.OPENING), seen(**CANARY), 5.0).reason
    assert "stopped at 10 %" in ended(state(), seen(**CANARY), 5.0).reason


def closing(found, **fields):
    act = next_closing(found, seen(**fields))
    wanted = act.wanted
    return act.act, wanted.predictor.version if wanted else None, wanted.percent if wanted else None


def test_promotion_removes_the_percent_and_waits_for_all_traffic():
    promoted = state().decide(Decision.PROMOTED, "good")
    assert closing(promoted, **CANARY, percent=50) == (Act.APPLY, "2", None)
    assert closing(promoted, **CANARY, traffic={BAD: 50, GOOD: 50})[0] is Act.WAIT
    assert closing(promoted, **CANARY, rolled_out=BAD, traffic={BAD: 100})[0] is Act.DONE


def test_trap_1_and_3_a_roll_back_withdraws_traffic_then_names_the_good_model_2130():
    """Every act of a roll-back; at none may the rejected revision, which is the latest ready one, get traffic."""
    bad = state().decide(Decision.ROLLED_BACK, "bad")
    good = {"uri": URI + "1", "percent": 0}
    assert closing(bad, **CANARY, percent=50) == (Act.APPLY, "2", 0)
    assert closing(bad, **CANARY, percent=0, traffic={BAD: 50, GOOD: 50})[0] is Act.WAIT
    assert closing(bad, **CANARY, percent=0, traffic={BAD: 0, GOOD: 100}) == (Act.APPLY, "1", 0)
    assert closing(bad, **good, created=BAD, ready=BAD)[0] is Act.WAIT
    assert closing(bad, **good, created=RESTORED, ready=BAD)[0] is Act.WAIT
    assert closing(bad, **good, created=RESTORED, ready=RESTORED) == (Act.APPLY, "1", None)
    last = {"uri": URI + "1", "created": RESTORED, "ready": RESTORED}
    assert closing(bad, **last, rolled_out=GOOD)[0] is Act.WAIT
    assert closing(bad, **last, rolled_out=RESTORED, traffic={RESTORED: 100})[0] is Act.DONE


def test_a_failed_first_version_is_deleted():
    first = opened(request(), "h", CANDIDATE, Absent(), 0).decide(Decision.ROLLED_BACK, "bad")
    assert closing(first, uri=URI + "2", managers=[FIELD_MANAGER])[0] is Act.DELETE
    assert next_closing(first, None).act is Act.DONE
    assert closing(first, uri="file:///other")[0] is Act.DONE


def test_only_what_the_rollout_itself_has_made_and_nobody_else_set_is_deleted():
    first = opened(request(), "h", CANDIDATE, Absent(), 0).decide(Decision.ROLLED_BACK, "bad")
    made = {"uri": URI + "2", "managers": [FIELD_MANAGER]}
    assert closing(first, **{**made, "managers": [FIELD_MANAGER, "kubectl-edit"]})[0] is Act.DONE
    assert closing(first, **{**made, "managers": []})[0] is Act.DONE
    # A first version that a dead run left, and that serves, may have users by now.
    assert closing(inherited(first, seen(**made)), **made)[0] is Act.DONE
    dead = {**made, "rolled_out": "", "traffic": {}}
    assert closing(inherited(first, seen(**dead)), **dead)[0] is Act.DELETE
    # As an older version of this package wrote it.
    document = first.to_json()
    del document["made"], document["stood"]
    assert closing(RolloutState.from_json(document), **made)[0] is Act.DONE


def test_a_first_version_on_a_service_that_never_served_gives_back_the_spec_that_stood_there():
    there = NeverServed(seen(uri=URI + "1", rolled_out="", ready="", traffic={}))
    first = opened(request(), "h", CANDIDATE, there, 0).decide(Decision.ROLLED_BACK, "bad")
    made = {"managers": [FIELD_MANAGER]}
    assert closing(first, uri=URI + "2", **made) == (Act.APPLY, "1", None)
    assert closing(first, uri=URI + "1", **made)[0] is Act.DONE
    assert RolloutState.from_json(json.loads(json.dumps(first.to_json()))) == first
    again = opened(request(), "h", CANDIDATE, NeverServed(seen(uri=URI + "2", rolled_out="", ready="")), 0)
    assert (again.before, closing(again.decide(Decision.ROLLED_BACK, ""), uri=URI + "2", **made)[0]) == ("", Act.DONE)


def test_a_frozen_rollout_and_another_hands_edit_are_left_as_they_are():
    assert closing(state().decide(Decision.FROZEN, "late"), **CANARY, percent=10)[0] is Act.DONE
    for decision in (Decision.ROLLED_BACK, Decision.PROMOTED):
        assert closing(state().decide(decision, ""), uri="file:///other", percent=10)[0] is Act.DONE


def test_the_first_decision_stands():
    assert state().decide(Decision.PROMOTED, "a").decide(Decision.ROLLED_BACK, "b").reason == "a"


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 30), st.sampled_from([0.0, 0.05, 0.5]), st.sampled_from([0, 2]))
def test_a_killed_rollout_reaches_the_same_end(killed_after, errors, warmup):
    """Through JSON at one look or at none: the same state."""
    whole, _ = run(state(**{"rollout.warmup_looks": warmup}), 30, errors=errors)
    part, _ = run(state(**{"rollout.warmup_looks": warmup}), killed_after, errors=errors)
    again = RolloutState.from_json(json.loads(json.dumps(part.to_json())))
    assert again == part
    if part.phase is not Phase.CANARY:
        assert part == whole


def test_the_report_is_json_and_says_what_was_seen():
    found, _ = run(state(), 40)
    summary = json.loads(json.dumps(report(found, seen(**CANARY, rolled_out=BAD), 60.0)))
    assert summary["outcome"] == "promoted"
    assert summary["stable_version"] == "1"
    assert summary["revisions"] == {"new": BAD, "stable": GOOD, "live": BAD}
    first = summary["steps"][0]
    assert (first["percent"], first["verdict"], first["canary"]["errors"]) == (10, "hold", 0)
    assert 5 < first["canary"]["p95_ms"] <= 10
    assert len(json.dumps(found.to_json())) < 20_000


def test_the_report_tells_every_look_and_how_far_the_evidence_was():
    found, lines = run(state(), 40)
    looks = json.loads(json.dumps(report(found, seen(**CANARY, rolled_out=BAD), 60.0)))["looks"]
    assert len(looks) == len(lines)
    assert [point["at"] for point in looks[:3]] == [0.0, 5.0, 10.0]
    assert looks[0]["canary"] == [0, 0]  # nothing to compare with yet
    assert looks[1]["canary"] == [40, 0]
    assert (
        max(looks[-1]["numbers"][f"errors.{kind}"] for kind in ("ratio", "floor"))
        >= 1
        > (looks[-1]["numbers"]["errors.harm"])
    )


def test_a_rollout_that_an_earlier_version_opened_goes_on_without_its_trace():
    before, _ = run(state(), 3)
    document = before.to_json()
    del document["trace"]
    assert RolloutState.from_json(document) == dataclasses.replace(before, trace=())


def test_a_closed_state_drops_the_evidence_but_keeps_the_steps_and_the_trace():
    found, _ = run(state(), 40)
    closed = found.close(99.0)
    assert (closed.phase, closed.evidence.errors) == (Phase.CLOSED, ())
    assert (closed.steps, closed.trace) == (found.steps, found.trace)
    assert dataclasses.replace(closed).to_json() == closed.to_json()


def test_what_a_closed_rollout_left_serving_is_known_unless_it_may_never_have_been_applied():
    """On it depends whether the next rollout may take fields over that somebody else owns."""
    rollout = state()
    stable = rollout.stable

    def left(found, decision):
        return left_serving(found.decide(decision, "").close(9.0))

    assert left(rollout, Decision.PROMOTED) == CANDIDATE
    assert left(rollout, Decision.ROLLED_BACK) == stable
    assert left(rollout, Decision.FROZEN) is None
    assert left_serving(rollout) is None
    # Killed before the service was changed: what serves may be somebody's own.
    assert left(state(Phase.OPENING), Decision.ROLLED_BACK) is None
    unchanged = dataclasses.replace(rollout, kind=Kind.UNCHANGED)
    assert left(unchanged, Decision.PROMOTED) == stable
    assert left(unchanged, Decision.ROLLED_BACK) is None


DEFAULTS = {"rollout.steps": [10, 25, 50, 100], "rollout.dwell_seconds": 300, "rollout.floor": 0.001}


def past(requests, errors=0, looks=60):
    return [Window(stable=Side(requests, errors))] * looks


@pytest.mark.parametrize(
    ("history", "overrides", "words"),
    [
        (past(250), {"rollout.look_seconds": 5}, "at 3000 requests a minute and 0.00% errors this plan needs about "),
        (past(10), {"rollout.look_seconds": 60, "rollout.floor": 0.0}, "not expected to clear"),
        (past(1200, 6, 240), DEFAULTS, "3 times as often (1.500%) is seen after about "),
        (past(1200, 6, 240), DEFAULTS, "10 times as often (5.000%) is seen after about "),
        ([*past(3, 0, 234), *past(3, 1, 6)], {**DEFAULTS, "rollout.deadline_minutes": 60}, "no version that fails up"),
        ([*past(3, 0, 234), *past(3, 1, 6)], {**DEFAULTS, "rollout.deadline_minutes": 60}, "it takes deadline_minutes"),
        (past(100_000, 10, 240), DEFAULTS, "the floor of 0.10% hides harm: a canary that fails 3 times as often"),
        (past(100_000, 10, 240), DEFAULTS, "set rollout.floor to 0.0001, which a good version clears in"),
        (past(1200, 0, 240), DEFAULTS, "3 times as often (0.300%) is seen after about"),
        (past(0), {}, "has served nothing of late"),
        ([], {}, "has served nothing of late"),
    ],
)
def test_the_log_says_how_long_a_verdict_may_take(history, overrides, words):
    assert words in remember(state(**overrides), history).outlook


@pytest.mark.parametrize(("history", "floor"), [(past(1200, 6, 240), 0.001), (past(10, 0, 240), 0.001)])
def test_a_floor_that_hides_nothing_is_not_named(history, floor):
    assert "hides harm" not in remember(state(**{**DEFAULTS, "rollout.floor": floor}), history).outlook


def test_the_outlook_of_a_hidden_harm_is_true():
    """At the default floor the threefold harm is never seen; at the one that is advised it is."""
    plan, traffic = state(**DEFAULTS).request.plan, {"requests_per_second": 100_000 / 60, "error_rate": 0.0001}
    seen_at = {floor: looks_to_see(plan, Limits(floor=floor), **traffic, canary_rate=0.0003) for floor in (1e-3, 1e-4)}
    assert seen_at[1e-3] == math.inf
    assert seen_at[1e-4] < 30


@pytest.mark.parametrize(("bounds", "said"), [((0.01, 0.1, 1.0), True), ((0.01, 0.02, 0.04, 0.08, 0.1, 1.0), False)])
def test_bounds_that_cannot_tell_a_slow_canary_are_named_before_the_rollout(bounds, said):
    counts = (20, *[80 // (len(bounds) - 2)] * (len(bounds) - 2), 0, 0)
    history = [Window(stable=Side(sum(counts), 0, Histogram(bounds, counts)))] * 60
    assert ("latency cannot be judged, so that no version is promoted: " in remember(state(), history).outlook) is said


def test_the_stable_sides_past_is_evidence_of_its_level_alone():
    remembered = remember(state(), past(100, 1, looks=3))
    assert remembered.evidence.totals.stable.requests == 300
    assert remembered.evidence.totals.canary.requests == 0
