"""What a scaler without a load says: the query, and what a real Prometheus has instead."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from ml_lifecycle.kubernetes.resource import MLSCALER
from ml_lifecycle.prometheus.answer import Sample
from ml_lifecycle.prometheus.client import PrometheusClient
from ml_lifecycle.prometheus.exceptions import PrometheusUnavailableError
from ml_lifecycle.scaling.decision import Decision
from tests.unit.prometheus.backfilled import Scraped, asked, prometheus
from tests.unit.scaling.scaler_objects import inference_service_target
from tests.unit.scaling.scaling_world import RPS, START, World, stand_in, world

__all__ = ["stand_in", "world"]

COUNTER = "kn_serving_invocation_duration_seconds_count"
NOW = round(START.timestamp())
needs_prometheus = pytest.mark.skipif(shutil.which("promtool") is None, reason="prometheus is not on PATH")


def counted(labels: str, each: int = 15) -> Scraped:
    """Two hours of ten requests a second."""
    return {f"{COUNTER}{{{labels}}}": [(at, 10.0 * (at - NOW + 7200)) for at in range(NOW - 7200, NOW, each)]}


async def passed(world: World, folder: Path, scraped: Scraped, **changes: Any) -> Decision:
    """One pass over the Knative service `digits`, whose scaler steps by the minute."""
    await world.knative()
    spec = {"stepSeconds": 60, **changes}
    await world.kubernetes.merge_patch(MLSCALER, "digits", "models", {"spec": spec})
    with prometheus(folder, {**scraped, 'up{job="pods"}': [(NOW - 60, 1.0)]}) as url:
        async with PrometheusClient(url) as client:
            await asked(client, "up", NOW)
            world.prometheus = client  # type: ignore[assignment]
            (decision,) = await world.run()
    return decision


@needs_prometheus
@pytest.mark.parametrize(
    ("labels", "example"),
    [
        ('kubernetes_namespace="models",kubernetes_pod="digits-a",http_route=""', 'kubernetes_pod="digits-a"'),
        ('k8s_namespace_name="models",service_name="digits"', 'service_name="digits"'),
        ('serving_kserve_io_inferenceservice="digits",job="pods"', 'job="pods"'),  # no namespace
    ],
)
async def test_other_labels_are_shown_with_what_to_configure(
    world: World, tmp_path: Path, labels: str, example: str
) -> None:
    decision = await passed(world, tmp_path, counted(labels + ',otel_scope_name="knative.dev/serving/pkg/queue"'))
    assert decision.cause == "MetricsMissing"
    assert f"asked was sum(rate({COUNTER}[240s])) of digits by its label kn_configuration_name" in decision.why
    assert f"under other labels, such as {{{example}" in decision.why or f", {example}" in decision.why
    assert "otel_scope" not in decision.why
    assert "k8s_templates/knative_pod_monitor.yaml" in decision.why
    assert "otlp.promote_resource_attributes" in decision.why
    assert (await world.condition("MetricsAvailable", "digits")) == ("False", decision.why)


@needs_prometheus
async def test_where_there_is_no_counter_knative_exports_nothing(world: World, tmp_path: Path) -> None:
    decision = await passed(world, tmp_path, {})
    assert f"Prometheus has no {COUNTER} at all: Knative exports no requests by default" in decision.why
    assert "request-metrics-protocol: prometheus in the ConfigMap config-observability" in decision.why
    assert "k8s_templates/knative_pod_monitor.yaml" in decision.why
    assert "otlp.promote_resource_attributes" in decision.why


@needs_prometheus
async def test_a_service_without_requests_among_others_is_no_matter_of_labels(world: World, tmp_path: Path) -> None:
    pod = 'namespace="models",pod="letters-predictor-00001-deployment-5697c8dcc8-kqzh2"'
    decision = await passed(world, tmp_path, counted(pod))
    assert "of other services, none of this one: no request has reached its pods since they began" in decision.why


@needs_prometheus
@pytest.mark.parametrize("each", [240, 300])
async def test_scrapes_that_are_too_seldom_are_named_with_the_step(world: World, tmp_path: Path, each: int) -> None:
    pod = 'namespace="models",pod="digits-predictor-00001-deployment-5697c8dcc8-kqzh2"'
    decision = await passed(world, tmp_path, counted(pod, each))
    assert f"so it seems to be scraped each {each} s" in decision.why
    assert "stepSeconds 60 needs a sample each 120 s: scrape more often, or raise stepSeconds" in decision.why


@needs_prometheus
async def test_a_capacity_that_cannot_be_measured_for_want_of_a_load_says_so_shortly(
    world: World, tmp_path: Path
) -> None:
    decision = await passed(world, tmp_path, {}, capacityPerReplica=None)
    assert decision.cause == "CapacityUnknown"
    assert f"Prometheus has no {COUNTER} at all" in decision.why
    assert len(decision.why) < 2000


async def test_one_question_for_all_scalers_of_a_source(world: World) -> None:
    await many(world, ["digits", "letters", "words"])
    decisions = await world.run()
    assert {decision.cause for decision in decisions} == {"MetricsMissing"}
    assert sum("group(" in query for query in world.prometheus.queries) == 1
    world.prometheus.queries.clear()
    world.prometheus.load = lambda _: 30.0
    await world.run(60)
    assert not any("group(" in query for query in world.prometheus.queries)


async def test_a_question_that_is_not_answered_is_no_failure(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await many(world, ["digits"])

    async def fails(*_: object) -> Iterable[Sample]:
        raise PrometheusUnavailableError("no answer")

    monkeypatch.setattr(world.prometheus, "instant", fails)
    (decision,) = await world.run()
    assert decision.why.startswith(f"held: the metric gives no fresh sample; asked was sum(rate({COUNTER}[20s]))")
    assert not decision.error


async def test_a_query_of_ones_own_is_shown_shortened(world: World) -> None:
    await world.deployment()
    query = f"sum({' or '.join(f'metric_{number}' for number in range(100))})"
    await world.scaler(metric={"query": query})
    world.prometheus.load = lambda _: math.nan
    (decision,) = await world.run()
    assert "asked was 'sum(metric_0 or metric_1" in decision.why
    assert "metric_99" not in decision.why
    assert not any("group(" in query for query in world.prometheus.queries)


async def many(world: World, names: list[str]) -> None:
    """Scalers of services in Knative mode that have no load."""
    await world.knative()
    for name in names[1:]:
        await world.kubernetes.create(
            {
                "apiVersion": "serving.kserve.io/v1beta1",
                "kind": "InferenceService",
                "metadata": {
                    "name": name,
                    "namespace": "models",
                    "annotations": {
                        "serving.kserve.io/deploymentMode": "Standard",
                        "serving.kserve.io/autoscalerClass": "external",
                    },
                },
                "spec": {"predictor": {"model": {"modelFormat": {"name": "onnx"}, "storageUri": "s3://b/m"}}},
            }
        )
        await world.deployment(f"{name}-predictor")
        await world.scaler(name, targetRef=inference_service_target(name), metric=RPS)
    world.prometheus.labels = [{"namespace": "models", "service": name} for name in names]
    world.prometheus.load = lambda _: math.nan
