"""What a rollout takes for what, where it opens: a service that is there is never a first version's, nor deleted."""

import asyncio

import pytest

from ml_lifecycle.kserve.client.service import ServiceClient
from ml_lifecycle.kserve.exceptions import RolloutRefusedError
from ml_lifecycle.kserve.operators.sweep_rollouts import _sweep
from ml_lifecycle.kserve.request import RolloutRequest
from ml_lifecycle.kserve.rollout import Decision, Kind
from ml_lifecycle.kserve.triggers import CloseTrigger, RevisionReadyTrigger
from ml_lifecycle.kubernetes.client import KubernetesClient
from ml_lifecycle.kubernetes.resource import DEPLOYMENT, INFERENCE_SERVICE, LEASE, POD
from ml_lifecycle.settings import parse_settings
from tests.faults.rollout_world import FAST, MODEL, NAMESPACE, event, go_live, open_and_wait, until, world

STUCK = {"rollout.ready_timeout_minutes": 0.05}


def predictor_ready(cluster):
    conditions = {item["type"]: item["status"] for item in cluster.service["status"]["conditions"]}
    return conditions["PredictorReady"]


async def drain(cluster):
    """The live version's only pod is evicted; the service says so before a successor is there."""
    (pod,) = cluster.store.list(POD, NAMESPACE, "app=isvc.digits-predictor")
    cluster.store.delete(POD, pod["metadata"]["name"], NAMESPACE)
    await until(lambda: predictor_ready(cluster) != "True")


async def test_a_service_whose_pod_was_evicted_is_waited_for_and_gets_a_canary(tmp_path, monkeypatch):
    with world(tmp_path, monkeypatch, mode="Standard") as cluster:
        cluster.version("1"), cluster.version("2")
        await go_live(cluster, "1", "first")
        await drain(cluster)
        async with cluster.client("second") as client:
            state = await client.open(cluster.request("2"), "{}")
        assert (state.kind, state.stable.version) == (Kind.CANARY, "1")
        assert (await event(RevisionReadyTrigger, "second"))["status"] == "ready"
        assert (await event(CloseTrigger, "second"))["report"]["outcome"] == "rolled_back"
        assert cluster.shares() == {"digits-predictor": 100}


@pytest.mark.parametrize("freed", [True, False])
async def test_a_service_that_is_being_deleted_is_waited_for_and_never_written(tmp_path, monkeypatch, freed):
    """KServe's finalizer keeps it for a while, or for ever where KServe is away."""
    with world(tmp_path, monkeypatch) as cluster:
        cluster.version("1"), cluster.version("2")
        await go_live(cluster, "1", "first")

        def hold(*finalizers):
            patch = {"metadata": {"finalizers": list(finalizers) or None}}
            cluster.store.merge_patch(INFERENCE_SERVICE, MODEL, NAMESPACE, patch)

        hold("test/hold")
        cluster.store.delete(INFERENCE_SERVICE, MODEL, NAMESPACE)
        before = cluster.service["spec"]
        async with cluster.client("second") as client:
            opening = asyncio.create_task(client.open(cluster.request("2", **({} if freed else STUCK)), "{}"))
            await asyncio.sleep(0.5)
            assert cluster.service["spec"] == before
            if freed:
                hold()
                assert (await opening).kind is Kind.FIRST
                assert cluster.service["metadata"].get("deletionTimestamp") is None
                return
            with pytest.raises(RolloutRefusedError, match="it was deleted, and KServe has not taken its finalizer off"):
                await opening
        assert cluster.is_given_back()


@pytest.mark.parametrize("mode", ["Knative", "Standard"])
async def test_a_service_that_stays_without_a_status_is_refused_and_left(tmp_path, monkeypatch, mode):
    with world(tmp_path, monkeypatch, mode=mode) as cluster:
        cluster.version("1"), cluster.version("2", answer="crash")
        await go_live(cluster, "1", "first", **{"serving.deployment_mode": mode})
        before = cluster.service["spec"]
        # As restored without its status, where KServe's controller is away.
        find = KubernetesClient.find

        async def restored(client, *key):
            return without_status(await find(client, *key))

        monkeypatch.setattr(KubernetesClient, "find", restored)
        async with cluster.client("second") as client:
            with pytest.raises(RolloutRefusedError, match=r"cannot be told .*: its status is empty"):
                await client.open(cluster.request("2", **STUCK, **{"serving.deployment_mode": mode}), "{}")
        assert (cluster.service["spec"], cluster.is_given_back()) == (before, True)


