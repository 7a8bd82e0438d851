"""Whole rollouts in KServe's Standard mode: canaries beside the predictor, split by the HTTPRoute."""

import pytest

from local.kubernetes.faults import Fault
from ml_lifecycle.kserve.message import Links, write
from ml_lifecycle.kserve.triggers import CanaryTrigger, CloseTrigger
from ml_lifecycle.kubernetes.resource import DEPLOYMENT, HORIZONTAL_POD_AUTOSCALER, INFERENCE_SERVICE, POD
from tests.faults.rollout_world import (
    MODEL,
    NAMESPACE,
    Behaviour,
    begin,
    event,
    go_live,
    open_and_wait,
    until,
    world,
)

FIRST, SECOND, THIRD = "digits-predictor", "digits-v2-predictor", "digits-v3-predictor"


@pytest.fixture
async def cluster(tmp_path, monkeypatch):
    """In Standard mode, with version 1 live."""
    with world(tmp_path, monkeypatch, mode="Standard") as made:
        for version in "123":
            made.version(version)
        await go_live(made, "1", "first")
        yield made


def deployments(cluster):
    return {item["metadata"]["name"] for item in cluster.store.list(DEPLOYMENT, NAMESPACE)}


def autoscalers(cluster):
    return {item["metadata"]["name"] for item in cluster.store.list(HORIZONTAL_POD_AUTOSCALER, NAMESPACE)}


def pods(cluster, revision):
    found = cluster.store.list(POD, NAMESPACE, f"app=isvc.{revision}")
    return {pod["metadata"]["name"] for pod in found if not pod["metadata"].get("deletionTimestamp")}


def predictor(cluster):
    return cluster.service["spec"]["predictor"]


async def test_the_life_of_two_good_versions_and_a_bad_one(cluster):
    assert (cluster.shares(), deployments(cluster)) == ({FIRST: 100}, {FIRST})

    ready = await open_and_wait(cluster, cluster.request("2"), "second")
    assert (ready["status"], ready["revision"]) == ("ready", SECOND)
    assert ready["url"] == f"http://{SECOND}.{NAMESPACE}.svc.cluster.local"
    assert cluster.shares() == {FIRST: 100}
    own = pods(cluster, SECOND)
    await begin(cluster, "second")
    assert (await event(CanaryTrigger, "second"))["decision"] == "promoted"
    report = (await event(CloseTrigger, "second"))["report"]
    assert (report["outcome"], report["kind"], report["revisions"]["live"]) == ("promoted", "canary", SECOND)
    assert [step["percent"] for step in report["steps"]] == [10, 50]
    assert min(step["canary"]["requests"] for step in report["steps"]) > 0
    assert (predictor(cluster)["name"], "canary" in cluster.service["spec"]) == ("v2", False)
    assert own <= pods(cluster, SECOND), "promotion starts no pod anew"
    await until(lambda: deployments(cluster) == {SECOND})
    assert cluster.is_clean()
    address = "the Service of Gateway kserve/kserve-ingress-gateway, with Host: digits-models.localhost"
    assert (report["in_cluster"], report["url"]) == (address, "http://digits-models.localhost:1")
    assert (report["left_behind"], autoscalers(cluster)) == ([], {SECOND})

    cluster.traffic.behaviours[THIRD] = Behaviour(errors=0.2)
    third = await go_live(cluster, "3", "third")
    assert (third["outcome"], third["stable_version"]) == ("rolled_back", "2")
    assert "canary requests failed" in third["reason"]
    assert (cluster.shares(), predictor(cluster)["name"]) == ({SECOND: 100}, "v2")
    await until(lambda: deployments(cluster) == {SECOND})
    assert cluster.is_clean()
    assert (third["in_cluster"], third["left_behind"], autoscalers(cluster)) == (address, [], {SECOND})


async def test_an_autoscaler_that_may_not_be_removed_is_named_and_the_promotion_stands(cluster):
    await open_and_wait(cluster, cluster.request("2"), "second")
    await begin(cluster, "second")
    assert (await event(CanaryTrigger, "second"))["decision"] == "promoted"
    cluster.stand_in.faults.add(Fault("DELETE", "horizontalpodautoscalers", status=403))
    report = (await event(CloseTrigger, "second"))["report"]
    assert (report["outcome"], report["left_behind"]) == ("promoted", [FIRST])
    assert f"kubectl -n {NAMESPACE} delete hpa {FIRST}" in write(report, Links()).body


