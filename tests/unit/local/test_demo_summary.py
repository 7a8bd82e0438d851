"""The demo's summary: what a person reads of the figures."""

from io import StringIO

import pytest
from rich.console import Console

from local.demo.__main__ import check_caught
from local.demo.figures import Catch, Figures, LoadPoint, Scaling, Training
from local.demo.summary import crossings, show
from local.stack.exceptions import StackError

SIDE = {"requests": 100, "errors": 0, "p95_ms": 12.3}
STEP = {
    "percent": 10,
    "looks": 4,
    "canary": SIDE,
    "stable": {**SIDE, "p95_ms": None},
    "verdict": "hold",
    "reason": "early",
}


def shown(figures: Figures) -> str:
    output = StringIO()
    show(Console(file=output, width=120, highlight=False), figures, 432.0)
    return output.getvalue()


def figures(**changes):
    training = Training(
        version="2",
        ingest={"images": 1797, "corrupt": 1, "duplicates": 2, "reused": False},
        training={"train_images": 1444},
        evaluation={"accuracy": 0.994, "loss": 0.046, "holdout_images": 353},
        cluster={"cluster_name": "ml-digits-1", "cost": 0.91, "currency": "RUB"},
        gate={"accuracy_against_champion": "passed: +0.24, at least +0.2, is >= -0.02"},
    )
    rollout = {"version": "2", "outcome": "promoted", "reason": "no errors", "seconds": 93.0, "steps": [STEP]}
    cluster = {
        "name": "ml-digits-1",
        "created": 100.0,
        "deleted": 165.0,
        "jobs": [{"name": "train-1", "status": "DONE"}],
    }
    given = {
        "trainings": [training],
        "rollouts": [rollout],
        "clusters": [cluster],
        "aliases": {"live": "2", "champion": "2"},
        "service_url": "http://s",
    }
    return Figures(model="digits", **{**given, **changes})


def test_it_tells_clusters_versions_steps_and_addresses():
    text = shown(figures())
    assert "7 min 12 s" in text
    assert "ml-digits-1" in text
    assert "65 s" in text
    assert "0.91 RUB" in text
    assert "version 2 against the champion: passed: +0.24" in text
    assert "train done" in text
    assert "99.4%" in text
    assert "champion, live" in text
    assert "hold after 4 looks" in text
    assert "12 ms" in text
    assert "promoted: no errors" in text
    assert "curl http://s/v1/models/digits:predict" in text


def caught(**changes):
    looks = [
        {"at": 27.0, "canary": [0, 0]},
        {"at": 32.0, "canary": [50, 4]},
        {"at": 73.2, "canary": [525, 56]},
    ]
    known = {"version": "2", "outcome": "rolled_back", "reason": "errors", "seconds": 93.0, "steps": [STEP]}
    return {**known, "looks": looks, **changes}


def test_it_tells_every_rollout_and_how_soon_a_bad_one_was_caught():
    page = "http://m/#/experiments/1/runs/a/artifacts/rollout/version-2.svg"
    text = shown(figures(rollouts=[caught(outcome="promoted"), caught()], picture=page))
    assert text.count("Rollout of version 2 (93 s)") == 2
    assert text.count("caught 46 s after the first look, by 575 canary requests, of which 60 failed") == 1
    assert "rolled back" in text
    assert f"picture  {page}" in text


FIRST = {"version": "1", "outcome": "promoted", "reason": "first", "seconds": 20.0, "steps": []}
WORSE = {**STEP, "verdict": "roll_back"}


def test_two_bad_rollouts_caught_in_time_are_what_the_demo_shows():
    check_caught(figures(rollouts=[FIRST, caught(steps=[WORSE]), caught(steps=[WORSE])], aliases={"live": "2"}))


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"outcome": "promoted", "steps": [WORSE]}, "not rolled back but promoted"),
        ({"outcome": "frozen", "steps": [WORSE]}, "not rolled back but frozen"),
        ({"steps": [], "looks": []}, "without a verdict"),
        ({"steps": [STEP]}, "without a verdict"),
        ({"steps": [WORSE], "looks": [{"at": 1.0, "canary": [0, 0]}, {"at": 122.0, "canary": [9, 1]}]}, "took 121 s"),
    ],
)
def test_the_demo_fails_where_a_bad_version_was_not_caught_by_evidence_in_time(bad, said):
    with pytest.raises(StackError, match=said):
        check_caught(figures(rollouts=[FIRST, caught(steps=[WORSE]), caught(**bad)], aliases={"live": "2"}))


def test_the_demo_fails_where_the_bad_version_is_live():
    with pytest.raises(StackError, match="alias live should be version 1"):
        check_caught(figures(rollouts=[FIRST, caught(steps=[WORSE])], aliases={"live": "3"}))


def test_a_rollout_without_a_look_caught_nothing():
    assert Catch.of(caught(looks=[])) == Catch(0.0, 0, 0)


def test_it_tells_what_users_saw():
    load = {"requests": 1200, "failed": 12, "latency_seconds": {"p95": 0.0061}}
    assert "1200 requests, 12 failed (1.00%), p95 6 ms" in shown(figures(load=load))


def test_a_cluster_that_lives_stands_out():
    cluster = {"name": "ml-digits-1", "created": 100.0, "deleted": None, "jobs": []}
    assert "NO" in shown(figures(clusters=[cluster]))


def test_crossings_tell_how_much_earlier_a_replica_ran():
    points = [
        LoadPoint(at, rate, replicas) for at, rate, replicas in ((0, 50, 2), (20, 60, 3), (30, 85, 3), (40, 100, 4))
    ]
    assert crossings(Scaling(capacity=40, points=points)) == [(2, 30, 10)]


def test_a_replica_that_came_late_is_told_as_late():
    points = [LoadPoint(at, rate, replicas) for at, rate, replicas in ((0, 50, 2), (20, 85, 2), (26, 90, 3))]
    scaling = Scaling(capacity=40, points=points)
    assert crossings(scaling) == [(2, 20, -6)]
    assert "only 6 s after" in shown(figures(scaling=scaling))


def test_a_load_that_never_rises_has_no_crossing():
    assert crossings(Scaling(capacity=40)) == []