def without_status(found):
    if found is None or found["kind"] != INFERENCE_SERVICE.kind:
        return found
    return {key: value for key, value in found.items() if key != "status"}


async def test_a_service_that_crashes_can_be_replaced_by_a_rolling_update_and_is_never_deleted(tmp_path, monkeypatch):
    with world(tmp_path, monkeypatch, mode="Standard") as cluster:
        cluster.version("1"), cluster.version("2", answer="crash"), cluster.version("3")
        await go_live(cluster, "1", "first")
        cluster.version("1", answer="crash")
        await drain(cluster)
        async with cluster.client("second") as client:
            with pytest.raises(RolloutRefusedError, match=r"rollout\.strategy = rolling"):
                await client.open(cluster.request("3", **STUCK), "{}")
        report = await go_live(cluster, "3", "third", **{"rollout.strategy": "rolling"})
        assert (report["outcome"], report["kind"]) == ("promoted", "rolling")
        assert cluster.shares() == {"digits-predictor": 100}


@pytest.mark.parametrize("mode", ["Knative", "Standard"])
async def test_a_service_that_never_served_keeps_its_spec_where_the_first_version_fails(tmp_path, monkeypatch, mode):
    with world(tmp_path, monkeypatch, mode=mode) as cluster:
        cluster.version("1", answer="crash"), cluster.version("2", answer="crash"), cluster.version("3")
        async with cluster.client("first") as client:
            await client.open(cluster.request("1"), "{}")
        assert (await event(RevisionReadyTrigger, "first"))["status"] == "failed"
        # Whoever made it, no rollout knows of it.
        cluster.store.delete(LEASE, f"ml-lifecycle-{MODEL}", NAMESPACE)
        second = await go_live(cluster, "2", "second")
        assert (second["outcome"], second["kind"]) == ("rolled_back", "first")
        assert cluster.service["spec"]["predictor"]["model"]["storageUri"].endswith("/1")
        third = await go_live(cluster, "3", "third")
        assert (third["outcome"], third["kind"]) == ("promoted", "first")


async def test_a_first_version_that_serves_is_not_deleted_by_who_finds_its_run_dead(tmp_path, monkeypatch):
    with world(tmp_path, monkeypatch) as cluster:
        cluster.version("1"), cluster.version("2")
        assert (await open_and_wait(cluster, cluster.request("1"), "first"))["status"] == "ready"
        long_ago = {"spec": {"renewTime": "2020-01-01T00:00:00.000000Z"}}
        cluster.store.merge_patch(LEASE, f"ml-lifecycle-{MODEL}", NAMESPACE, long_ago)
        await _sweep("kubernetes_default", None, "clean_up/run", dry=False)
        assert cluster.shares() == {"digits-predictor-00001": 100}
        report = await go_live(cluster, "2", "second")
        assert (report["outcome"], report["kind"]) == ("promoted", "canary")


async def test_a_first_version_that_fails_its_smoke_test_is_deleted_by_its_own_run(tmp_path, monkeypatch):
    with world(tmp_path, monkeypatch) as cluster:
        cluster.version("1")
        await open_and_wait(cluster, cluster.request("1"), "first")
        assert (await event(CloseTrigger, "first"))["report"]["outcome"] == "rolled_back"
        await until(lambda: cluster.service is None)


async def test_a_percent_that_others_applied_too_is_removed_all_the_same(tmp_path, monkeypatch):
    with world(tmp_path, monkeypatch) as cluster:
        cluster.version("1"), cluster.version("2")
        await go_live(cluster, "1", "first")
        await open_and_wait(cluster, cluster.request("2", **{"rollout.ready_timeout_minutes": 1}), "second")
        async with cluster.client("second") as client:
            state = await client.own(NAMESPACE, MODEL)
            await shared(cluster, 0)
            await client.save(state.decide(Decision.PROMOTED, "good"))
        report = (await event(CloseTrigger, "second"))["report"]
        assert (report["outcome"], cluster.shares()) == ("promoted", {"digits-predictor-00002": 100})
        assert "canaryTrafficPercent" not in cluster.service["spec"]["predictor"]


