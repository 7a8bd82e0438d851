"""Whole passes against the Kubernetes stand-in; Prometheus answers from a function of time."""

from __future__ import annotations

import asyncio
import errno
import math
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ml_lifecycle.kubernetes import leases
from ml_lifecycle.kubernetes.client import KubernetesClient
from ml_lifecycle.kubernetes.exceptions import InvalidError
from ml_lifecycle.kubernetes.resource import (
    DEPLOYMENT,
    HORIZONTAL_POD_AUTOSCALER,
    INFERENCE_SERVICE,
    MLSCALER,
    POD,
)
from ml_lifecycle.prometheus.answer import Sample, Series
from ml_lifecycle.scaling.client import LISTED, ScalerClient, Target
from ml_lifecycle.scaling.resource import FINALIZER, Scaler
from tests.unit.scaling.scaler_objects import SPEC, inference_service_target
from tests.unit.scaling.scaling_world import RPS, START, Prometheus, World, stand_in, world

__all__ = ["stand_in", "world"]


async def test_a_ramp_is_met_with_replicas_before_it_arrives(world: World) -> None:
    await world.deployment()
    await world.scaler()
    world.prometheus.load = lambda at: min(100.0, 20.0 + max(0.0, at) * 80 / 50)
    full = 30 * 50 / 80  # seconds until the load passes the 50 of one replica
    before = await world.run(0)
    assert (before[0].desired, before[0].written) == (1, False)
    for at in range(5, 50, 5):
        (decision,) = await world.run(at)
        if decision.written:
            break
    assert at < full
    assert decision.load is not None
    assert decision.forecast is not None
    assert decision.load < 50 < decision.forecast
    assert (decision.replicas, await world.replicas()) == (1, decision.desired)
    assert decision.cause == "ForecastRises"
    status = (await world.stored())["status"]
    assert status["desiredReplicas"] == decision.desired
    assert (await world.condition("ForecastTrusted"))[0] == "True"


async def test_the_rise_and_fall_of_an_afternoon(world: World) -> None:
    """Replicas carry the load at all times, and come back once the stabilisation window has passed."""
    await world.deployment()
    await world.scaler()
    world.prometheus.load = lambda at: 20.0 + (130.0 * math.sin(math.pi * at / 600) if 0 < at < 600 else 0.0)
    short = 0
    for at in range(0, 720, 15):
        await world.run(at)
        short += await world.replicas() * 50 < world.prometheus.load(at)
    assert short == 0
    assert await world.replicas() == 1


async def test_dry_run_and_mode_dry_run_write_no_replicas(world: World) -> None:
    await world.deployment()
    await world.scaler()
    world.prometheus.load = lambda _: 120.0
    (decision,) = await world.run(dry_run=True)
    assert (decision.desired, decision.written) == (3, False)
    stored = await world.stored()
    assert "status" not in stored
    assert "finalizers" not in stored["metadata"]

    await world.kubernetes.merge_patch(MLSCALER, "web", "models", {"spec": {"mode": "dryRun"}})
    await world.run()
    assert await world.replicas() == 1
    assert (await world.stored())["status"]["desiredReplicas"] == 3


async def test_an_unchanged_status_is_not_written_again(world: World) -> None:
    await world.deployment()
    await world.scaler()
    await world.run(0)
    await world.run(5)
    first = (await world.stored())["metadata"]["resourceVersion"]
    await world.run(10)
    assert (await world.stored())["metadata"]["resourceVersion"] == first


@pytest.mark.parametrize("kind", ["down", "empty", "nan", "stale"])
async def test_without_metrics_the_replicas_stay(world: World, kind: str) -> None:
    await world.deployment(replicas=4)
    await world.scaler()
    world.prometheus.load = {
        "nan": lambda _: math.nan,
        "stale": lambda at: 1.0 if at < -20 else math.nan,
    }.get(kind, lambda _: 1.0)
    world.prometheus.down = kind == "down"
    if kind == "empty":
        world.prometheus.labels = []
    (decision,) = await world.run()
    assert await world.replicas() == 4
    assert decision.cause == "MetricsMissing"
    assert decision.why.startswith("held")
    assert (await world.condition("MetricsAvailable"))[0] == "False"


