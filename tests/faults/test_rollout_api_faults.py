"""An API server that fails in the middle of a rollout: no wrong end, no traffic on a bad version, a clean state."""

import pytest

from local.kubernetes.faults import Fault
from ml_lifecycle.kserve.triggers import CanaryTrigger, CloseTrigger
from tests.faults.rollout_world import Behaviour, begin, event, go_live, open_and_wait, world

FAULTS = {
    "conflict on the Lease": Fault("PATCH", "leases", status=409, times=2),
    "too many requests": Fault("*", "inferenceservices", status=429, retry_after=0, times=3),
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
