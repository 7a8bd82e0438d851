"""steer_rollout by `dag.test()`: an order reaches an open rollout, with who gave it; none without one."""

import asyncio
import json

import pytest

from ml_lifecycle.kserve.rollout import Decision, Phase
from tests.faults.rollout_world import MODEL, NAMESPACE, begin, go_live, open_and_wait, world

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    with world(tmp_path, monkeypatch) as made:
        document = {"defaults": {"data_lake": f"file://{made.lake}"}}
        monkeypatch.setenv("AIRFLOW_VAR_ML_LIFECYCLE", json.dumps(document))
        made.version("1"), made.version("2")
        asyncio.run(go_live(made, "1", "first"))
        yield made


def own(cluster):
    async def state():
        async with cluster.client("second") as client:
            return await client.own(NAMESPACE, MODEL)

    return asyncio.run(state())


def test_a_rollout_is_frozen_resumed_and_ended_by_hand(cluster, run_dag, states, xcom):
    async def opened():
        await open_and_wait(cluster, cluster.request("2", **{"rollout.dwell_seconds": 60}), "second")
        await begin(cluster, "second")

    asyncio.run(opened())
    frozen = run_dag("steer_rollout.py", "steer_rollout", {"model": MODEL, "action": "freeze", "reason": "holiday"})
    assert set(states(frozen).values()) == {"success"}
    assert xcom(frozen, "steer") == {"version": "2", "phase": "canary", "percent": 10}
    assert own(cluster).frozen.endswith(": holiday")
    run_dag("steer_rollout.py", "steer_rollout", {"model": MODEL, "action": "roll_back"})
    ended = own(cluster)
    assert (ended.phase, ended.decision) == (Phase.DECIDED, Decision.ROLLED_BACK)
    assert ended.reason.startswith("by hand, ")


def test_an_order_without_an_open_rollout_fails_and_says_so(cluster, run_dag, states):
    run = run_dag("steer_rollout.py", "steer_rollout", {"model": MODEL, "action": "approve"})
    assert (run.state, states(run)["steer"]) == ("failed", "failed")
    assert "ml-lifecycle.io/steering" not in cluster.lease["metadata"]["annotations"]
