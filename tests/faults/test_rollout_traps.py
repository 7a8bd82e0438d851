"""KServe's traps and other people's hands, against the Kubernetes stand-in. Each trap bears the number of the issue."""

import asyncio
import itertools
import json

import pytest

from ml_lifecycle.kserve.client import FIELD_MANAGER
from ml_lifecycle.kserve.exceptions import RolloutRefusedError
from ml_lifecycle.kserve.triggers import CanaryTrigger, CloseTrigger, RevisionReadyTrigger
from ml_lifecycle.kubernetes.client import KubernetesClient
from ml_lifecycle.kubernetes.exceptions import LeaseHeldError
from ml_lifecycle.kubernetes.resource import INFERENCE_SERVICE, LEASE, MLSCALER, POD, REVISION
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


@pytest.fixture
async def cluster(tmp_path, monkeypatch):
    """With version 1 live."""
    with world(tmp_path, monkeypatch) as made:
        for version in "123":
            made.version(version)
        await go_live(made, "1", "roll_out_model/first")
        yield made


async def refused(cluster, version="2", holder="roll_out_model/second", seeing=None):
    """The refusal's message; nothing has changed. `seeing(kind, object)` alters what the API answers."""
    before = cluster.service
    async with cluster.client(holder) as client:
        find = client.kubernetes.find

        async def altered(kind, name, namespace=None):
            found = await find(kind, name, namespace)
            return seeing(kind, found) if seeing and found else found

        client.kubernetes.find = altered
        with pytest.raises((RolloutRefusedError, LeaseHeldError)) as refusal:
            await client.open(cluster.request(version), "{}")
    assert cluster.service["spec"] == before["spec"]
    return str(refusal.value)


async def test_trap_1_the_rejected_revision_gets_no_traffic_when_the_next_one_comes_2130(cluster):
    cluster.traffic.behaviours["digits-predictor-00002"] = Behaviour(errors=0.5)
    assert (await go_live(cluster, "2", "second"))["outcome"] == "rolled_back"
    looks = len(cluster.traffic.served["digits-predictor-00002"])
    assert (await go_live(cluster, "3", "third"))["outcome"] == "promoted"
    later = cluster.traffic.served["digits-predictor-00002"][looks:]
    assert not any(later)


async def test_trap_2_opening_changes_percent_and_uri_in_one_request_1968(cluster):
    """A percent alone, with no canary open, would flip the rolled-out revision."""
    await go_live(cluster, "2", "second")
    await open_and_wait(cluster, cluster.request("3"), "third")
    assert cluster.component["latestRolledoutRevision"] == "digits-predictor-00002"
    assert cluster.shares() == {"digits-predictor-00002": 100}


async def test_trap_3_after_a_roll_back_the_spec_names_the_good_model(cluster):
    cluster.traffic.behaviours["digits-predictor-00002"] = Behaviour(seconds="0.5")
    report = await go_live(cluster, "2", "second")
    assert "p95" in report["reason"]
    assert cluster.service["spec"]["predictor"]["model"]["storageUri"].endswith("/models/digits/1")
    assert "canaryTrafficPercent" not in cluster.service["spec"]["predictor"]


def showing(monkeypatch, change):
    """From now on the API shows what `change(status, reads)` makes of the InferenceService's status."""
    find, reads = KubernetesClient.find, itertools.count(1)

    async def altered(client, kind, name, namespace=None):
        found = await find(client, kind, name, namespace)
        if found is None or kind is not INFERENCE_SERVICE:
            return found
        return found | {"status": change(found.get("status") or {}, next(reads))}

    monkeypatch.setattr(KubernetesClient, "find", altered)


async def test_trap_4_ready_while_its_pods_crash_gets_no_traffic_1474(cluster, monkeypatch):
    def all_well(status, _):
        component = status["components"]["predictor"]
        component |= {"latestReadyRevision": component["latestCreatedRevision"]}
        loaded = {"transitionStatus": "UpToDate", "states": {"targetModelState": "Loaded"}}
        return status | {"conditions": [{"type": "Ready", "status": "True"}], "modelStatus": loaded}

    cluster.version("2", answer="crash")
    with monkeypatch.context() as patched:
        showing(patched, all_well)
        ready = await open_and_wait(cluster, cluster.request("2"), "second")
    assert (ready["status"], "restarted" in ready["reason"]) == ("failed", True)
    assert (await event(CloseTrigger, "second"))["report"]["outcome"] == "rolled_back"
    assert max(cluster.traffic.served["digits-predictor-00002"], default=0) == 0
    assert cluster.is_clean()