async def test_two_series_are_refused(world: World) -> None:
    await world.deployment(replicas=4)
    await world.scaler()
    world.prometheus.labels = [{"pod": "a"}, {"pod": "b"}]
    (decision,) = await world.run()
    assert "gives 2 series" in decision.why
    assert await world.replicas() == 4


async def test_one_scalers_failure_touches_no_other(world: World) -> None:
    await world.deployment("good")
    await world.scaler("bad", targetRef={"apiVersion": "apps/v1", "kind": "Deployment", "name": "absent"})
    await world.scaler("good", targetRef={"apiVersion": "apps/v1", "kind": "Deployment", "name": "good"})
    world.prometheus.load = lambda _: 120.0
    bad, good = await world.run()
    assert bad.error
    assert "absent" in (await world.condition("Ready", "bad"))[1]
    assert (await world.condition("Ready", "good"))[0] == "True"
    assert await world.replicas("good") == good.desired == 3


async def test_conflicts_are_left_alone_and_said(world: World) -> None:
    await world.deployment()
    await world.scaler("a")
    await world.scaler("b")
    world.prometheus.load = lambda _: 120.0
    await world.run()
    assert await world.replicas() == 1
    assert "MLScaler b" in (await world.condition("Conflict", "a"))[1]
    assert (await world.condition("Conflict", "b"))[0] == "True"


async def test_an_hpa_on_the_target_is_a_conflict(world: World) -> None:
    await world.deployment()
    await world.scaler()
    reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
    await world.kubernetes.create(
        {
            "apiVersion": HORIZONTAL_POD_AUTOSCALER.api_version,
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "web", "namespace": "models"},
            "spec": {"scaleTargetRef": reference, "maxReplicas": 3},
        }
    )
    world.prometheus.load = lambda _: 120.0
    (decision,) = await world.run()
    assert decision.cause == "Conflict"
    assert await world.replicas() == 1


async def test_the_finalizer_returns_the_replicas(world: World) -> None:
    await world.deployment(replicas=1)
    await world.scaler(minReplicas=1)
    world.prometheus.load = lambda _: 120.0
    await world.run()
    assert (await world.stored())["metadata"]["finalizers"] == [FINALIZER]
    assert await world.replicas() == 3
    await world.kubernetes.delete(MLSCALER, "web", "models")
    await world.run(5)
    assert await world.replicas() == 1
    assert await world.kubernetes.find(MLSCALER, "web", "models") is None


async def test_the_deletion_succeeds_when_the_target_is_gone(world: World) -> None:
    await world.deployment()
    await world.scaler()
    await world.run()
    await world.kubernetes.delete(DEPLOYMENT, "web", "models")
    await world.kubernetes.delete(MLSCALER, "web", "models")
    await world.run(5)
    assert await world.kubernetes.find(MLSCALER, "web", "models") is None


async def test_keep_leaves_the_replicas(world: World) -> None:
    await world.deployment()
    await world.scaler(deletionPolicy="Keep")
    world.prometheus.load = lambda _: 120.0
    await world.run()
    await world.kubernetes.delete(MLSCALER, "web", "models")
    assert await world.kubernetes.find(MLSCALER, "web", "models") is None
    assert await world.replicas() == 3


async def test_knative_is_scaled_by_the_revisions_annotation(world: World) -> None:
    await world.knative()
    generation = (await world.kubernetes.get(INFERENCE_SERVICE, "digits", "models"))["metadata"]["generation"]
    world.prometheus.load = lambda _: 120.0
    (decision,) = await world.run()
    assert (decision.replicas, decision.desired, await world.min_scale()) == (1, 3, "3")
    after = (await world.kubernetes.get(INFERENCE_SERVICE, "digits", "models"))["metadata"]["generation"]
    assert after == generation
    (again,) = await world.run(5)
    assert (again.replicas, again.written) == (3, False)