async def test_trap_8_canary_traffic_percent_is_never_written_in_standard_mode_4074(cluster):
    await open_and_wait(cluster, cluster.request("2"), "second")
    assert "canaryTrafficPercent" not in predictor(cluster)
    assert predictor(cluster)["model"]["storageUri"].endswith("/1")
    assert [item["trafficPercent"] for item in cluster.service["spec"]["canary"]] == [0]


async def test_a_version_that_crashes_is_dropped_without_any_traffic(cluster):
    cluster.version("2", answer="crash")
    report = await go_live(cluster, "2", "second")
    assert report["outcome"] == "rolled_back"
    assert SECOND in report["reason"]
    assert not any(cluster.traffic.served[SECOND])
    assert cluster.shares() == {FIRST: 100}
    assert cluster.is_clean()


async def test_a_rolling_update_replaces_the_pods_of_the_deployment(cluster):
    rolling = {"rollout.strategy": "rolling"}
    report = await go_live(cluster, "2", "second", **rolling)
    assert (report["outcome"], report["kind"]) == ("promoted", "rolling")
    assert (predictor(cluster)["model"]["storageUri"][-2:], deployments(cluster)) == ("/2", {FIRST})
    await open_and_wait(cluster, cluster.request("3", **rolling), "third")
    report = (await event(CloseTrigger, "third"))["report"]
    assert (report["outcome"], "smoke test" in report["reason"]) == ("rolled_back", True)
    assert predictor(cluster)["model"]["storageUri"].endswith("/2")
    assert cluster.is_clean()


async def test_a_service_edited_in_the_middle_is_left_to_its_editor(cluster):
    await open_and_wait(cluster, cluster.request("2"), "second")
    await begin(cluster, "second")
    edit = {
        "spec": {
            "canary": [
                {
                    "trafficPercent": 10,
                    "predictor": {
                        "name": "v9",
                        "minReplicas": 1,
                        "model": {**predictor(cluster)["model"], "name": "", "storageUri": cluster.version("9")},
                    },
                }
            ]
        }
    }
    cluster.store.merge_patch(INFERENCE_SERVICE, MODEL, NAMESPACE, edit)
    assert "was edited" in (await event(CanaryTrigger, "second"))["reason"]
    assert (await event(CloseTrigger, "second"))["report"]["outcome"] == "rolled_back"
    assert cluster.service["spec"]["canary"][0]["predictor"]["name"] == "v9"


async def test_a_killed_rollout_goes_on_from_its_lease(cluster):
    await open_and_wait(cluster, cluster.request("2"), "second")
    await begin(cluster, "second")
    async with cluster.client("second") as client:
        assert (await client.open(cluster.request("2"), "{}")).standard
    assert (await event(CanaryTrigger, "second"))["decision"] == "promoted"
    assert (await event(CloseTrigger, "second"))["report"]["outcome"] == "promoted"


@pytest.mark.parametrize("strategy", ["canary", "blue_green"])
async def test_trap_8_a_kserve_that_does_not_split_is_refused_before_users_are_touched_5912(
    tmp_path, monkeypatch, strategy
):
    """KServe 0.20.0: canaries get a Deployment, and never a place in the HTTPRoute."""
    with world(tmp_path, monkeypatch, mode="Standard", splits_traffic=False) as cluster:
        cluster.version("1"), cluster.version("2")
        assert (await go_live(cluster, "1", "first"))["outcome"] == "promoted"
        hasty = {"rollout.ready_timeout_minutes": 0.2, "rollout.strategy": strategy}
        ready = await open_and_wait(cluster, cluster.request("2", **hasty), "second")
        assert ready["status"] == "failed"
        assert "KServe does not split traffic in Standard mode here" in ready["reason"]
        assert "rollout.strategy = rolling" in ready["reason"]
        report = (await event(CloseTrigger, "second"))["report"]
        assert report["outcome"] == "rolled_back"
        assert (cluster.shares(), set(cluster.traffic.served)) == ({FIRST: 100}, set())
        assert cluster.is_clean()
        # The way out that the refusal names.
        report = await go_live(cluster, "2", "third", **{"rollout.strategy": "rolling"})
        assert (report["outcome"], report["kind"]) == ("promoted", "rolling")
