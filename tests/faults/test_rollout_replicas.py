"""Replicas carry over: a canary has what its share of the load needs before it gets it, and nobody falls below."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from local.kubernetes.controllers.standard_objects import WISHES
from ml_lifecycle.kserve.client import rollout_client
from ml_lifecycle.kubernetes.resource import DEPLOYMENT, INFERENCE_SERVICE, MLSCALER, REVISION
from tests.faults.rollout_world import MODEL, NAMESPACE, Behaviour, go_live, until, world

STABLE, CANARY = "digits-predictor", "digits-v2-predictor"
FIRST, SECOND, THIRD = (f"digits-predictor-0000{number}" for number in "123")
MIN_SCALE = "autoscaling.knative.dev/min-scale"


def ready(cluster, deployment):
    found = cluster.store.find(DEPLOYMENT, deployment, NAMESPACE)
    return (found or {}).get("status", {}).get("readyReplicas", 0)


@asynccontextmanager
async def watched(cluster, *deployments):
    """Percent and ready replicas of each, at every moment."""
    seen = []

    async def watch():
        while True:
            shares = cluster.shares()
            seen.append(
                {name: (shares.get(name.removesuffix("-deployment"), 0), ready(cluster, name)) for name in deployments}
            )
            await asyncio.sleep(0.02)

    watching = asyncio.create_task(watch())
    try:
        yield seen
    finally:
        watching.cancel()


def enough(seen, name, load):
    """At every moment the ready replicas carry the share; the percents that it has had."""
    for moment in seen:
        percent, replicas = moment[name]
        assert replicas * 100 >= percent * load, f"{name} carries {percent} % with {replicas} replicas"
    return {moment[name][0] for moment in seen}


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(rollout_client, "_SETTLE_SECONDS", 0.3)


async def test_a_canary_whose_deployment_others_scale_gets_its_share_before_the_traffic(tmp_path, monkeypatch):
    with world(tmp_path, monkeypatch, mode="Standard") as cluster:
        cluster.version("1"), cluster.version("2")
        settings = {"serving.deployment_mode": "Standard", "serving.autoscaler": "external"}
        await go_live(cluster, "1", "first", **settings)
        cluster.store.merge_patch(DEPLOYMENT, STABLE, NAMESPACE, {"spec": {"replicas": 6}})
        await until(lambda: ready(cluster, STABLE) == 6)
        async with watched(cluster, STABLE, CANARY) as seen:
            report = await go_live(cluster, "2", "second", **settings)
        assert report["outcome"] == "promoted"
        assert enough(seen, CANARY, 6) >= {0, 10, 50, 100}
        enough(seen, STABLE, 6)
        assert min(moment[STABLE][1] for moment in seen if moment[STABLE][0]) == 6, "a roll-back finds all of them"
        assert ready(cluster, CANARY) == 6


async def test_kserves_own_autoscaler_keeps_what_both_sides_need(tmp_path, monkeypatch):
    with world(tmp_path, monkeypatch, mode="Standard") as cluster:
        cluster.version("1"), cluster.version("2"), cluster.version("3")
        settings = {"serving.max_replicas": 8}
        await go_live(cluster, "1", "first", **settings)
        cluster.store.merge_patch(DEPLOYMENT, STABLE, NAMESPACE, {"metadata": {"annotations": {WISHES: "4"}}})
        await until(lambda: ready(cluster, STABLE) == 4)

        async def idle():
            """Once the canary is there, the autoscaler would have fewer on the stable side."""
            await until(lambda: cluster.store.find(DEPLOYMENT, CANARY, NAMESPACE))
            for name, wishes in ((STABLE, "1"), (CANARY, "4")):
                cluster.store.merge_patch(DEPLOYMENT, name, NAMESPACE, {"metadata": {"annotations": {WISHES: wishes}}})

        async with watched(cluster, STABLE, CANARY) as seen:
            report, _ = await asyncio.gather(go_live(cluster, "2", "second", **settings), idle())
        enough(seen, STABLE, 4)
        assert min(moment[STABLE][1] for moment in seen if moment[STABLE][0]) == 4, "a roll-back finds all of them"
        assert report["outcome"] == "promoted"
        assert enough(seen, CANARY, 4) >= {0, 10, 50, 100}
        predictor = cluster.service["spec"]["predictor"]
        assert (predictor["minReplicas"], predictor["maxReplicas"]) == (1, 8), "its autoscaler goes on from there"


async def test_a_canary_of_knative_gets_its_share_by_min_scale_and_keeps_it(tmp_path, monkeypatch):
    with world(tmp_path, monkeypatch) as cluster:
        for version in "123":
            cluster.version(version)
        await go_live(cluster, "1", "first")
        scale(cluster, FIRST, 3)
        await until(lambda: ready(cluster, f"{FIRST}-deployment") == 3)
        async with watched(cluster, f"{FIRST}-deployment", f"{SECOND}-deployment") as seen:
            assert (await go_live(cluster, "2", "second"))["outcome"] == "promoted"
        assert enough(seen, f"{SECOND}-deployment", 3) >= {0, 10, 50, 100}
        assert min_scale(cluster, SECOND) == "3", "the scaler's first pass begins there"

        cluster.traffic.behaviours[THIRD] = Behaviour(errors=0.3)
        restored = "digits-predictor-00004"
        async with watched(cluster, f"{SECOND}-deployment", f"{restored}-deployment") as seen:
            assert (await go_live(cluster, "3", "third"))["outcome"] == "rolled_back"
        assert 100 in enough(seen, f"{restored}-deployment", 3)
        enough(seen, f"{SECOND}-deployment", 3)


async def test_replicas_of_knatives_own_autoscaler_are_given_back_once_it_knows_the_load(tmp_path, monkeypatch):
    with world(tmp_path, monkeypatch) as cluster:
        cluster.version("1"), cluster.version("2")
        await go_live(cluster, "1", "first")
        scale(cluster, FIRST, 4)
        await until(lambda: ready(cluster, f"{FIRST}-deployment") == 4)
        asked = rollout_client.Running.of
        # As the autoscaler would have it: four run, and one is asked for.
        monkeypatch.setattr(
            rollout_client.RolloutClient, "_running", lambda *_: _as_it_is(rollout_client.Running(asked=1, ready=4))
        )
        assert asked
        assert (await go_live(cluster, "2", "second"))["outcome"] == "promoted"
        assert min_scale(cluster, SECOND) == "1"


async def _as_it_is(value):
    return value


@pytest.mark.parametrize(("mode", "kept"), [("dryRun", True), ("off", True), ("auto", False), ("reactiveOnly", False)])
async def test_only_a_scaler_that_writes_owns_the_replicas(tmp_path, monkeypatch, mode, kept):
    with world(tmp_path, monkeypatch) as cluster:
        cluster.version("1"), cluster.version("2")
        settings = {"serving.min_replicas": 2, "serving.max_replicas": 4}
        await go_live(cluster, "1", "first", **settings)
        cluster.store.create(scaler(mode))
        async with watched(cluster, f"{SECOND}-deployment") as seen:
            await go_live(cluster, "2", "second", **settings)
        enough(seen, f"{SECOND}-deployment", 2)
        predictor = cluster.service["spec"]["predictor"]
        assert (predictor.get("minReplicas"), predictor.get("maxReplicas")) == ((2, 4) if kept else (None, None))


def scaler(mode):
    return {
        "apiVersion": MLSCALER.api_version,
        "kind": "MLScaler",
        "metadata": {"name": MODEL, "namespace": NAMESPACE},
        "spec": {
            "targetRef": {"apiVersion": INFERENCE_SERVICE.api_version, "kind": "InferenceService", "name": MODEL},
            "minReplicas": 3,
            "maxReplicas": 20,
            "metric": {"preset": "requests_per_second"},
            "capacityPerReplica": 10,
            "mode": mode,
        },
    }


def scale(cluster, revision, replicas):
    cluster.store.merge_patch(REVISION, revision, NAMESPACE, {"metadata": {"annotations": {MIN_SCALE: str(replicas)}}})


def min_scale(cluster, revision):
    return cluster.store.get(REVISION, revision, NAMESPACE)["metadata"]["annotations"][MIN_SCALE]