async def test_the_revisions_own_maximum_is_kept(world: World) -> None:
    await world.inference_service()
    await world.revision(**{"autoscaling.knative.dev/max-scale": "2"})
    await world.scaler("digits", targetRef=inference_service_target(), metric=RPS)
    world.prometheus.labels = [{"namespace": "models", "service": "digits"}]
    world.prometheus.load = lambda _: 120.0
    await world.run()
    assert await world.min_scale() == "2"
    assert (await world.condition("ScalingLimited", "digits"))[0] == "True"


async def test_a_held_lease_keeps_the_scaler_away(world: World) -> None:
    await world.knative()
    world.prometheus.load = lambda _: 120.0
    await leases.acquire(world.kubernetes, "models", "ml-lifecycle-digits", "roll_out_model/run", 60, START)
    (decision,) = await world.run(5)
    assert decision.cause == "RolloutInProgress"
    assert "roll_out_model/run" in (await world.condition("RolloutInProgress", "digits"))[1]
    assert await world.min_scale() == "1"
    await leases.release(world.kubernetes, "models", "ml-lifecycle-digits", "roll_out_model/run")
    await world.run(10)
    assert await world.min_scale() == "3"


async def test_a_lease_taken_during_the_pass_still_counts(world: World) -> None:
    await world.knative()

    async def slow(*_: Any) -> list[Series]:
        await leases.acquire(world.kubernetes, "models", "ml-lifecycle-digits", "late/run", 60, START)
        return await Prometheus.range(world.prometheus, *_)

    world.prometheus.load = lambda _: 120.0
    world.prometheus.range = slow  # type: ignore[method-assign]
    (decision,) = await world.run(5)
    assert decision.cause == "RolloutInProgress"
    assert await world.min_scale() == "1"


async def test_an_open_canary_keeps_the_scaler_away(world: World) -> None:
    await world.knative(canaryTrafficPercent=25)
    world.prometheus.load = lambda _: 120.0
    (decision,) = await world.run()
    assert "open at 25 %" in decision.why
    assert await world.min_scale() == "1"


async def test_a_deletion_waits_for_the_rollout(world: World) -> None:
    await world.knative()
    await world.run()
    await leases.acquire(world.kubernetes, "models", "ml-lifecycle-digits", "roll_out_model/run", 60, START)
    await world.kubernetes.delete(MLSCALER, "digits", "models")
    await world.run(5)
    assert (await world.condition("RolloutInProgress", "digits"))[1].startswith("deletion waits")
    await world.run(600)
    assert await world.kubernetes.find(MLSCALER, "digits", "models") is None


async def test_standard_mode_scales_the_deployment_only_where_kserve_leaves_it(world: World) -> None:
    mode = {"serving.kserve.io/deploymentMode": "Standard"}
    await world.inference_service(annotations=mode)
    await world.deployment("digits-predictor")
    await world.scaler("digits", targetRef=inference_service_target())
    world.prometheus.load = lambda _: 120.0
    (refused,) = await world.run()
    assert refused.cause == "Conflict"
    assert "set it to 'external'" in refused.why
    external = {"metadata": {"annotations": {"serving.kserve.io/autoscalerClass": "external"}}}
    await world.kubernetes.merge_patch(INFERENCE_SERVICE, "digits", "models", external)
    await world.run(5)
    assert await world.replicas("digits-predictor") == 3


async def test_standard_mode_finds_the_deployment_of_a_predictor_that_was_a_canary(world: World) -> None:
    annotations = {
        "serving.kserve.io/deploymentMode": "Standard",
        "serving.kserve.io/autoscalerClass": "external",
    }
    await world.inference_service(annotations=annotations, name="v2")
    await world.deployment("digits-predictor")
    await world.deployment("digits-v2-predictor")
    await world.scaler("digits", targetRef=inference_service_target())
    world.prometheus.load = lambda _: 120.0
    await world.run()
    assert (await world.replicas("digits-v2-predictor"), await world.replicas("digits-predictor")) == (3, 1)


