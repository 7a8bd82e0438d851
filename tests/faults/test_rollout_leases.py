"""What others write onto Leases: unreadable, forged, too large; and what people order."""

import asyncio
import json
from dataclasses import replace

import pytest

import local.kubernetes.metadata as limits
from ml_lifecycle.kserve import state as states
from ml_lifecycle.kserve import steering
from ml_lifecycle.kserve.exceptions import RolloutRefusedError
from ml_lifecycle.kserve.operators.sweep_rollouts import _sweep
from ml_lifecycle.kserve.predictor import Predictor
from ml_lifecycle.kserve.rollout import STATE_ANNOTATION, Decision, Kind, Phase, RolloutState
from ml_lifecycle.kserve.steering import STEERING_ANNOTATION, Action, Order
from ml_lifecycle.kserve.triggers import CanaryTrigger, CloseTrigger, RevisionReadyTrigger
from ml_lifecycle.kubernetes.resource import INFERENCE_SERVICE, LEASE
from ml_lifecycle.settings import parse_settings
from tests.faults.rollout_world import FAST, MODEL, NAMESPACE, begin, event, go_live, open_and_wait, world
from tests.faults.test_rollout_drivers import expire, saved, serving

RUN = "roll_out_model/second"


@pytest.fixture
async def cluster(tmp_path, monkeypatch):
    """With version 1 live, a version 2, and a namespace of somebody else's."""
    with world(tmp_path, monkeypatch, namespaces=(NAMESPACE, "tenant")) as made:
        made.version("1"), made.version("2")
        await go_live(made, "1", "roll_out_model/first")
        yield made


def lease(cluster, text, namespace="tenant", name="ml-lifecycle-innocent"):
    labels = {"app.kubernetes.io/managed-by": "ml-lifecycle"}
    cluster.store.create(
        {
            "apiVersion": LEASE.api_version,
            "kind": "Lease",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": labels,
                "annotations": {STATE_ANNOTATION: text},
            },
            "spec": {},
        }
    )


def live(cluster):
    return Predictor.of(cluster.service)


def says(cluster, state, document=None):
    """The Lease of the service itself says so, and nobody holds it."""
    text = json.dumps(document or state.to_json())
    patch = {"metadata": {"annotations": {STATE_ANNOTATION: text}}, "spec": {"holderIdentity": None}}
    cluster.store.merge_patch(LEASE, f"ml-lifecycle-{MODEL}", NAMESPACE, patch)


async def sweep(cluster, namespaces=None):
    def settings(model):
        return parse_settings({"defaults": {"data_lake": f"file://{cluster.lake}"}, "locked": []}, model, FAST)

    return await _sweep("kubernetes_default", namespaces, "clean_up/run", dry=False, settings=settings)


def spec(cluster):
    return cluster.service["spec"]


@pytest.mark.parametrize("namespaces", [None, ["tenant"], [NAMESPACE]])
@pytest.mark.parametrize("kind", [Kind.FIRST, Kind.ROLLING])
async def test_a_lease_in_one_namespace_touches_no_service_of_another(cluster, kind, namespaces):
    stable = replace(live(cluster), storage_uri="s3://attacker/evil/1", runtime="attacker-runtime")
    forged = RolloutState(cluster.request("1"), "x", kind, live(cluster), None if kind is Kind.FIRST else stable, 0.0)
    lease(cluster, json.dumps(forged.to_json()))
    lease(cluster, json.dumps(forged.to_json()), namespace="tenant", name=f"ml-lifecycle-{MODEL}")
    before = spec(cluster)
    assert await sweep(cluster, namespaces) == ([], [])
    assert spec(cluster) == before


