from datetime import UTC, datetime

import pytest

from ml_lifecycle.kubernetes.conditions import (
    Condition,
    Progress,
    absent,
    condition,
    condition_true,
    conditions,
    is_current,
    pause,
    pod_ended,
    with_condition,
)

FIRST = datetime(2026, 1, 1, tzinfo=UTC)
LATER = datetime(2026, 1, 2, tzinfo=UTC)


def manifest(*entries, generation=None, observed=None):
    status = {"conditions": list(entries)}
    if observed is not None:
        status["observedGeneration"] = observed
    return {"metadata": {"generation": generation} if generation else {}, "status": status}


READY = {"type": "Ready", "status": "True", "reason": "Fine", "message": "all is well"}
NOT_READY = {"type": "Ready", "status": "False", "reason": "Crashed"}


def test_conditions_are_read_and_an_unreported_one_is_unknown():
    assert conditions(manifest(READY))["Ready"].true
    assert str(condition(manifest(NOT_READY), "Ready")) == "Ready=False (Crashed)"
    for unreported in (None, {}, {"status": None}, {"status": {"conditions": None}}):
        found = condition(unreported, "Ready")
        assert (found.true, found.false) == (False, False)


@pytest.mark.parametrize(
    ("found", "progress"),
    [
        (None, Progress.WAITING),
        (manifest(), Progress.WAITING),
        (manifest(NOT_READY), Progress.WAITING),
        (manifest(NOT_READY | {"reason": "Impossible"}), Progress.FAILED),
        (manifest(READY), Progress.MET),
        (manifest(READY, generation=2, observed=1), Progress.WAITING),
        (manifest(READY, generation=2, observed=2), Progress.MET),
    ],
)
def test_a_condition_is_waited_for(found, progress):
    rule = condition_true("Ready", terminal_reasons=frozenset({"Impossible"}))
    assert rule(found).progress is progress


def test_a_stale_status_may_be_trusted_where_the_generation_lies():
    assert condition_true("Ready", current=False)(manifest(READY, generation=2, observed=1)).progress is Progress.MET
    assert not is_current(manifest(generation=2, observed=1))


def test_absence_and_pods_are_waited_for():
    assert absent()(None).progress is Progress.MET
    assert absent()({}).progress is Progress.WAITING
    phases = {"Succeeded": Progress.MET, "Failed": Progress.FAILED, "Running": Progress.WAITING}
    for phase, progress in phases.items():
        assert pod_ended()({"status": {"phase": phase}}).progress is progress
    assert pod_ended()(None).progress is Progress.FAILED


def test_a_transition_is_dated_when_the_status_changes_only():
    entries = with_condition([], Condition("Ready", "False", "Starting"), FIRST, generation=1)
    same = with_condition(entries, Condition("Ready", "False", "Waiting"), LATER, generation=2)
    changed = with_condition(same, Condition("Ready", "True", "Done"), LATER)
    assert [entry["lastTransitionTime"][:10] for (entry,) in (entries, same, changed)] == [
        "2026-01-01",
        "2026-01-01",
        "2026-01-02",
    ]
    assert (same[0]["reason"], same[0]["observedGeneration"]) == ("Waiting", 2)
    both = with_condition(changed, Condition("Scaled", "True"), LATER)
    assert [entry["type"] for entry in both] == ["Ready", "Scaled"]


def test_a_wait_that_lasts_asks_less_often_and_costs_at_most_a_fifth_more():
    assert [pause(waited, 5.0) for waited in (0, 20, 50, 120, 3600)] == [5.0, 5.0, 10.0, 24.0, 30.0]
    assert pause(3600, 60.0) == 60.0