async def test_trap_5_ready_that_flaps_while_it_serves_is_waited_for_5443(cluster, monkeypatch):
    def flapping(status, reads):
        unknown = [{"type": kind, "status": "Unknown"} for kind in ("Ready", "PredictorReady", "RoutesReady")]
        return status | {"conditions": unknown} if reads % 2 else status

    showing(monkeypatch, flapping)
    assert (await go_live(cluster, "2", "second"))["outcome"] == "promoted"


async def test_trap_6_a_status_that_is_not_there_yet_is_waited_for_4454(cluster, monkeypatch):
    async with cluster.client("second") as client:
        await client.open(cluster.request("2"), "{}")
    showing(monkeypatch, lambda status, reads: {} if reads < 4 else status)
    ready = await event(RevisionReadyTrigger, "second")
    assert ready["status"] == "ready", ready


async def test_trap_7_a_transformer_is_refused_1669(cluster):
    """The stand-in has no transformers: the field is put into its answer."""

    def with_transformer(kind, found):
        return found | {"spec": found["spec"] | {"transformer": {}}} if kind is INFERENCE_SERVICE else found

    assert "transformer" in await refused(cluster, seeing=with_transformer)


async def test_trap_9_a_collected_stable_revision_is_refused(cluster):
    """Knative collects revisions after two days; the stand-in never does."""
    assert "no longer exists" in await refused(cluster, seeing=lambda kind, found: None if kind is REVISION else found)


async def test_trap_10_the_same_version_again_changes_nothing_772(cluster):
    generation = cluster.service["metadata"]["generation"]
    report = await go_live(cluster, "1", "again")
    assert (report["outcome"], report["kind"]) == ("promoted", "unchanged")
    assert cluster.service["metadata"]["generation"] == generation
    assert cluster.is_clean()


async def test_trap_11_a_failure_of_former_days_fails_no_new_revision_2962(cluster, monkeypatch):
    def stale(status, _):
        failure = {"reason": "ModelLoadFailed", "message": "long mended", "exitCode": 1}
        return status | {"modelStatus": status["modelStatus"] | {"lastFailureInfo": failure}}

    showing(monkeypatch, stale)
    assert (await go_live(cluster, "2", "second"))["outcome"] == "promoted"


async def test_trap_12_a_canary_without_traffic_has_a_pod_all_the_same(cluster):
    await open_and_wait(cluster, cluster.request("2"), "second")
    assert cluster.service["spec"]["predictor"]["minReplicas"] == 1
    pods = cluster.store.list(POD, NAMESPACE, "serving.knative.dev/revision=digits-predictor-00002")
    assert [item["status"]["phase"] for item in pods] == ["Running"]


async def test_trap_13_a_scaler_keeps_the_replicas(cluster):
    scaler = {
        "apiVersion": MLSCALER.api_version,
        "kind": MLSCALER.kind,
        "metadata": {"name": "digits", "namespace": NAMESPACE},
        "spec": {"targetRef": {"kind": "InferenceService", "name": MODEL}},
    }
    async with cluster.client("second") as client:
        listed = client.kubernetes.list

        async def with_scaler(kind, *args, **kwargs):
            return [scaler] if kind is MLSCALER else await listed(kind, *args, **kwargs)

        client.kubernetes.list = with_scaler
        state = await client.open(cluster.request("2"), "{}")
    assert "minReplicas" not in cluster.service["spec"]["predictor"]
    assert state.stable.min_replicas is None, "nor does a roll-back take them from the scaler"


async def test_trap_14_nobody_else_need_touch_the_service_3085(cluster):
    """KServe leaves the steps, the verdict and the way back to whoever deploys."""
    cluster.traffic.behaviours["digits-predictor-00003"] = Behaviour(errors=0.5)
    assert (await go_live(cluster, "2", "second"))["outcome"] == "promoted"
    assert (await go_live(cluster, "3", "third"))["outcome"] == "rolled_back"
    entries = [entry for entry in cluster.service["metadata"]["managedFields"] if "subresource" not in entry]
    assert {entry["manager"] for entry in entries if "f:spec" in entry["fieldsV1"]} == {FIELD_MANAGER}
    kserve = [entry["fieldsV1"] for entry in entries if entry["manager"] != FIELD_MANAGER]
    assert [list(fields["f:metadata"]) for fields in kserve] == [["f:finalizers"]]


