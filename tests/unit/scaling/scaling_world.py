"""A cluster (the Kubernetes stand-in) with MLScalers, its metrics and its clock."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from local.kubernetes.stand_in import KubernetesStandIn
from ml_lifecycle.kubernetes import leases
from ml_lifecycle.kubernetes.client import KubernetesClient
from ml_lifecycle.kubernetes.resource import (
    DEPLOYMENT,
    HORIZONTAL_POD_AUTOSCALER,
    INFERENCE_SERVICE,
    MLSCALER,
    POD,
    REVISION,
)
from ml_lifecycle.prometheus.answer import Sample, Series
from ml_lifecycle.prometheus.exceptions import PrometheusUnavailableError
from ml_lifecycle.scaling.client import MIN_SCALE
from ml_lifecycle.scaling.decision import Decision
from ml_lifecycle.scaling.reconciler import PassOptions, reconcile
from tests.unit.scaling.scaler_objects import inference_service_target, manifest

START = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
RPS = {"preset": "requests_per_second"}
Load = Callable[[float], float]  # of seconds since START


class Prometheus:
    """What the scaler asks of the client."""

    identity = "http://nowhere"

    def __init__(self) -> None:
        self.load: Load = lambda _: 30.0
        self.loads: dict[str, Load] = {}  # by query
        self.labels: list[dict[str, str]] = [{}]
        self.down = False
        self.queries: list[str] = []
        self.samples: list[int] = []  # that each range query asked for
        self.capacity: float | None = None

    async def instant(self, query: str, at: float) -> list[Sample]:
        self.queries.append(query)
        if self.down:
            raise PrometheusUnavailableError("Prometheus at http://nowhere does not answer")
        return [] if self.capacity is None else [Sample({}, self.capacity, at)]

    async def range(self, query: str, start: float, end: float, step: float) -> list[Series]:
        self.queries.append(query)
        self.samples.append(round((end - start) / step) + 1)
        if self.down:
            raise PrometheusUnavailableError("Prometheus at http://nowhere does not answer")
        load = self.loads.get(query, self.load)
        times = [end - step * index for index in reversed(range(round((end - start) / step) + 1))]
        found = [(at, load(at - START.timestamp())) for at in times]
        present = [(at, value) for at, value in found if not math.isnan(value)]
        return [Series(labels, *map(tuple, zip(*present, strict=True))) for labels in self.labels if present]


class World:
    """A cluster, its metrics and its clock."""

    def __init__(self, kubernetes: KubernetesClient) -> None:
        self.kubernetes = kubernetes
        self.prometheus = Prometheus()

    async def run(self, seconds: float = 0, **options: Any) -> list[Decision]:
        now = START + timedelta(seconds=seconds)
        return await reconcile(self.kubernetes, self.prometheus, now, PassOptions(tick_seconds=5, **options))  # type: ignore[arg-type]

    async def deployment(self, name: str = "web", replicas: int = 1) -> None:
        labels = {"app": name}
        template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
        await self.kubernetes.create(
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": name, "namespace": "models"},
                "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
            }
        )

    async def scaler(self, name: str = "web", **changes: Any) -> None:
        body = manifest(name, **changes)
        body["spec"] = {key: value for key, value in body["spec"].items() if value is not None}
        del body["status"]
        await self.kubernetes.create(body)

    async def replicas(self, name: str = "web") -> int:
        return int((await self.kubernetes.get(DEPLOYMENT, name, "models"))["spec"]["replicas"])

    async def stored(self, name: str = "web") -> dict[str, Any]:
        return await self.kubernetes.get(MLSCALER, name, "models")

    async def condition(self, kind: str, name: str = "web") -> tuple[str, str]:
        for item in (await self.stored(name))["status"]["conditions"]:
            if item["type"] == kind:
                return item["status"], item["message"]
        return "", ""

    async def inference_service(self, *, annotations: dict[str, str] | None = None, **predictor: Any) -> None:
        model = {"modelFormat": {"name": "onnx"}, "storageUri": "s3://b/m"}
        metadata = {"name": "digits", "namespace": "models", "annotations": annotations or {}}
        await self.kubernetes.create(
            {
                "apiVersion": INFERENCE_SERVICE.api_version,
                "kind": "InferenceService",
                "metadata": metadata,
                "spec": {"predictor": {"model": model, **predictor}},
            }
        )
        await self.serve("digits-predictor-00001")

    async def revision(self, name: str = "digits-predictor-00001", **annotations: str) -> None:
        await self.kubernetes.create(
            {
                "apiVersion": REVISION.api_version,
                "kind": "Revision",
                "metadata": {"name": name, "namespace": "models", "annotations": annotations},
                "spec": {"containers": [{"name": "kserve-container", "image": "i"}]},
            }
        )

    async def serve(self, revision: str) -> None:
        """All traffic to it."""
        traffic = [{"revisionName": revision, "percent": 100, "latestRevision": True}]
        status = {"components": {"predictor": {"latestReadyRevision": revision, "traffic": traffic}}}
        await self.kubernetes.merge_patch(
            INFERENCE_SERVICE, "digits", "models", {"status": status}, subresource="status"
        )

    async def min_scale(self, name: str = "digits-predictor-00001") -> str | None:
        found = await self.kubernetes.get(REVISION, name, "models")
        return (found["metadata"].get("annotations") or {}).get(MIN_SCALE)

    async def knative(self, **predictor: Any) -> None:
        await self.inference_service(**predictor)
        await self.revision(**{MIN_SCALE: "1"})  # KServe always writes it
        await self.scaler("digits", targetRef=inference_service_target(), metric=RPS)
        self.prometheus.labels = [{"namespace": "models", "service": "digits"}]


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesStandIn]:
    with KubernetesStandIn(tmp_path_factory.mktemp("kubernetes")) as cluster:
        yield cluster


@pytest.fixture
async def world(stand_in: KubernetesStandIn, tmp_path: Path) -> AsyncIterator[World]:
    async with KubernetesClient.from_kubeconfig(stand_in.kubeconfig) as client:
        yield World(client)
        for kind in (MLSCALER, HORIZONTAL_POD_AUTOSCALER, DEPLOYMENT, POD, REVISION, INFERENCE_SERVICE, leases.LEASE):
            for item in await client.list(kind, "models"):
                if item["metadata"].get("finalizers"):
                    await client.merge_patch(
                        kind, item["metadata"]["name"], "models", {"metadata": {"finalizers": None}}
                    )
                await client.delete(kind, item["metadata"]["name"], "models")
