"""The passes after a rollout: what serves now gets what served before had, at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ml_lifecycle.kubernetes.exceptions import UnavailableError
from ml_lifecycle.kubernetes.resource import INFERENCE_SERVICE, MLSCALER, REVISION
from ml_lifecycle.scaling.client import MIN_SCALE, ScalerClient
from tests.unit.scaling.scaler_objects import inference_service_target
from tests.unit.scaling.scaling_world import World, stand_in, world

__all__ = ["stand_in", "world"]

FIRST, SECOND = "digits-predictor-00001", "digits-predictor-00002"


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, method: str) -> Iterator[None]:
    """The cluster does not answer this of the client's requests."""

    async def fails(*_: Any) -> None:
        raise UnavailableError("no answer")

    with monkeypatch.context() as patched:
        patched.setattr(ScalerClient, method, fails)
        yield


async def served_by_nine(world: World, **changes: Any) -> None:
    await world.knative()
    await world.kubernetes.merge_patch(MLSCALER, "digits", "models", {"spec": {"maxReplicas": 60, **changes}})
    world.prometheus.load = lambda _: 355.0
    for minute in range(3):
        await world.run(60 * minute)


async def test_a_promoted_revision_takes_over_the_replicas_at_once(world: World) -> None:
    """KServe gives every new Revision a min-scale of its own."""
    await served_by_nine(world)
    assert await world.min_scale() == "9"
    await world.revision(SECOND, **{MIN_SCALE: "1"})
    await world.serve(SECOND)
    (decision,) = await world.run(240)
    assert (decision.replicas, decision.desired, decision.cause) == (1, 9, "TakenOver")
    assert await world.min_scale(SECOND) == "9"
    assert f"taken over from Revision {FIRST}" in decision.why
    (again,) = await world.run(300)
    assert (again.replicas, again.desired, again.written) == (9, 9, False)


@pytest.mark.parametrize("load", [355.0, 120.0, 30.0, None])
async def test_the_first_pass_falls_below_nothing_whatever_the_load_says(world: World, load: float | None) -> None:
    await served_by_nine(world)
    await world.revision(SECOND, **{MIN_SCALE: "1"})
    await world.serve(SECOND)
    world.prometheus.load = lambda at: 355.0 if at < 181 else load or 0.0
    world.prometheus.down = load is None
    (decision,) = await world.run(185)
    assert (decision.desired, await world.min_scale(SECOND)) == (9, "9")


async def test_what_the_rollout_gave_the_canary_is_kept_where_it_is_more(world: World) -> None:
    await served_by_nine(world)
    await world.revision(SECOND, **{MIN_SCALE: "12"})
    await world.serve(SECOND)
    (decision,) = await world.run(185)
    assert decision.replicas == 12
    assert decision.cause != "TakenOver"
    assert decision.desired is not None
    assert decision.desired >= 9


async def test_the_old_revision_is_asked_for_what_kserve_asked_it_for(world: World) -> None:
    await served_by_nine(world)
    await world.revision(SECOND, **{MIN_SCALE: "1"})
    await world.serve(SECOND)
    await world.run(240)
    assert (await world.min_scale(FIRST), await world.min_scale(SECOND)) == ("1", "9")


async def test_an_old_revision_that_another_hand_has_scaled_is_left_alone(world: World) -> None:
    await served_by_nine(world)
    await world.kubernetes.merge_patch(REVISION, FIRST, "models", {"metadata": {"annotations": {MIN_SCALE: "4"}}})
    await world.revision(SECOND, **{MIN_SCALE: "1"})
    await world.serve(SECOND)
    await world.run(240)
    assert (await world.min_scale(FIRST), await world.min_scale(SECOND)) == ("4", "9")


async def test_a_way_back_to_the_old_revision_takes_over_as_well(world: World) -> None:
    await served_by_nine(world)
    await world.revision(SECOND, **{MIN_SCALE: "1"})
    await world.serve(SECOND)
    await world.run(240)
    await world.serve(FIRST)
    await world.run(300)
    assert (await world.min_scale(FIRST), await world.min_scale(SECOND)) == ("9", "1")


async def test_an_old_revision_that_is_gone_is_no_obstacle(world: World) -> None:
    await served_by_nine(world)
    await world.revision(SECOND, **{MIN_SCALE: "1"})
    await world.serve(SECOND)
    await world.kubernetes.delete(REVISION, FIRST, "models")
    (decision,) = await world.run(240)
    assert not decision.error
    assert await world.min_scale(SECOND) == "9"


async def route(world: World, *routes: dict[str, Any], ready: str) -> None:
    status = {"components": {"predictor": {"latestReadyRevision": ready, "traffic": list(routes)}}}
    await world.kubernetes.merge_patch(INFERENCE_SERVICE, "digits", "models", {"status": status}, subresource="status")