async def test_capacity_and_lead_time_are_measured_once_an_hour(world: World) -> None:
    await world.deployment()
    metadata = {"name": "web-abc-12345", "namespace": "models", "labels": {"app": "web"}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [{"name": "c"}]}}
    stored = await world.kubernetes.create(pod)
    created = datetime.fromisoformat(stored["metadata"]["creationTimestamp"])
    ready = (created + timedelta(seconds=35)).strftime("%Y-%m-%dT%H:%M:%SZ")
    condition = {"type": "Ready", "status": "True", "lastTransitionTime": ready}
    await world.kubernetes.merge_patch(
        POD, "web-abc-12345", "models", {"status": {"conditions": [condition]}}, subresource="status"
    )
    await world.scaler(capacityPerReplica=None, leadTimeSeconds=None)
    world.prometheus.load = lambda _: 120.0
    (unknown,) = await world.run()
    assert unknown.cause == "CapacityUnknown"
    assert await world.replicas() == 1

    world.prometheus.capacity = 50.0
    (first,) = await world.run(5)
    assert (first.desired, await world.replicas()) == (3, 3)
    status = (await world.stored())["status"]
    assert (status["capacityPerReplica"], status["leadTimeSeconds"]) == (50, 35)

    world.prometheus.capacity = 25.0
    await world.run(60)
    assert await world.replicas() == 3
    await world.run(3700)
    assert await world.replicas() == 6


async def test_many_targets_of_a_kind_are_one_list(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"web-{number}" for number in range(LISTED)]
    for name in names:
        await world.deployment(name)
        await world.scaler(name, targetRef={"apiVersion": "apps/v1", "kind": "Deployment", "name": name})
    await world.kubernetes.delete(DEPLOYMENT, "web-0", "models")
    read: list[str] = []
    find = KubernetesClient.find

    async def counted(client: KubernetesClient, kind: Any, name: str, *rest: Any) -> Any:
        read.append(name)
        return await find(client, kind, name, *rest)

    monkeypatch.setattr(KubernetesClient, "find", counted)
    decisions = await world.run()
    assert read == []
    assert [decision.cause for decision in decisions] == ["TargetMissing", *["WithinTolerance"] * (LISTED - 1)]


async def test_many_services_are_one_query(world: World) -> None:
    await world.inference_service()
    await world.revision()
    for name in ("digits", "letters", "words"):
        await world.scaler(name, targetRef=inference_service_target(name), metric=RPS)
    decisions = await world.run()
    assert len(world.prometheus.samples) == 1
    assert [decision.cause for decision in decisions].count("TargetMissing") == 2


async def test_with_a_cache_a_pass_asks_for_what_is_new_and_decides_the_same(world: World, tmp_path: Path) -> None:
    await world.deployment()
    await world.scaler(mode="dryRun", historySize=200, stepSeconds=60)
    world.prometheus.load = lambda at: 60 + 40 * math.sin(at / 3000)
    for seconds in (0, 60, 180, 3600):
        (cached,) = await world.run(seconds, history_cache=tmp_path / "cache")
        (whole,) = await world.run(seconds)
        assert (cached.desired, cached.cause, cached.why) == (whole.desired, whole.cause, whole.why)
        assert cached.forecast == pytest.approx(whole.forecast, rel=1e-5)
    assert world.prometheus.samples[::2] == [200, 11, 12, 57 + 10]
    assert set(world.prometheus.samples[1::2]) == {200}


async def test_an_outage_leaves_no_hole_in_the_cache(world: World, tmp_path: Path) -> None:
    await world.deployment()
    await world.scaler(historySize=200, stepSeconds=60)
    await world.run(0, history_cache=tmp_path)
    world.prometheus.down = True
    (held,) = await world.run(60, history_cache=tmp_path)
    assert held.cause == "MetricsMissing"
    world.prometheus.down = False
    (decision,) = await world.run(1200, history_cache=tmp_path)
    assert world.prometheus.samples == [200, 11, 20 + 10]
    assert not decision.error