@pytest.mark.parametrize(
    "change",
    [
        {"storage_uri": "s3://attacker/models/digits/1"},
        {"storage_uri": "file:///etc/models/digits/1"},
        {"runtime": "attacker-runtime"},
        {"service_account": "admin"},
        {"logger": {"url": "http://attacker.example", "mode": "all"}},
        {"node_selector": {"node": "secret"}},
        {"tolerations": ({"operator": "Exists"},)},
        {"security_context": {"privileged": True}},
    ],
)
async def test_a_forged_lease_of_the_service_itself_has_nothing_served_that_settings_do_not_say(cluster, change):
    forged = RolloutState(cluster.request("1"), "x", Kind.ROLLING, live(cluster), replace(live(cluster), **change), 0.0)
    says(cluster, forged)
    before = spec(cluster)
    swept, (left,) = await sweep(cluster)
    assert (swept, "neither settings nor the live service say so" in left) == ([], True)
    assert spec(cluster) == before
    # The next rollout does not go on with it either.
    assert (await go_live(cluster, "2", "roll_out_model/next"))["outcome"] == "promoted"


async def test_a_storage_uri_may_not_climb_out_of_its_folder(cluster):
    climbing = replace(live(cluster), storage_uri=f"file://{cluster.lake}/models/{MODEL}/..")
    says(cluster, RolloutState(cluster.request("1"), "x", Kind.ROLLING, live(cluster), climbing, 0.0))
    assert "neither settings nor the live service" in (await sweep(cluster))[1][0]


async def test_a_lease_alone_deletes_nothing_that_serves(cluster):
    says(cluster, RolloutState(cluster.request("1"), "x", Kind.FIRST, live(cluster), None, 0.0))
    (report,), _ = await sweep(cluster)
    assert (report["outcome"], serving(cluster)) == ("frozen", "1")
    decided = RolloutState(cluster.request("1"), "x", Kind.FIRST, live(cluster), None, 0.0)
    says(cluster, decided.decide(Decision.ROLLED_BACK, "forged"))
    await sweep(cluster)
    assert serving(cluster) == "1"


async def test_numbers_on_a_lease_are_numbers(cluster):
    document = RolloutState(cluster.request("1"), "x", Kind.ROLLING, live(cluster), live(cluster), 0.0).to_json()
    document["stable"]["max_replicas"] = "5\n    hostNetwork: true"
    says(cluster, None, document)
    before = spec(cluster)
    assert await sweep(cluster) == ([], [])
    assert spec(cluster) == before


async def test_the_connections_of_an_abandoned_rollout_are_those_of_settings(cluster):
    await open_and_wait(cluster, cluster.request("2", **{"connections.tracking": "forged"}), RUN)
    expire(cluster)
    (report,), _ = await sweep(cluster)
    assert (report["outcome"], report["tracking_conn_id"]) == ("rolled_back", "mlflow_default")


@pytest.mark.parametrize("text", ["{", "{}", "[]", "null", '"x"', "[" * 50_000, '{"version": 99, "phase": "closed"}'])
async def test_a_lease_that_cannot_be_read_stops_no_sweep_and_no_rollout(cluster, text):
    lease(cluster, text)
    lease(cluster, text, NAMESPACE)
    await open_and_wait(cluster, cluster.request("2"), RUN)
    await begin(cluster, RUN)
    expire(cluster)
    (report,), left = await sweep(cluster)
    assert (report["outcome"], left) == ("rolled_back", [])
    patch = {"metadata": {"annotations": {STATE_ANNOTATION: text}}}
    cluster.store.merge_patch(LEASE, f"ml-lifecycle-{MODEL}", NAMESPACE, patch)
    assert (await go_live(cluster, "2", "roll_out_model/next"))["outcome"] == "promoted"


async def test_a_rollout_of_a_newer_version_of_the_package_is_closed_all_the_same(cluster):
    await open_and_wait(cluster, cluster.request("2"), RUN)
    document = json.loads(cluster.lease["metadata"]["annotations"][STATE_ANNOTATION])
    document["new"] = document["request"]["rollout"]["new"] = document["candidate"]["new"] = {"x": 1}
    says(cluster, None, document)
    assert (await sweep(cluster))[0][0]["outcome"] == "rolled_back"
    assert cluster.is_clean()


