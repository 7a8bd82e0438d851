"""Whole rollouts against the Kubernetes stand-in with its controllers, driven by the triggers as in the triggerer."""

import pytest

from ml_lifecycle.kserve.look import look
from ml_lifecycle.kserve.rollout import Decision, Phase
from ml_lifecycle.kserve.triggers import CanaryTrigger, CloseTrigger
from ml_lifecycle.prometheus.client import connect
from tests.faults.rollout_world import MODEL, NAMESPACE, Behaviour, begin, event, go_live, open_and_wait, world


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    with world(tmp_path, monkeypatch) as made:
        yield made


async def test_the_life_of_two_good_versions_and_a_bad_one(cluster):
    cluster.version("1"), cluster.version("2"), cluster.version("3")
    first = await go_live(cluster, "1")
    assert (first["outcome"], first["kind"], first["steps"]) == ("promoted", "first", [])
    assert cluster.shares() == {"digits-predictor-00001": 100}

    second = await go_live(cluster, "2", "roll_out_model/second")
    assert second["outcome"] == "promoted"
    assert [step["percent"] for step in second["steps"]] == [10, 50]
    assert second["steps"][-1]["canary"]["errors"] == 0
    assert second["steps"][-1]["stable"]["p95_ms"] is not None
    assert cluster.shares() == {"digits-predictor-00002": 100}
    assert cluster.is_clean()

    cluster.traffic.behaviours["digits-predictor-00003"] = Behaviour(errors=0.2)
    third = await go_live(cluster, "3", "roll_out_model/third")
    assert third["outcome"] == "rolled_back"
    assert "canary requests failed" in third["reason"]
    assert max(cluster.traffic.served["digits-predictor-00003"]) <= 50
    assert cluster.service["spec"]["predictor"]["model"]["storageUri"].endswith("/2")
    assert cluster.shares() == {cluster.component["latestRolledoutRevision"]: 100}
    assert cluster.component["latestRolledoutRevision"] == "digits-predictor-00004"
    assert cluster.is_clean()


async def test_a_version_that_crashes_is_withdrawn_without_any_traffic(cluster):
    cluster.version("1"), cluster.version("2", answer="crash")
    await go_live(cluster, "1")
    report = await go_live(cluster, "2", "roll_out_model/second")
    assert report["outcome"] == "rolled_back"
    assert "digits-predictor-00002" in report["reason"]
    assert cluster.shares() == {cluster.component["latestRolledoutRevision"]: 100}
    assert cluster.is_clean()


async def test_a_first_version_that_never_gets_ready_leaves_no_service(cluster):
    cluster.version("1", answer="never")
    report = await go_live(cluster, "1", **{"rollout.ready_timeout_minutes": 0.02})
    assert report["outcome"] == "rolled_back"
    assert cluster.service is None
    assert cluster.is_clean()


async def test_a_killed_canary_goes_on_where_it_was_and_promotes(cluster):
    cluster.version("1"), cluster.version("2")
    await go_live(cluster, "1")
    await open_and_wait(cluster, cluster.request("2"), "roll_out_model/second")
    state = await begin(cluster, "roll_out_model/second")
    async with cluster.client("roll_out_model/second") as client:
        # Three looks, and the triggerer dies.
        async with connect("prometheus_default") as prometheus:
            for _ in range(3):
                state = await client.named(state, prometheus)
                grown = await client.growths(state, prometheus)
                state = await client.save(look(state, await client.service(state), grown, client.now()).state)
        seen = len((await client.own(NAMESPACE, MODEL)).evidence.errors)
        assert seen == 2
        # A retry of `open` changes nothing.
        assert (await client.open(cluster.request("2"), "{}")).phase is Phase.CANARY
    assert (await event(CanaryTrigger, "roll_out_model/second"))["decision"] == "promoted"
    report = (await event(CloseTrigger, "roll_out_model/second"))["report"]
    assert report["outcome"] == "promoted"


async def test_a_run_that_ends_in_the_middle_is_rolled_back_by_its_teardown(cluster):
    cluster.version("1"), cluster.version("2")
    await go_live(cluster, "1")
    await open_and_wait(cluster, cluster.request("2"), "roll_out_model/second")
    report = (await event(CloseTrigger, "roll_out_model/second"))["report"]
    assert (report["outcome"], report["revisions"]["new"]) == ("rolled_back", "digits-predictor-00002")
    assert "smoke test" in report["reason"]
    again = await event(CloseTrigger, "roll_out_model/second")
    assert again["report"]["outcome"] == "rolled_back"
    assert cluster.is_clean()


async def test_no_answer_from_prometheus_holds_until_the_deadline(cluster):
    cluster.version("1"), cluster.version("2")
    await go_live(cluster, "1")
    await open_and_wait(cluster, cluster.request("2", **{"rollout.deadline_minutes": 0.06}), "roll_out_model/second")
    await begin(cluster, "roll_out_model/second")
    cluster.traffic.down = True
    decided = await event(CanaryTrigger, "roll_out_model/second")
    assert decided["decision"] == Decision.ROLLED_BACK
    assert "starting up" in decided["reason"]
    assert max(cluster.traffic.served["digits-predictor-00002"], default=0) <= 10
