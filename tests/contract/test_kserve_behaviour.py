"""How KServe in Knative mode rolls a new model out, and its traps that the rollout lives with (see `kserve_platforms`).

Traps bear the numbers of the reference page and of KServe's issues.
"""

import asyncio

import pytest

from ml_lifecycle.kubernetes.conditions import Progress, Verdict, condition
from ml_lifecycle.kubernetes.exceptions import NotFoundError
from ml_lifecycle.kubernetes.resource import INFERENCE_SERVICE, POD, REVISION

NAME = "contract"
FIRST, SECOND = f"{NAME}-predictor-00001", f"{NAME}-predictor-00002"


class Rollout:
    """One InferenceService in Knative mode, and the component in its status."""

    def __init__(self, client, platform, namespace):
        self.client, self.platform, self.namespace = client, platform, namespace

    async def apply(self, version, **predictor):
        body = {
            "apiVersion": INFERENCE_SERVICE.api_version,
            "kind": INFERENCE_SERVICE.kind,
            "metadata": {
                "name": NAME,
                "namespace": self.namespace,
                "annotations": {"serving.kserve.io/enable-tag-routing": "true"},
            },
            "spec": {
                "predictor": {"minReplicas": 1, "model": self.platform.model(self.platform.uris[version]), **predictor}
            },
        }
        await self.client.apply(body, field_manager="contract")

    async def settled(self, rule, *, ready=True):
        """The component once it is so, of a service that is Ready unless that is not asked for."""

        def when(service):
            component = ((service or {}).get("status") or {}).get("components", {}).get("predictor") or {}
            done = (condition(service, "Ready").true or not ready) and bool(component) and rule(component)
            return Verdict(Progress.MET if done else Progress.WAITING, f"{condition(service, 'Ready')} {component}")

        service = await self.client.wait(
            INFERENCE_SERVICE,
            NAME,
            self.namespace,
            when,
            timeout_seconds=self.platform.seconds,
            poll_seconds=self.platform.poll,
        )
        return service["status"]["components"]["predictor"]

    async def go_live(self, version, revision):
        await self.apply(version)
        return await self.settled(lambda found: found.get("latestRolledoutRevision") == revision)


@pytest.fixture
async def rollout(platform):
    client, platform, namespace = platform
    await platform.prepare(client, namespace)
    return Rollout(client, platform, namespace)


def traffic(component):
    return {item["revisionName"]: item["percent"] for item in component["traffic"] if item.get("percent")}


async def test_a_canary_from_first_revision_to_promotion(rollout):
    # The first revision takes all traffic, and its pods say whose they are.
    component = await rollout.go_live(0, FIRST)
    assert traffic(component) == {FIRST: 100}
    revision = await rollout.client.get(REVISION, FIRST, rollout.namespace)
    assert revision["metadata"]["labels"]["serving.kserve.io/inferenceservice"] == NAME
    assert await rollout.client.list(POD, rollout.namespace, f"serving.knative.dev/revision={FIRST}")

    # A new model at 0 %: its revision becomes ready, the first keeps the traffic under the tag `prev`.
    await rollout.apply(1, canaryTrafficPercent=0)
    component = await rollout.settled(lambda found: found.get("latestReadyRevision") == SECOND)
    assert component["latestRolledoutRevision"] == FIRST
    assert traffic(component) == {FIRST: 100}
    assert {item.get("tag") for item in component["traffic"]} == {"latest", "prev"}

    # A percent makes no revision; it moves traffic.
    await rollout.apply(1, canaryTrafficPercent=25)
    component = await rollout.settled(lambda found: traffic(found).get(SECOND) == 25)
    assert traffic(component) == {FIRST: 75, SECOND: 25}
    assert component["latestCreatedRevision"] == SECOND

    # Leaving the percent out promotes.
    component = await rollout.go_live(1, SECOND)
    assert traffic(component) == {SECOND: 100}
    assert component["previousRolledoutRevision"] == FIRST