async def test_a_state_that_the_api_finds_too_large_is_cut_and_the_rollout_goes_on(cluster, monkeypatch):
    await open_and_wait(cluster, cluster.request("2"), RUN)
    await begin(cluster, RUN)
    present = sum(len(key + value) for key, value in cluster.lease["metadata"]["annotations"].items())
    monkeypatch.setattr(limits, "_ANNOTATIONS_LIMIT", 1500 + present)
    decided = await event(CanaryTrigger, RUN)
    assert decided.get("decision") == "promoted", decided
    assert (await event(CloseTrigger, RUN))["report"]["outcome"] == "promoted"
    assert cluster.is_clean()


async def order(cluster, action, given_in, by="ann"):
    async with cluster.client(given_in) as client:
        return await client.order(NAMESPACE, MODEL, Order(Action(action), by, "why", given_in=given_in))


def orders(cluster):
    return steering.read(cluster.lease["metadata"]["annotations"][STEERING_ANNOTATION])


async def test_every_order_is_obeyed_once_whatever_the_clock_of_who_gives_it(cluster):
    """Two between two looks, and the same one again by a second try of its task."""
    await open_and_wait(cluster, cluster.request("2", **{"rollout.dwell_seconds": 60}), RUN)
    await begin(cluster, RUN)
    looking = asyncio.create_task(event(CanaryTrigger, RUN))
    await asyncio.gather(order(cluster, "freeze", "a"), order(cluster, "approve", "b"))
    await order(cluster, "freeze", "a")
    assert (await looking)["status"] == "paused"
    assert (saved(cluster).frozen, saved(cluster).approved) == ("ann: why", (10,))
    assert [each.number for each in orders(cluster)] == [1, 2]
    await order(cluster, "roll_back", "c")
    decided = await event(CanaryTrigger, RUN)
    assert decided.get("decision") == "rolled_back", decided
    await event(CloseTrigger, RUN)
    # A try that comes after the end finds that its order was obeyed; a new one is refused.
    state, given = await order(cluster, "roll_back", "c")
    assert state.steered >= given.number
    with pytest.raises(RolloutRefusedError, match="no rollout of 'digits' is open"):
        await order(cluster, "promote", "d")


async def test_orders_to_a_former_rollout_say_nothing_to_the_next(cluster):
    await open_and_wait(cluster, cluster.request("2", **{"rollout.dwell_seconds": 60}), RUN)
    await order(cluster, "roll_back", "a")
    assert (await event(RevisionReadyTrigger, RUN))["status"] == "failed"
    await event(CloseTrigger, RUN)
    await open_and_wait(cluster, cluster.request("2"), "roll_out_model/third")
    assert STEERING_ANNOTATION not in cluster.lease["metadata"]["annotations"]
    assert (saved(cluster).phase, saved(cluster).steered) == (Phase.TESTING, 0)


async def test_who_orders_is_told_when_it_came_too_late(cluster):
    await open_and_wait(cluster, cluster.request("2", **{"rollout.dwell_seconds": 60}), RUN)
    await begin(cluster, RUN)
    _, first = await order(cluster, "roll_back", "a")
    _, second = await order(cluster, "promote", "b")
    decided = await event(CanaryTrigger, RUN)
    assert decided["decision"] == "rolled_back"
    async with cluster.client("b") as client:
        assert await client.obeyed(NAMESPACE, MODEL, first, 1)
        with pytest.raises(RolloutRefusedError, match="came too late: the rollout of 'digits' is rolled_back"):
            await client.obeyed(NAMESPACE, MODEL, second, 1)


async def test_settings_that_do_not_fit_onto_a_lease_are_refused_before_anything_changes(cluster):
    query = 'sum(x{pod=~"$pods"})' + " " * 70_000
    before = spec(cluster)
    async with cluster.client(RUN) as client:
        with pytest.raises(RolloutRefusedError, match="shorten rollout"):
            await client.open(cluster.request("2", **{"rollout.errors": {"events": query, "total": query}}), "{}")
    assert spec(cluster) == before
    assert states.BUDGET < 262_144
    assert cluster.store.find(INFERENCE_SERVICE, MODEL, NAMESPACE)