async def test_a_second_rollout_is_refused_and_says_whose_the_first_is(cluster):
    await open_and_wait(cluster, cluster.request("2"), "roll_out_model/second")
    assert "'roll_out_model/second'" in await refused(cluster, "3", "roll_out_model/third")
    assert (await event(CloseTrigger, "roll_out_model/third")) == {"status": "absent"}
    assert cluster.lease["spec"]["holderIdentity"] == "roll_out_model/second"


async def test_a_run_killed_before_it_applied_anything_opens_the_canary_when_it_is_tried_again(cluster):
    async with cluster.client("second") as client:

        async def killed(*_, **__):
            raise asyncio.CancelledError

        client.kubernetes.apply = killed
        with pytest.raises(asyncio.CancelledError):
            await client.open(cluster.request("2"), "{}")
    assert cluster.lease["spec"]["holderIdentity"] == "second"
    assert cluster.service["spec"]["predictor"]["model"]["storageUri"].endswith("/1")
    report = await go_live(cluster, "2", "second")
    assert (report["outcome"], report["revisions"]["new"]) == ("promoted", "digits-predictor-00002")


async def test_an_abandoned_rollout_is_closed_by_the_next_one(cluster):
    await open_and_wait(cluster, cluster.request("2"), "second")
    await begin(cluster, "second")
    expire(cluster)
    report = await go_live(cluster, "3", "third")
    assert report["outcome"] == "promoted"
    assert report["stable_version"] == "1"
    assert cluster.is_clean()


async def test_an_abandoned_rollout_of_the_same_version_is_taken_over(cluster):
    await open_and_wait(cluster, cluster.request("2"), "second")
    expire(cluster)
    report = await go_live(cluster, "2", "third")
    assert (report["outcome"], report["revisions"]["new"]) == ("promoted", "digits-predictor-00002")
    assert (await event(CanaryTrigger, "second"))["status"] == "failed"


@pytest.mark.parametrize(("on_deadline", "outcome"), [("roll_back", "rolled_back"), ("freeze", "frozen")])
async def test_the_sweep_closes_abandoned_rollouts_as_settings_say(cluster, on_deadline, outcome):
    from ml_lifecycle.kserve.operators.sweep_rollouts import _sweep

    await open_and_wait(cluster, cluster.request("2", **{"rollout.on_deadline": on_deadline}), "second")
    await begin(cluster, "second")
    assert await _sweep("kubernetes_default", None, "clean_up/run", dry=False) == ([], [])
    expire(cluster)
    said, _ = await _sweep("kubernetes_default", None, "clean_up/run", dry=True)
    assert [(item["model"], item["phase"]) for item in said] == [(MODEL, "canary")]
    (report,), left = await _sweep("kubernetes_default", None, "clean_up/run", dry=False)
    assert (report["outcome"], left) == (outcome, [])
    assert "second abandoned the rollout" in report["reason"]
    assert not cluster.lease["spec"].get("holderIdentity")


async def test_a_frozen_canary_is_withdrawn_when_the_next_version_comes(cluster):
    overrides = {"rollout.on_deadline": "freeze", "rollout.deadline_minutes": 0.02, "rollout.dwell_seconds": 60}
    report = await go_live(cluster, "2", "second", **overrides)
    assert report["outcome"] == "frozen"
    assert cluster.service["spec"]["predictor"]["canaryTrafficPercent"] == 10
    assert (await go_live(cluster, "3", "third"))["outcome"] == "promoted"
    assert cluster.is_clean()


async def test_a_service_deleted_in_the_middle_ends_the_rollout(cluster):
    await open_and_wait(cluster, cluster.request("2"), "second")
    await begin(cluster, "second")
    cluster.store.delete(INFERENCE_SERVICE, MODEL, NAMESPACE)
    await until(lambda: cluster.service is None)
    assert "was deleted" in (await event(CanaryTrigger, "second"))["reason"]
    assert (await event(CloseTrigger, "second"))["report"]["outcome"] == "rolled_back"