async def test_while_a_revision_is_not_ready_the_one_before_stands_twice_in_the_traffic(rollout):
    await rollout.go_live(0, FIRST)
    missing = rollout.platform.model(f"{rollout.platform.uris[1]}-missing")
    await rollout.apply(1, canaryTrafficPercent=0, model=missing)

    def twice(component):
        shares = [(item.get("tag"), item.get("percent") or 0, item["revisionName"]) for item in component["traffic"]]
        return sorted(shares) == [("latest", 0, FIRST), ("prev", 100, FIRST)]

    component = await rollout.settled(
        lambda found: found.get("latestCreatedRevision") == SECOND and twice(found), ready=False
    )
    assert component["latestReadyRevision"] == FIRST
    service = await rollout.client.get(INFERENCE_SERVICE, NAME, rollout.namespace)
    assert not condition(service, "Ready").true
    assert "totalCopies" not in service["status"].get("modelStatus", {}).get("copies", {})


async def test_kserve_writes_nothing_of_the_spec_and_its_own_finalizer(rollout):
    await rollout.go_live(0, FIRST)
    service = await rollout.client.get(INFERENCE_SERVICE, NAME, rollout.namespace)
    entries = [entry for entry in service["metadata"]["managedFields"] if "subresource" not in entry]
    assert {entry["manager"] for entry in entries if "f:spec" in entry["fieldsV1"]} == {"contract"}
    assert "inferenceservice.finalizers" in service["metadata"]["finalizers"]


async def test_trap_1_latest_is_whatever_is_ready_be_it_rejected_2130(rollout):
    """So a new model is opened at 0 %, and its percent rises only once it is the latest ready one itself."""
    await rollout.go_live(0, FIRST)
    await rollout.apply(1, canaryTrafficPercent=0)
    await rollout.settled(lambda found: found.get("latestReadyRevision") == SECOND)
    await rollout.apply(1, canaryTrafficPercent=30)
    component = await rollout.settled(lambda found: traffic(found).get(SECOND) == 30)
    latest = next(item for item in component["traffic"] if item.get("latestRevision"))
    assert latest["revisionName"] == SECOND


async def test_trap_2_a_percent_without_an_open_canary_returns_to_the_revision_before_1968(rollout):
    """What must never happen by accident is how `roll_back_model` brings an earlier version back within seconds."""
    await rollout.go_live(0, FIRST)
    await rollout.go_live(1, SECOND)
    await rollout.apply(1, canaryTrafficPercent=0)
    component = await rollout.settled(lambda found: traffic(found) == {FIRST: 100}, ready=False)
    assert component["latestRolledoutRevision"] == FIRST
    assert component["latestCreatedRevision"] == SECOND


async def test_trap_3_after_a_roll_back_the_spec_still_names_the_bad_model(rollout):
    await rollout.go_live(0, FIRST)
    await rollout.apply(1, canaryTrafficPercent=0)
    await rollout.settled(lambda found: found.get("latestReadyRevision") == SECOND)
    service = await rollout.client.get(INFERENCE_SERVICE, NAME, rollout.namespace)
    assert service["spec"]["predictor"]["model"]["storageUri"] == rollout.platform.uris[1]


async def test_trap_10_the_same_storage_uri_makes_no_revision_772(rollout):
    await rollout.go_live(0, FIRST)
    await rollout.apply(0)
    await asyncio.sleep(10 * rollout.platform.poll)
    component = await rollout.settled(lambda found: bool(found.get("latestRolledoutRevision")))
    assert component["latestCreatedRevision"] == FIRST
    with pytest.raises(NotFoundError):
        await rollout.client.get(REVISION, SECOND, rollout.namespace)


async def test_trap_12_a_canary_without_traffic_keeps_its_pod(rollout):
    await rollout.go_live(0, FIRST)
    await rollout.apply(1, canaryTrafficPercent=0)
    await rollout.settled(lambda found: found.get("latestReadyRevision") == SECOND)
    await asyncio.sleep(10 * rollout.platform.poll)
    assert await rollout.client.list(POD, rollout.namespace, f"serving.knative.dev/revision={SECOND}")


async def test_trap_13_replicas_make_a_new_revision(rollout):
    """So a scaler leaves the service alone while a rollout is open, and patches the Revision otherwise."""
    await rollout.go_live(0, FIRST)
    await rollout.apply(0, minReplicas=2)
    component = await rollout.settled(lambda found: found.get("latestRolledoutRevision") == SECOND)
    assert traffic(component) == {SECOND: 100}
