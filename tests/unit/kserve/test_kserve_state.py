"""The state as the text of an annotation: always small enough, always typed, never a reason to fail for another."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_lifecycle.canary.evidence import Counts, Evidence, Readings
from ml_lifecycle.kserve.exceptions import StateTooLargeError, UnreadableStateError
from ml_lifecycle.kserve.rollout import Decision, Phase, RolloutState, Step
from ml_lifecycle.kserve.state import BUDGET, bare, read, write
from ml_lifecycle.kserve.trace import Point
from ml_lifecycle.settings import Notifier
from tests.unit.kserve.test_kserve_rollout import run, state

NAMES = [f"a_metric_with_a_long_name_{number}" for number in range(8)]


def large(looks, points, words):
    """With as much of everything as settings allow."""
    own = {name: (Readings(1, 0.1234567891, 123456.789123),) * looks for name in NAMES}
    counts = (Counts(600_000, 1234, 5_400_000, 5678),) * looks
    numbers = {f"{name}.{kind}": 1.234 for name in NAMES for kind in ("harm", "cleared", "floor")}
    trace = tuple(Point(float(at), at % 100, (600_000, 1), (600_000, 1), numbers) for at in range(points))
    steps = tuple(Step(percent, reason="x" * words) for percent in range(1, 100))
    return replace(state(), evidence=Evidence(counts, counts, own=own), trace=trace, steps=steps, reason="y" * words)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 720), st.integers(0, 240), st.sampled_from([0, 100, 20_000]), st.integers(14, 17))
def test_no_state_is_larger_than_its_budget(looks, points, words, power):
    found = large(looks, points, words)
    fitted, text = write(found, 2**power * 4)
    assert len(text.encode()) <= 2**power * 4
    assert read(text) == fitted
    assert (fitted.request, fitted.candidate, fitted.stable) == (found.request, found.candidate, found.stable)
    assert [step.percent for step in fitted.steps] == [step.percent for step in found.steps]


def test_what_fits_is_kept_whole_and_what_does_not_is_added_up_by_pairs():
    small, _ = run(state(), 5)
    assert write(small)[0] == small
    found = large(720, 120, 10)
    fitted, _ = write(found)
    assert 45 <= fitted.evidence.most_looks < 720
    assert sum(look.canary_n for look in fitted.evidence.errors) == sum(look.canary_n for look in found.evidence.errors)


def test_closing_needs_no_evidence_and_is_always_small_enough():
    assert len(write(bare(large(720, 240, 100_000)), BUDGET // 2)[1]) < BUDGET // 2
    closed = large(720, 240, 100_000).decide(Decision.ROLLED_BACK, "z" * 300_000).close(1.0)
    assert (read(write(closed)[1]).phase, read(write(closed)[1]).decision) == (Phase.CLOSED, Decision.ROLLED_BACK)


def test_settings_that_are_too_large_by_themselves_are_refused_with_what_to_shorten():
    query = 'sum(x{pod=~"$pods"})' + " " * 70_000
    huge = state(**{"rollout.errors": {"events": query, "total": query}})
    with pytest.raises(StateTooLargeError, match="shorten rollout"):
        write(bare(huge), BUDGET // 2)


def test_fields_of_a_newer_version_are_left_out():
    document = state().to_json()
    document["colour"] = document["candidate"]["colour"] = document["steps"][0]["colour"] = "blue"
    document["request"]["rollout"]["colour"] = document["request"]["serving"]["colour"] = "blue"
    document["version"] = 99
    assert read(json.dumps(document)) == state()


def wrong(*path, value):
    document = state().to_json()
    below = document
    for key in path[:-1]:
        below = below[key]
    below[path[-1]] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "{}",
        "[]",
        "null",
        "1",
        "[" * 100_000,
        wrong("candidate", "max_replicas", value="5\n    hostNetwork: true"),
        wrong("candidate", "gpus", value='1"\n'),
        wrong("candidate", "storage_uri", value=None),
        wrong("stable", value=[]),
        wrong("phase", value="dancing"),
        wrong("steps", value=[{}]),
        wrong("steps", value=5),
        wrong("request", "serving", "namespace", value="../kube-system"),
        wrong("evidence", "errors", value=[["a", 0, 0, 0]]),
        wrong("opened_at", value="yesterday"),
        wrong("trace", value=[{"at": 1}]),
    ],
)
def test_what_is_no_state_is_said_and_never_another_error(text):
    with pytest.raises(UnreadableStateError):
        read(text)


ODD = {"requests": 3, "errors": 4, "bounds": [], "counts": []}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (wrong("evidence", "errors", value=[[600, 3, 600, -3]]), "stable_e = -3"),
        (wrong("evidence", "errors", value=[[600, 601, 600, 3]]), "canary_e = 601"),
        (wrong("evidence", "slow", value=[[-1, 0, 600, 3]]), "canary_n = -1"),
        (wrong("evidence", "errors", value=[[float("nan"), 0, 600, 3]]), "NaN"),
        (wrong("evidence", "errors", value=[[float("inf"), 0, 600, 3]]), "infinity"),
        (wrong("evidence", "own", value={"score": [[1, float("nan"), 0.5]]}), "canary = nan"),
        (wrong("evidence", "totals", value={"canary": ODD, "stable": ODD}), "errors = 4"),
        (wrong("steps", value=[{"percent": 10, "seen": {"canary": ODD, "stable": ODD}}]), "errors = 4"),
    ],
)
def test_counts_that_cannot_be_make_a_state_unreadable_and_are_named(text, named):
    with pytest.raises(UnreadableStateError, match=named):
        read(text)


def test_who_is_told_how_it_ends_is_not_on_the_lease():
    told = (Notifier(notifier="a.B", arguments={"text": "hello"}),)
    found = state()
    rollout = found.request.rollout.model_copy(update={"notifiers": told})
    found = replace(found, request=found.request.model_copy(update={"rollout": rollout}))
    assert "a.B" not in write(found)[1]
    assert RolloutState.from_json(found.to_json()).request.rollout.notifiers == ()