async def test_a_label_on_the_service_leaves_the_new_revision_no_pass_at_one_replica(world: World) -> None:
    """KServe copies labels into the template, so that Knative makes a Revision, which takes all traffic once ready."""
    await served_by_nine(world)
    await world.revision(SECOND, **{MIN_SCALE: "1"})
    latest = {"latestRevision": True, "percent": 0, "revisionName": FIRST, "tag": "latest"}
    before = {"latestRevision": False, "percent": 100, "revisionName": FIRST, "tag": "prev"}
    await route(world, latest, before, ready=FIRST)  # the new one is not ready
    await world.run(180)
    assert (await world.min_scale(FIRST), await world.min_scale(SECOND)) == ("9", "1")
    await route(world, {"latestRevision": True, "percent": 100, "revisionName": SECOND}, ready=SECOND)
    await world.run(240)
    assert (await world.min_scale(FIRST), await world.min_scale(SECOND)) == ("1", "9")


async def test_a_route_of_a_tag_alone_is_no_traffic_of_the_old_revision(world: World) -> None:
    await served_by_nine(world)
    await world.revision(SECOND, **{MIN_SCALE: "1"})
    tagged = {"latestRevision": False, "revisionName": FIRST, "tag": "prev"}
    await route(world, {"latestRevision": True, "percent": 100, "revisionName": SECOND}, tagged, ready=SECOND)
    await world.run(240)
    assert await world.min_scale(FIRST) == "1"


async def test_what_was_written_on_the_old_revision_is_given_back_at_the_next_try(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await served_by_nine(world)
    await world.revision(SECOND, **{MIN_SCALE: "1"})
    await world.serve(SECOND)

    with failing(monkeypatch, "give_back"):
        await world.run(240)
    assert (await world.min_scale(FIRST), await world.min_scale(SECOND)) == ("9", "9")
    await world.run(300)
    assert await world.min_scale(FIRST) == "1"


async def test_a_promoted_deployment_takes_over_the_replicas_at_once(world: World) -> None:
    """Standard mode: KServe makes the Deployment with one replica."""
    annotations = {"serving.kserve.io/deploymentMode": "Standard", "serving.kserve.io/autoscalerClass": "external"}
    await world.inference_service(annotations=annotations)
    await world.deployment("digits-predictor", 40)
    await world.deployment("digits-v2-predictor", 1)
    await world.scaler("digits", targetRef=inference_service_target(), maxReplicas=60)
    world.prometheus.load = lambda _: 1600.0
    for minute in range(2):
        await world.run(60 * minute)
    before = await world.replicas("digits-predictor")
    assert before >= 40
    await world.kubernetes.merge_patch(INFERENCE_SERVICE, "digits", "models", {"spec": {"predictor": {"name": "v2"}}})
    await world.run(120)
    assert await world.replicas("digits-v2-predictor") == before


async def test_the_old_number_waits_until_the_write_gets_through(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await served_by_nine(world)
    await world.revision(SECOND, **{MIN_SCALE: "1"})
    await world.serve(SECOND)

    with failing(monkeypatch, "write_replicas"):
        (failed,) = await world.run(240)
    assert failed.error
    await world.run(300)
    assert await world.min_scale(SECOND) == "9"


async def test_another_target_by_another_spec_takes_nothing_over(world: World) -> None:
    await world.deployment(replicas=9)
    await world.deployment("other")
    await world.scaler()
    world.prometheus.load = lambda _: 355.0
    await world.run()
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "other"}
    await world.kubernetes.merge_patch(MLSCALER, "web", "models", {"spec": {"targetRef": target}})
    world.prometheus.load = lambda _: 30.0
    await world.run(60)
    assert await world.replicas("other") == 1


async def test_who_only_watches_hands_nothing_over(world: World) -> None:
    await served_by_nine(world)
    await world.kubernetes.merge_patch(MLSCALER, "digits", "models", {"spec": {"mode": "dryRun"}})
    await world.revision(SECOND, **{MIN_SCALE: "1"})
    await world.serve(SECOND)
    await world.run(240)
    assert (await world.min_scale(FIRST), await world.min_scale(SECOND)) == ("9", "1")
    assert "target" not in (await world.stored("digits"))["status"]


async def test_a_new_target_that_is_scaled_to_zero_stays_so(world: World) -> None:
    await served_by_nine(world)
    await world.revision(SECOND, **{MIN_SCALE: "0"})
    await world.serve(SECOND)
    (decision,) = await world.run(240)
    assert decision.cause == "ScaledToZero"
    assert await world.min_scale(SECOND) == "0"
