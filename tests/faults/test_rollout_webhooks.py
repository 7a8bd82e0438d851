"""KServe's and Knative's webhooks and controllers away for a while: looks are lost, tasks are tried again, no more."""

import asyncio
import threading

import pytest

from local.kubernetes.controllers.inference_service import InferenceServiceController
from local.kubernetes.faults import Fault
from ml_lifecycle.kserve.triggers import CanaryTrigger, CloseTrigger, RevisionReadyTrigger
from ml_lifecycle.kubernetes.client import Retry
from ml_lifecycle.kubernetes.exceptions import UnavailableError
from tests.faults.rollout_world import (
    Behaviour,
    begin,
    event,
    go_live,
    open_and_wait,
    persevering,
    until,
    world,
)

NEW = "digits-predictor-00002"
CALL = (
    'Internal error occurred: failed calling webhook "{webhook}": failed to call webhook: Post '
    '"https://webhook.kserve.svc:443/mutate?timeout=10s": {why}'
)
KSERVE, KNATIVE = "inferenceservice.kserve-webhook-server.defaulter", "webhook.serving.knative.dev"
REFUSED, LATE = "dial tcp 10.96.7.7:443: connect: connection refused", "context deadline exceeded"
AWAY = {
    "KServe's, which refuses the connection": ("inferenceservices", KSERVE, REFUSED, 0.0),
    "KServe's, which does not answer in time": ("inferenceservices", KSERVE, LATE, 0.1),
    "Knative's": ("revisions", KNATIVE, REFUSED, 0.0),
}


@pytest.fixture
def away(monkeypatch):
    """While it is set KServe's controller does nothing."""
    gone, reconcile = threading.Event(), InferenceServiceController.reconcile
    monkeypatch.setattr(InferenceServiceController, "reconcile", lambda *key: 0.1 if gone.is_set() else reconcile(*key))
    return gone


@pytest.fixture
async def cluster(tmp_path, monkeypatch, away):  # KServe begins with `away`
    monkeypatch.setattr(Retry, "delay", lambda *_: 0.01)
    with world(tmp_path, monkeypatch) as made:
        for version in "12":
            made.version(version)
        await go_live(made, "1", "first")
        yield made


def take_away(cluster, name, times=12):
    """More often than one request is repeated."""
    path, webhook, why, seconds = AWAY[name]
    fault = Fault(
        "PATCH",
        path,
        status=500,
        message=CALL.format(webhook=webhook, why=why),
        delay_seconds=seconds,
        times=times,
    )
    cluster.stand_in.faults.clear()
    cluster.stand_in.faults.add(fault)


async def opened(cluster):
    """As Airflow tries the task again: how often it was lost."""
    for lost in range(20):
        async with cluster.client("second") as client:
            try:
                await client.open(cluster.request("2"), "{}")
            except UnavailableError:
                continue
            return lost
    raise AssertionError("it never opens")


@pytest.mark.parametrize("webhook", AWAY)
@pytest.mark.parametrize(("errors", "outcome"), [(0.0, "promoted"), (0.5, "rolled_back")])
async def test_a_webhook_that_is_away_costs_time_and_decides_nothing(cluster, webhook, errors, outcome):
    cluster.traffic.behaviours[NEW] = Behaviour(errors=errors)
    take_away(cluster, webhook)
    assert (await opened(cluster) > 0) is (webhook != "Knative's"), "a first write is KServe's to judge"
    cluster.stand_in.faults.clear()
    assert (await persevering(RevisionReadyTrigger, "second"))["status"] == "ready"
    await begin(cluster, "second")
    take_away(cluster, webhook)
    decided = await persevering(CanaryTrigger, "second")
    assert (decided["decision"], "webhook" in decided["reason"]) == (outcome, False)
    take_away(cluster, webhook)
    report = (await persevering(CloseTrigger, "second"))["report"]
    assert report["outcome"] == outcome
    assert max(cluster.traffic.served[NEW]) == report["steps"][-1]["percent"]
    assert cluster.is_clean()


@pytest.mark.parametrize(("errors", "outcome"), [(0.0, "promoted"), (0.5, "rolled_back")])
async def test_a_kserve_that_is_away_keeps_the_traffic_where_it_is_and_the_rollout_waits(
    away, cluster, errors, outcome
):
    """A percent in the spec is no percent in the status: nothing is judged, nor closed, before KServe has followed."""
    cluster.traffic.behaviours[NEW] = Behaviour(errors=errors)
    await open_and_wait(cluster, cluster.request("2"), "second")
    away.set()
    await begin(cluster, "second")
    looking = asyncio.create_task(event(CanaryTrigger, "second"))
    await until(lambda: cluster.service["spec"]["predictor"]["canaryTrafficPercent"] == 10)
    await asyncio.sleep(1)
    assert not looking.done()
    assert set(cluster.traffic.served[NEW]) <= {0}
    away.clear()
    assert (await looking)["decision"] == outcome
    away.set()
    closing = asyncio.create_task(event(CloseTrigger, "second"))
    await asyncio.sleep(1)
    assert not closing.done()
    away.clear()
    assert (await closing)["report"]["outcome"] == outcome
    assert cluster.is_clean()
