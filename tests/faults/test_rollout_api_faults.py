"""An API server that fails in the middle of a rollout: no wrong end, no traffic on a bad version, a clean state."""

import asyncio

import pytest

from local.kubernetes.faults import Fault
from ml_lifecycle.kserve.look import look
from ml_lifecycle.kserve.triggers import CanaryTrigger, CloseTrigger, RevisionReadyTrigger
from ml_lifecycle.kubernetes.client import Retry
from tests.faults.rollout_world import Behaviour, begin, event, go_live, open_and_wait, persevering, until, world

NEW = "digits-predictor-00002"

FAULTS = {
    "conflict on the Lease": Fault("PATCH", "leases", status=409, times=2),
    "conflict on the service": Fault("PATCH", "inferenceservices", status=409, times=1),
    "too many requests": Fault("*", "inferenceservices", status=429, retry_after=0, times=3),
    "too many requests, and when to come again": Fault("*", "leases", status=429, retry_after=1, times=1),
    "an error of the server": Fault("PATCH", "inferenceservices", status=500, times=2),
    "a connection cut before": Fault("*", "inferenceservices|leases", close="before", times=2),
    "a connection cut after the write": Fault("PATCH", "inferenceservices|leases", close="after", times=2),
}


@pytest.fixture
async def cluster(tmp_path, monkeypatch):
    with world(tmp_path, monkeypatch) as made:
        for version in "12":
            made.version(version)
        await go_live(made, "1", "first")
        yield made


@pytest.mark.parametrize("fault", list(FAULTS))
async def test_a_good_version_goes_live_all_the_same(cluster, fault):
    cluster.stand_in.faults.add(FAULTS[fault])
    assert (await open_and_wait(cluster, cluster.request("2"), "second"))["status"] == "ready"
    await begin(cluster, "second")
    cluster.stand_in.faults.add(FAULTS[fault])
    assert (await event(CanaryTrigger, "second"))["decision"] == "promoted"
    cluster.stand_in.faults.add(FAULTS[fault])
    assert (await event(CloseTrigger, "second"))["report"]["outcome"] == "promoted"
    assert cluster.shares() == {"digits-predictor-00002": 100}
    assert cluster.is_clean()


async def test_a_bad_version_is_withdrawn_though_the_api_fails(cluster):
    cluster.traffic.behaviours["digits-predictor-00002"] = Behaviour(errors=0.5)
    await open_and_wait(cluster, cluster.request("2"), "second")
    await begin(cluster, "second")
    assert (await event(CanaryTrigger, "second"))["decision"] == "rolled_back"
    cluster.stand_in.faults.add(Fault("PATCH", "inferenceservices", close="after", times=2))
    assert (await event(CloseTrigger, "second"))["report"]["outcome"] == "rolled_back"
    assert max(cluster.traffic.served["digits-predictor-00002"]) == 10
    assert cluster.is_clean()


@pytest.mark.parametrize("path", ["leases", "inferenceservices", "pods", ".*"])
@pytest.mark.parametrize(("errors", "outcome"), [(0.0, "promoted"), (0.5, "rolled_back")])
async def test_an_api_that_is_away_longer_than_any_retry_only_costs_time(cluster, monkeypatch, path, errors, outcome):
    """A look is lost, or the task fails as one that may be tried again; then all goes on from the Lease."""
    monkeypatch.setattr(Retry, "delay", lambda *_: 0.01)
    cluster.traffic.behaviours[NEW] = Behaviour(errors=errors)

    def away(times):
        cluster.stand_in.faults.add(Fault("*", path, status=503, times=times))

    async with cluster.client("second") as client:
        await client.open(cluster.request("2"), "{}")
    away(12)
    assert (await persevering(RevisionReadyTrigger, "second"))["status"] == "ready"
    cluster.stand_in.faults.clear()
    await begin(cluster, "second")
    away(12)
    assert (await persevering(CanaryTrigger, "second"))["decision"] == outcome
    cluster.stand_in.faults.clear()
    away(12)
    report = (await persevering(CloseTrigger, "second"))["report"]
    assert report["outcome"] == outcome
    assert max(cluster.traffic.served[NEW]) == report["steps"][-1]["percent"]
    assert cluster.is_clean()


async def test_an_api_that_is_away_while_the_traffic_moves_leaves_it_where_it_was(cluster, monkeypatch):
    """The step is on the Lease; who comes later moves the traffic there before anything is judged."""
    monkeypatch.setattr(Retry, "delay", lambda *_: 0.01)
    await open_and_wait(cluster, cluster.request("2"), "second")
    await begin(cluster, "second")
    looking = asyncio.create_task(event(CanaryTrigger, "second"))
    await until(lambda: cluster.traffic.served[NEW])
    cluster.stand_in.faults.add(Fault("PATCH", "inferenceservices", status=503, times=20))
    assert (await looking)["decision"] == "promoted"
    assert set(cluster.traffic.served[NEW]) <= {0, 10, 50}
    assert (await event(CloseTrigger, "second"))["report"]["outcome"] == "promoted"
    assert cluster.is_clean()


PASSING = {
    "credentials that are not known": Fault("GET", "inferenceservices", status=401, times=3),
    "credentials that may not": Fault("GET", "inferenceservices", status=403, times=3),
    "an object that does not fit": Fault("GET", "inferenceservices", status=422, times=3),
    "an error of the server": Fault("GET", "inferenceservices", status=500, times=12),
    "no right to see pods": Fault("GET", "pods", status=403, times=3),
    "no right to write the Lease": Fault("PATCH", "leases", status=403, times=3),
}


@pytest.fixture
async def canary(cluster):
    """Version 2 at its first step."""
    await open_and_wait(cluster, cluster.request("2"), "second")
    await begin(cluster, "second")
    return cluster


@pytest.mark.parametrize("fault", PASSING)
@pytest.mark.parametrize(("errors", "decision"), [(0.0, "promoted"), (0.5, "rolled_back")])
async def test_what_says_nothing_of_the_canary_is_a_lost_look(canary, fault, errors, decision):
    canary.traffic.behaviours[NEW] = Behaviour(errors=errors)
    canary.stand_in.faults.add(PASSING[fault])
    decided = await persevering(CanaryTrigger, "second")
    assert (decided["status"], decided["decision"]) == ("decided", decision)
    assert "lost" not in decided["reason"]


async def test_an_error_that_nobody_has_foreseen_is_a_lost_look(canary, monkeypatch, capsys):
    tries = []

    def breaking(*arguments):
        tries.append(1)
        if len(tries) < 3:
            raise ZeroDivisionError("one odd series")
        return look(*arguments)

    monkeypatch.setattr("ml_lifecycle.kserve.look.look", breaking)
    assert (await event(CanaryTrigger, "second"))["decision"] == "promoted"
    assert "this look is lost: ZeroDivisionError: one odd series" in capsys.readouterr().out


async def test_looks_that_are_all_lost_end_at_the_deadline_as_settings_say(cluster):
    settings = {"rollout.deadline_minutes": 0.03, "rollout.on_deadline": "freeze"}
    await open_and_wait(cluster, cluster.request("2", **settings), "second")
    await begin(cluster, "second")
    cluster.stand_in.faults.add(Fault("GET", "inferenceservices", status=403, times=10_000))
    decided = await event(CanaryTrigger, "second")
    assert decided["decision"] == "frozen"
    assert "this look is lost: ForbiddenError" in decided["reason"]
