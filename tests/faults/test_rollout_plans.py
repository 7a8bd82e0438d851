"""Plans other than a canary by steps, people's orders, and the return to an earlier version, in both modes."""

import asyncio

import pytest

from ml_lifecycle.kserve.exceptions import RolloutRefusedError
from ml_lifecycle.kserve.rollout import Phase
from ml_lifecycle.kserve.steering import Action, Order
from ml_lifecycle.kserve.triggers import CanaryTrigger, CloseTrigger
from ml_lifecycle.kubernetes.exceptions import LeaseHeldError
from ml_lifecycle.kubernetes.resource import REVISION
from tests.faults.rollout_world import MODEL, NAMESPACE, Behaviour, begin, event, go_live, open_and_wait, until, world

CANARY = {"Knative": "digits-predictor-00002", "Standard": "digits-v2-predictor"}


@pytest.fixture(params=["Knative", "Standard"])
async def cluster(request, tmp_path, monkeypatch):
    """With version 1 live."""
    with world(tmp_path, monkeypatch, mode=request.param) as made:
        made.canary = CANARY[request.param]
        for version in "123":
            made.version(version)
        await go_live(made, "1", "first")
        yield made


def served(cluster):
    return cluster.service["spec"]["predictor"]["model"]["storageUri"].rpartition("/")[2]


async def order(cluster, action, reason=""):
    async with cluster.client("steer_rollout/run") as client:
        return await client.order(NAMESPACE, MODEL, Order(Action(action), "ann", reason, client.now()))


async def test_blue_green_gives_all_traffic_at_once_and_none_before(cluster):
    report = await go_live(cluster, "2", "second", **{"rollout.strategy": "blue_green"})
    assert (report["outcome"], report["kind"]) == ("promoted", "canary")
    assert [step["percent"] for step in report["steps"]] == [0]
    assert set(cluster.traffic.served[cluster.canary]) <= {0, 100}
    assert (served(cluster), cluster.is_clean()) == ("2", True)


async def test_a_rolling_update_is_checked_afterwards(cluster):
    rolling = {"rollout.strategy": "rolling"}
    assert (await go_live(cluster, "2", "second", **rolling))["outcome"] == "promoted"
    assert (served(cluster), cluster.is_clean()) == ("2", True)
    await open_and_wait(cluster, cluster.request("3", **rolling), "third")
    report = (await event(CloseTrigger, "third"))["report"]
    assert (report["outcome"], report["stable_version"], served(cluster)) == ("rolled_back", "2", "2")
    assert cluster.is_clean()


async def test_a_step_with_approval_pauses_once_and_goes_on_when_a_person_says_so(cluster):
    steps = {"rollout.steps": [{"percent": 10, "approval": True}, 100], "rollout.look_seconds": 0.05}
    await open_and_wait(cluster, cluster.request("2", **steps), "second")
    await begin(cluster, "second")
    paused = await event(CanaryTrigger, "second")
    report = paused["report"]
    assert (paused["status"], report["outcome"], report["reason"]) == ("paused", "waiting", "waits for approval")
    assert report["steps"][-1]["percent"] == 10
    looking = asyncio.create_task(event(CanaryTrigger, "second"))
    await asyncio.sleep(0.5)
    assert not looking.done()
    assert cluster.shares()[cluster.canary] == 10
    await order(cluster, "approve")
    assert (await looking)["decision"] == "promoted"
    assert (await event(CloseTrigger, "second"))["report"]["outcome"] == "promoted"


async def test_a_pause_still_ends_on_a_bad_verdict(cluster):
    steps = {"rollout.steps": [{"percent": 10, "approval": True}, 100]}
    await open_and_wait(cluster, cluster.request("2", **steps), "second")
    await begin(cluster, "second")
    await event(CanaryTrigger, "second")
    cluster.traffic.behaviours[cluster.canary] = Behaviour(errors=0.5)
    assert (await event(CanaryTrigger, "second"))["decision"] == "rolled_back"
    assert (await event(CloseTrigger, "second"))["report"]["outcome"] == "rolled_back"
    assert (served(cluster), cluster.is_clean()) == ("1", True)


@pytest.mark.parametrize(("action", "outcome"), [("roll_back", "rolled_back"), ("promote", "promoted")])
async def test_a_rollout_ends_by_hand_with_who_and_why(cluster, action, outcome):
    await open_and_wait(cluster, cluster.request("2", **{"rollout.dwell_seconds": 60}), "second")
    await begin(cluster, "second")
    looking = asyncio.create_task(event(CanaryTrigger, "second"))
    await until(lambda: cluster.shares().get(cluster.canary) == 10)
    await order(cluster, action, "customers wait")
    decided = await looking
    assert (decided["decision"], decided["reason"]) == (outcome, "by hand, ann: customers wait")
    assert (await event(CloseTrigger, "second"))["report"]["outcome"] == outcome
    assert cluster.is_clean()


