"""Somebody deletes or edits the InferenceService while a rollout is at each of its states."""

import asyncio

import pytest

from ml_lifecycle.kserve.exceptions import RolloutRefusedError
from ml_lifecycle.kserve.triggers import CanaryTrigger, CloseTrigger, RevisionReadyTrigger
from ml_lifecycle.kubernetes.client import KubernetesClient
from ml_lifecycle.kubernetes.resource import INFERENCE_SERVICE
from tests.faults.rollout_world import MODEL, NAMESPACE, Behaviour, begin, event, go_live, open_and_wait, until, world

NEW, SECOND = "digits-predictor-00002", "roll_out_model/second"


@pytest.fixture
async def cluster(tmp_path, monkeypatch):
    """With version 1 live."""
    with world(tmp_path, monkeypatch) as made:
        made.version("1"), made.version("2"), made.version("3")
        await go_live(made, "1", "roll_out_model/first")
        made.traffic.behaviours[NEW] = Behaviour(errors=0.5)
        yield made


async def opening(cluster):
    async with cluster.client(SECOND) as client:
        await client.open(cluster.request("2"), "{}")
    await until(lambda: cluster.component["latestCreatedRevision"] == NEW)


async def testing(cluster):
    await open_and_wait(cluster, cluster.request("2"), SECOND)


async def canary(cluster):
    await testing(cluster)
    await begin(cluster, SECOND)


async def decided(cluster):
    await canary(cluster)
    assert (await event(CanaryTrigger, SECOND))["decision"] == "rolled_back"


async def closing(cluster):
    """Killed after its first change to the service: the bad version has no traffic, but is still named."""
    await decided(cluster)
    send = KubernetesClient._send

    async def dying(client, method, path, *rest):
        response = await send(client, method, path, *rest)
        if method == "PATCH" and "inferenceservices" in path:
            raise asyncio.CancelledError
        return response

    KubernetesClient._send = dying
    try:
        with pytest.raises(asyncio.CancelledError):
            await event(CloseTrigger, SECOND)
    finally:
        KubernetesClient._send = send


STATES = {state.__name__: state for state in (opening, testing, canary, decided, closing)}


def edit(cluster, **predictor):
    cluster.store.merge_patch(
        INFERENCE_SERVICE, MODEL, NAMESPACE, {"spec": {"predictor": predictor}}, field_manager="kubectl-patch"
    )


async def rest_of_the_run(cluster, state):
    """What Airflow runs after `state`: its tasks, whose failure skips the later ones, and the teardown."""
    if state == "opening":
        found = await event(RevisionReadyTrigger, SECOND)
        assert found["status"] == "failed", "what it finds is not what it opened"
    if state == "canary":
        assert (await event(CanaryTrigger, SECOND))["decision"] == "rolled_back"
    report = (await event(CloseTrigger, SECOND))["report"]
    assert report["outcome"] == "rolled_back"
    assert cluster.is_given_back()
    assert max(cluster.traffic.served[NEW], default=0) <= 10


@pytest.mark.parametrize("state", STATES)
async def test_a_service_deleted_in_any_state_is_not_made_again_and_the_next_run_is_its_first(cluster, state):
    await STATES[state](cluster)
    cluster.store.delete(INFERENCE_SERVICE, MODEL, NAMESPACE)
    await until(lambda: cluster.service is None)
    await rest_of_the_run(cluster, state)
    assert cluster.service is None
    assert (await go_live(cluster, "3", "roll_out_model/third"))["kind"] == "first"
    assert cluster.is_clean()


@pytest.mark.parametrize("state", STATES)
async def test_another_model_put_there_in_any_state_is_left_to_who_did_it(cluster, state):
    await STATES[state](cluster)
    await until(lambda: cluster.component["latestCreatedRevision"] == NEW)
    percent = cluster.service["spec"]["predictor"]["canaryTrafficPercent"]
    theirs = cluster.version("9")
    edit(cluster, model={"storageUri": theirs})
    await until(lambda: cluster.component["latestReadyRevision"] == "digits-predictor-00003")
    await rest_of_the_run(cluster, state)
    predictor = cluster.service["spec"]["predictor"]
    assert (predictor["model"]["storageUri"], predictor["canaryTrafficPercent"]) == (theirs, percent)
    async with cluster.client("roll_out_model/third") as client:
        with pytest.raises(RolloutRefusedError, match="has a canary open"):
            await client.open(cluster.request("3"), "{}")
    # They do as the refusal says.
    edit(cluster, canaryTrafficPercent=None)
    await until(lambda: cluster.shares() == {"digits-predictor-00003": 100})
    assert (await go_live(cluster, "9", "roll_out_model/fourth"))["kind"] == "unchanged"
    assert cluster.is_clean()


async def test_a_percent_raised_by_hand_is_taken_back_at_the_next_look(cluster):
    cluster.traffic.behaviours.clear()
    await open_and_wait(cluster, cluster.request("2", **{"rollout.dwell_seconds": 60}), SECOND)
    await begin(cluster, SECOND)
    looking = asyncio.create_task(event(CanaryTrigger, SECOND))
    await until(lambda: cluster.shares().get(NEW) == 10)
    edit(cluster, canaryTrafficPercent=90)
    await until(lambda: cluster.service["spec"]["predictor"]["canaryTrafficPercent"] == 10)
    await until(lambda: cluster.shares().get(NEW) == 10)
    looking.cancel()
    assert (await event(CloseTrigger, SECOND))["report"]["outcome"] == "rolled_back"
    assert cluster.is_clean()


async def test_a_label_in_the_middle_of_a_canary_ends_it_with_the_labels_name(cluster):
    """KServe copies labels into the template, and Knative makes a revision of it that takes the canary's place."""
    await canary(cluster)
    cluster.store.merge_patch(
        INFERENCE_SERVICE, MODEL, NAMESPACE, {"metadata": {"labels": {"team": "x"}}}, field_manager="gitops"
    )
    await until(lambda: cluster.component["latestCreatedRevision"] == "digits-predictor-00003")
    decided = await event(CanaryTrigger, SECOND)
    assert decided["decision"] == "rolled_back"
    assert "digits-predictor-00003 came after digits-predictor-00002, made by the labels team=x" in decided["reason"]
    report = (await event(CloseTrigger, SECOND))["report"]
    assert (report["outcome"], report["labels_appeared"]) == ("rolled_back", ["team=x"])