async def test_what_is_not_read_in_time_holds_and_the_next_pass_goes_on_from_there(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("quick", "slow"):
        await world.deployment(name)
        await world.scaler(name, targetRef={**SPEC["targetRef"], "name": name}, metric={"query": name}, historySize=200)
    answer, slow = world.prometheus.range, {"slow"}

    async def answers(query: str, *window: float) -> list[Series]:
        if query in slow:
            await asyncio.sleep(60)
        return await answer(query, *window)

    monkeypatch.setattr(world.prometheus, "range", answers)
    quick, late = await world.run(history_cache=tmp_path, deadline_seconds=0.6)
    assert not quick.error
    assert late.cause == "MetricsMissing"
    assert late.why.startswith("held: its load was not read within 0.")
    slow.clear()
    quick, late = await world.run(5, history_cache=tmp_path)
    assert not quick.error
    assert not late.error
    assert world.prometheus.samples == [200, 121, 200]


async def test_one_failed_reading_takes_nothing_away(world: World, tmp_path: Path) -> None:
    """Though the cache knows what the load was a minute ago, and that it was low."""
    await world.deployment(replicas=9)
    await world.scaler(historySize=200, stepSeconds=60)
    world.prometheus.load = lambda _: 330.0
    await world.run(0, history_cache=tmp_path)
    world.prometheus.load = lambda at: 330.0 if at < 60 else 40.0
    await world.run(600, history_cache=tmp_path)
    before = await world.replicas()
    world.prometheus.down = True
    (decision,) = await world.run(1000, history_cache=tmp_path)
    assert (decision.desired, decision.why) == (before, "held: Prometheus at http://nowhere does not answer")
    stored = (await world.stored())["status"]["conditions"]
    assert {item["type"]: item["reason"] for item in stored}["MetricsAvailable"] == "MetricsMissing"


async def test_a_series_that_ends_is_still_seen_in_the_cache(world: World, tmp_path: Path) -> None:
    await world.deployment()
    await world.scaler(historySize=3 * 1440, stepSeconds=60)
    world.prometheus.load = lambda at: math.nan if at > 300 else 60 + 20 * math.sin(at / 13_750)
    for seconds in (300, 1500, 3000):
        (cached,) = await world.run(seconds, history_cache=tmp_path, dry_run=True)
        (whole,) = await world.run(seconds, dry_run=True)
        assert (cached.desired, cached.cause, cached.why) == (whole.desired, whole.cause, whole.why)


@pytest.mark.parametrize("fault", ["file", "full"])
async def test_without_a_usable_folder_the_pass_reads_everything(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = tmp_path / "cache"
    if fault == "file":
        folder.write_text("")
    else:
        monkeypatch.setattr("os.posix_fallocate", full)
    await world.deployment()
    await world.scaler()
    for seconds in (0, 5):
        (decision,) = await world.run(seconds, history_cache=folder)
        assert not decision.error
    assert world.prometheus.samples == [40, 40]


async def test_what_is_not_measured_in_time_waits_and_keeps_what_was_measured(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.deployment()
    await world.scaler(capacityPerReplica=None, leadTimeSeconds=None)
    world.prometheus.capacity = 50.0
    (measured,) = await world.run()
    assert not measured.error
    await world.deployment("new")
    await world.scaler("new", targetRef={**SPEC["targetRef"], "name": "new"}, capacityPerReplica=None)

    async def hangs(query: str, at: float) -> list[Sample]:
        await asyncio.sleep(60)
        return []

    monkeypatch.setattr(world.prometheus, "instant", hangs)
    new, old = await world.run(2 * 3600, deadline_seconds=1.5)
    assert (new.cause, old.error) == ("CapacityUnknown", False)
    assert "was not measured within" in new.why


async def test_while_prometheus_is_down_the_cache_still_sees_the_morning_come(world: World, tmp_path: Path) -> None:
    await world.deployment()
    await world.scaler(mode="auto", maxReplicas=20, historySize=3 * 1440, stepSeconds=60, leadTimeSeconds=60)
    # Every day it rises from 30 to 230 in the first hour after START.
    world.prometheus.load = lambda at: 30 + 200 * min(1.0, (at % 86_400) / 3600) * (at % 86_400 < 40_000)
    await world.run(300, history_cache=tmp_path)
    before = await world.replicas()
    world.prometheus.down = True
    (decision,) = await world.run(2400, history_cache=tmp_path)
    assert decision.cause == "MetricsMissing"
    assert "no fresh sample, forecast" in decision.why
    assert "does not answer" in decision.why
    assert before < await world.replicas()
    assert await world.condition("MetricsAvailable") == ("False", "Prometheus at http://nowhere does not answer")
    after = await world.replicas()
    (held,) = await world.run(2400 + 4 * 3600, history_cache=tmp_path)
    assert (await world.replicas(), held.why) == (after, "held: Prometheus at http://nowhere does not answer")


async def test_what_the_deadline_cuts_off_is_said(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.deployment("fast")
    await world.deployment("slow")
    for name in ("fast", "slow"):
        await world.scaler(name, targetRef={"apiVersion": "apps/v1", "kind": "Deployment", "name": name})
    world.prometheus.load = lambda _: 120.0
    write = ScalerClient.write_replicas

    async def stuck(client: ScalerClient, target: Target, replicas: int) -> None:
        if target.name == "slow":
            await asyncio.sleep(60)
        await write(client, target, replicas)

    monkeypatch.setattr(ScalerClient, "write_replicas", stuck)
    fast, slow = await world.run(deadline_seconds=3)
    assert fast.written
    assert (slow.written, slow.cause, slow.error) == (False, "NotReached", True)
    with pytest.raises(TimeoutError):
        await world.run(deadline_seconds=0)


async def test_whoever_needs_replicas_is_served_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, load in (("a-still", 30.0), ("b-falls", 30.0), ("c-rises", 120.0), ("d-soars", 330.0)):
        await world.deployment(name, replicas=3 if name == "b-falls" else 1)
        await world.scaler(name, targetRef={**SPEC["targetRef"], "name": name}, metric={"query": name})
        world.prometheus.loads[name] = lambda _, load=load: load
    order: list[str] = []
    write = ScalerClient.write_status

    async def noted(client: ScalerClient, scaler: Scaler, status: dict[str, Any]) -> bool:
        order.append(scaler.name)
        return await write(client, scaler, status)

    monkeypatch.setattr(ScalerClient, "write_status", noted)
    decisions = await world.run(concurrency=1)
    assert order == ["d-soars", "c-rises", "b-falls", "a-still"]
    assert [decision.name for decision in decisions] == sorted(order)


async def test_no_scalers_no_queries(world: World) -> None:
    assert await world.run() == []
    assert world.prometheus.queries == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"maxReplicas": 0}, "spec.maxReplicas"),
        ({"minReplicas": 11}, "minReplicas must not exceed maxReplicas"),
        ({"metric": {}}, "give either query or preset"),
        ({"metric": RPS}, "metric.preset reads the requests of an InferenceService"),
    ],
)
async def test_the_server_refuses_what_breaks_the_schema(world: World, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidError, match=says):
        await world.scaler(**changes)


@pytest.mark.parametrize(("allowed", "asks"), [(None, True), (["models"], True), (["others"], False), ([], False)])
async def test_a_query_of_its_own_is_for_the_namespaces_that_settings_name(
    world: World, allowed: list[str] | None, asks: bool
) -> None:
    await world.deployment()
    await world.scaler(metric={"query": 'bank_balance_total{namespace="treasury"}'})
    await world.run(own_queries=allowed)
    assert bool(world.prometheus.queries) == asks
    if not asks:
        assert "scaling.own_queries" in (await world.condition("Ready"))[1]