async def test_an_order_during_the_opening_ends_it_before_any_traffic(cluster):
    cluster.version("2", answer="never")
    async with cluster.client("second") as client:
        await client.open(cluster.request("2"), "{}")
    await order(cluster, "roll_back", "wrong version")
    from ml_lifecycle.kserve.triggers import RevisionReadyTrigger

    failed = await event(RevisionReadyTrigger, "second")
    assert (failed["status"], failed["reason"]) == ("failed", "by hand, ann: wrong version")
    assert (await event(CloseTrigger, "second"))["report"]["outcome"] == "rolled_back"
    assert not any(cluster.traffic.served[cluster.canary])


async def test_an_order_without_a_rollout_is_refused_and_never_reaches_the_next(cluster):
    with pytest.raises(RolloutRefusedError, match="no rollout of 'digits' is open"):
        await order(cluster, "roll_back")
    await open_and_wait(cluster, cluster.request("2"), "second")
    await order(cluster, "freeze")
    await event(CloseTrigger, "second")
    await open_and_wait(cluster, cluster.request("3"), "third")
    assert "ml-lifecycle.io/steering" not in cluster.lease["metadata"]["annotations"]


async def test_a_killed_canary_is_closed_as_settings_say(cluster):
    freeze = {"rollout.on_deadline": "freeze", "rollout.dwell_seconds": 60}
    await open_and_wait(cluster, cluster.request("2", **freeze), "second")
    await begin(cluster, "second")
    report = (await event(CloseTrigger, "second"))["report"]
    assert (report["outcome"], report["reason"]) == ("frozen", "the rollout was stopped at 10 % without a verdict")


async def back(cluster, version, holder="roll_back_model/run"):
    async with cluster.client(holder) as client:
        state = await client.open_return(cluster.request(version), "the labels are wrong")
    return state, (await event(CloseTrigger, holder))["report"]


async def test_the_version_before_comes_back_at_once(cluster):
    await go_live(cluster, "2", "second")
    looks = len(cluster.traffic.served[cluster.canary])
    state, report = await back(cluster, "1")
    assert bool(state.kept_revision) == (not state.standard), "Knative still has the revision"
    assert (report["outcome"], report["version"], report["stable_version"]) == ("rolled_back", "2", "1")
    assert (report["kind"], report["reason"]) == ("return", "the labels are wrong")
    assert (served(cluster), cluster.is_clean()) == ("1", True)
    assert list(cluster.shares().values()) == [100]
    assert looks
    # A rollout finds a clean state, and the withdrawn version may come again.
    assert (await go_live(cluster, "3", "third"))["outcome"] == "promoted"


async def test_an_older_version_comes_back_by_a_revision_of_its_own(cluster):
    await go_live(cluster, "2", "second")
    await go_live(cluster, "3", "third")
    state, report = await back(cluster, "1")
    assert (state.kept_revision, report["outcome"], served(cluster)) == ("", "rolled_back", "1")
    assert list(cluster.shares().values()) == [100]
    assert cluster.is_clean()


async def test_a_return_that_was_killed_goes_on(cluster):
    await go_live(cluster, "2", "second")
    async with cluster.client("back") as client:
        first = await client.open_return(cluster.request("1"), "why")
        assert await client.open_return(cluster.request("1"), "why") == first
    assert (await event(CloseTrigger, "back"))["report"]["outcome"] == "rolled_back"
    assert served(cluster) == "1"


async def test_a_return_whose_try_was_lost_after_it_was_done_is_reported_again(cluster):
    await go_live(cluster, "2", "second")
    _, report = await back(cluster, "1")
    state, again = await back(cluster, "1")
    assert state.phase is Phase.CLOSED
    assert again == report
    with pytest.raises(RolloutRefusedError, match="version 1 of 'digits' serves already"):
        await back(cluster, "1", "roll_back_model/another")


async def test_a_return_is_refused_where_it_makes_no_sense(cluster):
    with pytest.raises(RolloutRefusedError, match="version 1 of 'digits' serves already"):
        await back(cluster, "1")
    await open_and_wait(cluster, cluster.request("2"), "second")
    with pytest.raises(LeaseHeldError, match="second"):
        await back(cluster, "3")
    assert cluster.lease["spec"]["holderIdentity"] == "second"


async def test_trap_9_a_collected_revision_comes_back_as_a_new_one(tmp_path, monkeypatch):
    with world(tmp_path, monkeypatch) as cluster:
        cluster.version("1"), cluster.version("2")
        await go_live(cluster, "1", "first")
        await go_live(cluster, "2", "second")
        cluster.store.delete(REVISION, "digits-predictor-00001", NAMESPACE)
        state, report = await back(cluster, "1")
        assert (state.kept_revision, report["outcome"], served(cluster)) == ("", "rolled_back", "1")
