"""A Prometheus that is away, slow or restarted, or whose counters begin anew: the rollout waits and decides as ever."""

import asyncio

import pytest

from ml_lifecycle.kserve.triggers import CanaryTrigger, CloseTrigger
from tests.faults.rollout_world import (
    Behaviour,
    begin,
    beginnings,
    counts,
    event,
    go_live,
    open_and_wait,
    until,
    world,
)

OLD, NEW = "digits-predictor-00001", "digits-predictor-00002"


@pytest.fixture
async def cluster(tmp_path, monkeypatch):
    """With version 1 live and the canary of version 2 at its first step."""
    with world(tmp_path, monkeypatch) as made:
        made.version("1"), made.version("2")
        await go_live(made, "1", "first")
        await open_and_wait(made, made.request("2"), "second")
        await begin(made, "second")
        yield made


async def away(cluster):
    cluster.traffic.down = True
    await asyncio.sleep(0.5)
    cluster.traffic.down = False


async def restarted(cluster):
    """Nobody listens for a while, then it is back at the same address with what it had stored."""
    cluster.prometheus.stop()
    await asyncio.sleep(0.5)
    cluster.prometheus.start()


async def slow(cluster):
    """It answers after the client has given up (2 s), and then again in time."""
    cluster.traffic.slow_seconds = 2.5
    await asyncio.sleep(2.2)
    cluster.traffic.slow_seconds = 0.0


async def wiped(cluster):
    """It is back without its storage; the pods' counters go on."""
    cluster.traffic.wiped()
    await asyncio.sleep(0.2)


async def reset(cluster):
    """Every container was restarted: all counters begin at 0."""
    cluster.traffic.reset()
    await asyncio.sleep(0.2)


async def partial(cluster):
    """A store behind Thanos is away: it answers without the stable side's pods, and warns."""
    cluster.traffic.warnings = ["receive series from store-b: code = Unavailable"]
    cluster.traffic.hidden = {(OLD, "a")}
    await asyncio.sleep(0.5)
    cluster.traffic.warnings, cluster.traffic.hidden = [], set()


async def hidden(cluster):
    """It answers without the stable side's pods, and does not say so."""
    cluster.traffic.hidden = {(OLD, "a")}
    await asyncio.sleep(0.5)
    cluster.traffic.hidden = set()


async def _saying(cluster, status, error):
    cluster.traffic.says = (status, {"status": "error", "errorType": "execution", "error": error})
    await asyncio.sleep(0.5)
    cluster.traffic.says = None


async def too_heavy(cluster):
    await _saying(cluster, 422, "query processing would load too many samples into memory")


async def refusing(cluster):
    """A query that was accepted when the rollout opened."""
    await _saying(cluster, 400, "a rule of the proxy does not like it")


async def talking(cluster):
    """It answers with what is no answer."""
    cluster.traffic.says = (200, {"status": "success", "data": {"resultType": "vector", "result": [{"metric": 3}]}})
    await asyncio.sleep(0.5)
    cluster.traffic.says = None


COUNTING = (wiped, reset, partial, hidden)
FAULTS = {made.__name__: made for made in (away, restarted, slow, *COUNTING, too_heavy, refusing, talking)}


@pytest.mark.parametrize(("errors", "decision"), [(0.0, "promoted"), (0.1, "rolled_back")])
@pytest.mark.parametrize("fault", FAULTS)
async def test_it_decides_as_if_nothing_had_been(cluster, monkeypatch, fault, errors, decision):
    """What a Prometheus has kept meanwhile is counted, and once; what it has lost is not made up for."""
    begun = beginnings(monkeypatch)
    looking = asyncio.create_task(event(CanaryTrigger, "second"))
    await until(lambda: cluster.traffic.served[NEW])
    await FAULTS[fault](cluster)
    assert not cluster.service["spec"]["predictor"]["canaryTrafficPercent"] > 50
    cluster.traffic.behaviours[NEW] = Behaviour(errors=errors)
    assert (await looking)["decision"] == decision
    if FAULTS[fault] not in COUNTING:
        counted, served = counts(cluster, begun[0])
        assert counted == served
    report = (await event(CloseTrigger, "second"))["report"]
    walked = [step["percent"] for step in report["steps"]]
    assert walked == ([10, 50] if decision == "promoted" else [10, 50][: len(walked)])
    assert max(cluster.traffic.served[NEW]) <= walked[-1]
    assert cluster.is_clean()


@pytest.mark.parametrize("decision", ["roll_back", "freeze"])
async def test_one_that_stays_away_neither_passes_nor_fails_until_the_deadline(tmp_path, monkeypatch, decision):
    with world(tmp_path, monkeypatch) as cluster:
        cluster.version("1"), cluster.version("2"), cluster.version("3")
        await go_live(cluster, "1", "first")
        settings = {"rollout.deadline_minutes": 0.03, "rollout.on_deadline": decision}
        await open_and_wait(cluster, cluster.request("2", **settings), "second")
        await begin(cluster, "second")
        cluster.prometheus.stop()
        decided = await event(CanaryTrigger, "second")
        assert decided["decision"] == {"roll_back": "rolled_back", "freeze": "frozen"}[decision]
        assert "does not answer" in decided["reason"]
        await event(CloseTrigger, "second")
        assert cluster.is_given_back()
        assert cluster.service["spec"]["predictor"].get("canaryTrafficPercent") == {"freeze": 10}.get(decision)
        cluster.prometheus.start()
        assert (await go_live(cluster, "3", "third"))["outcome"] == "promoted"


@pytest.mark.parametrize("fault", COUNTING)
async def test_no_look_counts_what_did_not_happen_in_it(cluster, fault):
    """The stable side has a long and bad past, which must not come back as one look."""
    cluster.traffic.codes[OLD, "a", "500"] += 20_000
    cluster.traffic.codes[OLD, "a", "200"] += 1_000_000
    looking = asyncio.create_task(event(CanaryTrigger, "second"))
    await until(lambda: len(cluster.traffic.served[NEW]) > 3)
    await fault(cluster)
    assert (await looking)["decision"] == "promoted"
    served = cluster.traffic.requests * len(cluster.traffic.served[NEW])
    steps = (await event(CloseTrigger, "second"))["report"]["steps"]
    assert sum(step["stable"]["requests"] for step in steps) <= served
    assert not any(step["stable"]["errors"] for step in steps)


async def test_a_canary_that_fails_is_rolled_back_though_stable_pods_come_and_go_at_each_look(cluster):
    cluster.traffic.pods[OLD] = [f"pod-{number}" for number in range(20)]
    cluster.traffic.churn = {OLD}
    cluster.traffic.behaviours[NEW] = Behaviour(errors=1.0)
    decided = await event(CanaryTrigger, "second")
    assert decided["decision"] == "rolled_back"
    assert "canary requests failed within one look" in decided["reason"]


async def test_a_good_canary_is_promoted_though_pods_of_both_sides_come_and_go_at_each_look(cluster):
    for side in (OLD, NEW):
        cluster.traffic.pods[side] = [f"pod-{number}" for number in range(10)]
    cluster.traffic.churn = {OLD, NEW}
    assert (await event(CanaryTrigger, "second"))["decision"] == "promoted"