async def test_who_puts_the_percent_back_at_once_is_named_and_never_raced(tmp_path, monkeypatch):
    with world(tmp_path, monkeypatch) as cluster:
        cluster.version("1"), cluster.version("2")
        await go_live(cluster, "1", "first")
        await open_and_wait(cluster, cluster.request("2", **{"rollout.ready_timeout_minutes": 0.05}), "second")
        async with cluster.client("second") as client:
            await client.save((await client.own(NAMESPACE, MODEL)).decide(Decision.PROMOTED, "good"))

        await shared(cluster, 0)
        applied = []

        async def undone(*arguments, **options):  # what is applied is put back before anybody looks
            applied.append((arguments, options))

        monkeypatch.setattr(ServiceClient, "apply", undone)
        found = await event(CloseTrigger, "second")
        assert found["status"] == "failed"
        assert "undone at once by gitops" in found["reason"]
        assert len(applied) < 100
        assert cluster.shares() == {"digits-predictor-00001": 100}


async def shared(cluster, percent):
    body = {
        "apiVersion": INFERENCE_SERVICE.api_version,
        "kind": INFERENCE_SERVICE.kind,
        "metadata": {"name": MODEL, "namespace": NAMESPACE},
        "spec": {"predictor": {"canaryTrafficPercent": percent}},
    }
    async with KubernetesClient.from_kubeconfig(cluster.stand_in.kubeconfig) as kubernetes:
        await kubernetes.apply(body, field_manager="gitops", force=True)


@pytest.mark.parametrize("first", ["digits", "digits-v2"])
async def test_a_name_that_belongs_to_another_service_is_refused(tmp_path, monkeypatch, first):
    """Version 2 of `digits` and the service `digits-v2` would share a Deployment in Standard mode."""
    with world(tmp_path, monkeypatch, mode="Standard") as cluster:
        cluster.version("1"), cluster.version("2")
        folder = cluster.lake / "models" / "digits-v2" / "1"
        folder.mkdir(parents=True)
        (folder / "answer").write_text("fine")
        settings = parse_settings(
            {"defaults": {"data_lake": f"file://{cluster.lake}"}, "locked": []}, "digits-v2", FAST
        )
        neighbour = RolloutRequest.of(settings, version="1")
        await go_live(cluster, "1", "first")
        requests = [cluster.request("2"), neighbour] if first == "digits" else [neighbour, cluster.request("2")]
        async with cluster.client("earlier") as client:
            await client.open(requests[0], "{}")
        await until(lambda: cluster.store.find(DEPLOYMENT, "digits-v2-predictor", NAMESPACE))
        before = cluster.store.get(DEPLOYMENT, "digits-v2-predictor", NAMESPACE)["spec"]
        async with cluster.client("later") as client:
            with pytest.raises(
                RolloutRefusedError, match=r"'digits-v2-predictor'.* a name of InferenceService 'digits"
            ):
                await client.open(requests[1], "{}")
        assert cluster.store.get(DEPLOYMENT, "digits-v2-predictor", NAMESPACE)["spec"] == before


@pytest.mark.parametrize("mode", ["Knative", "Standard"])
async def test_a_revision_that_does_not_get_ready_says_which_pod_and_container(tmp_path, monkeypatch, mode):
    with world(tmp_path, monkeypatch, mode=mode) as cluster:
        cluster.version("1"), cluster.version("2", answer="never")
        await go_live(cluster, "1", "first")
        ready = await open_and_wait(cluster, cluster.request("2", **{"rollout.ready_timeout_minutes": 0.15}), "second")
        assert ready["status"] == "failed"
        assert "container kserve-container runs and is not ready" in ready["reason"]
        assert (await event(CloseTrigger, "second"))["report"]["outcome"] == "rolled_back"