async def test_a_service_edited_in_the_middle_is_left_to_its_editor(cluster):
    await open_and_wait(cluster, cluster.request("2"), "second")
    await begin(cluster, "second")
    edit = {"spec": {"predictor": {"model": {"storageUri": cluster.version("9")}}}}
    cluster.store.merge_patch(INFERENCE_SERVICE, MODEL, NAMESPACE, edit)
    assert "was edited" in (await event(CanaryTrigger, "second"))["reason"]
    assert (await event(CloseTrigger, "second"))["report"]["outcome"] == "rolled_back"
    assert cluster.service["spec"]["predictor"]["model"]["storageUri"].endswith("/9")


async def test_prometheus_away_for_a_while_only_costs_time(cluster):
    await open_and_wait(cluster, cluster.request("2"), "second")
    await begin(cluster, "second")
    cluster.traffic.down = True
    looking = asyncio.create_task(event(CanaryTrigger, "second"))
    await asyncio.sleep(0.5)
    assert not looking.done()
    cluster.traffic.down = False
    assert (await looking)["decision"] == "promoted"


def by_hand(cluster, version):
    """`kubectl patch`, which owns the field from then on."""
    edit = {"spec": {"predictor": {"model": {"storageUri": cluster.version(version)}}}}
    cluster.store.merge_patch(INFERENCE_SERVICE, MODEL, NAMESPACE, edit, field_manager="kubectl-patch")


async def test_a_change_by_hand_is_refused_with_both_ways_out_each_time(cluster):
    before = cluster.lease["metadata"]["annotations"]
    by_hand(cluster, "9")
    for holder in ("second", "third"):
        said = await refused(cluster, "2", holder)
        assert "kubectl-patch" in said
        undo = {"spec": {"predictor": {"model": {"storageUri": cluster.version("1")}}}}
        assert f"kubectl -n models patch inferenceservice digits --type merge -p '{json.dumps(undo)}'" in said
        assert "roll_out_model with version = '9'" in said
        assert (await event(CloseTrigger, holder)) == {"status": "absent"}, "it has not been"
        assert cluster.lease["metadata"]["annotations"] == before
        assert cluster.is_clean()


async def test_a_change_by_hand_that_was_undone_by_hand_is_taken_over(cluster):
    by_hand(cluster, "9")
    await until(lambda: cluster.component["latestCreatedRevision"].endswith("2"))
    by_hand(cluster, "1")
    await until(lambda: len(cluster.shares()) == 1 and cluster.component["latestReadyRevision"].endswith("3"))
    report = await go_live(cluster, "2", "second")
    assert (report["outcome"], report["stable_version"]) == ("promoted", "1")


async def test_a_change_by_hand_that_was_rolled_out_where_it_stands_is_taken_over(cluster):
    by_hand(cluster, "9")
    await until(lambda: cluster.component["latestRolledoutRevision"].endswith("2"))
    kept = await go_live(cluster, "9", "second")
    assert (kept["outcome"], kept["kind"]) == ("promoted", "unchanged")
    report = await go_live(cluster, "2", "third")
    assert (report["outcome"], report["stable_version"]) == ("promoted", "9")


async def test_a_service_that_is_not_ours_is_refused(cluster):
    patch = {"metadata": {"labels": {"app.kubernetes.io/managed-by": "somebody"}}}
    cluster.store.merge_patch(INFERENCE_SERVICE, MODEL, NAMESPACE, patch)
    assert "was not made by ml-lifecycle" in await refused(cluster)


async def test_a_canary_that_no_rollout_knows_is_refused_and_the_lease_given_back(cluster):
    patch = {"spec": {"predictor": {"canaryTrafficPercent": 30, "model": {"storageUri": cluster.version("9")}}}}
    cluster.store.merge_patch(INFERENCE_SERVICE, MODEL, NAMESPACE, patch)
    assert "has a canary open (30 %" in await refused(cluster)
    assert not cluster.lease["spec"].get("holderIdentity")


def expire(cluster):
    """Nobody has renewed the Lease for long."""
    patch = {"spec": {"renewTime": "2020-01-01T00:00:00.000000Z"}}
    cluster.store.merge_patch(LEASE, f"ml-lifecycle-{MODEL}", NAMESPACE, patch)
