"""Whatever is wrong with one MLScaler, or with what stands around it, ends there: the others are scaled."""

from __future__ import annotations

import asyncio
import copy
import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml_lifecycle.kubernetes.exceptions import ForbiddenError, NotFoundError, UnavailableError
from ml_lifecycle.kubernetes.resource import (
    DEPLOYMENT,
    HORIZONTAL_POD_AUTOSCALER,
    INFERENCE_SERVICE,
    LEASE,
    MLSCALER,
    POD,
    REVISION,
    SCALED_OBJECT,
    ResourceKind,
)
from ml_lifecycle.prometheus.answer import Sample, Series
from ml_lifecycle.prometheus.exceptions import PrometheusTooHeavyError
from ml_lifecycle.scaling.client import MIN_SCALE
from ml_lifecycle.scaling.decision import Decision
from ml_lifecycle.scaling.reconciler import PassOptions, reconcile
from tests.unit.scaling.scaler_objects import inference_service_target, manifest

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
DAY = "2026-11-20T12:00:00Z"


class Cluster:
    """Objects as they are given, however odd; what is patched is merged."""

    def __init__(self) -> None:
        self.objects: dict[tuple[ResourceKind, str, str], Any] = {}
        self.unlisted: dict[tuple[ResourceKind, str | None], Exception] = {}
        self.hangs: set[ResourceKind] = set()
        self.selectors: list[tuple[ResourceKind, str | None, str | None]] = []

    def add(self, kind: ResourceKind, name: str, body: Mapping[str, Any], namespace: str = "models") -> None:
        metadata = body.get("metadata") if isinstance(body.get("metadata"), dict) else {}
        named = {**(metadata or {}), "name": name, "namespace": namespace}
        self.objects[kind, namespace, name] = {**copy.deepcopy(dict(body)), "metadata": named}

    async def list(
        self, kind: ResourceKind, namespace: str | None = None, label_selector: str | None = None
    ) -> list[dict[str, Any]]:
        self.selectors.append((kind, namespace, label_selector))
        if kind in self.hangs:
            await asyncio.sleep(3600)
        if error := self.unlisted.get((kind, namespace)):
            raise error
        found = [item for (one, place, _), item in self.objects.items() if one is kind and namespace in {None, place}]
        return copy.deepcopy(found)

    async def find(self, kind: ResourceKind, name: str, namespace: str) -> Any:
        return copy.deepcopy(self.objects.get((kind, namespace, name)))

    async def merge_patch(self, kind: ResourceKind, name: str, namespace: str, patch: Any, **_: Any) -> Any:
        stored = self.objects[kind, namespace, name]
        for key, value in patch.items():
            stored[key] = {**stored[key], **value} if isinstance(stored.get(key), dict) else value
        return stored


class Prometheus:
    """120 for everybody; `odd` says what a query about something odd is answered."""

    identity = "http://nowhere"

    def __init__(self) -> None:
        self.odd: Any = None

    async def instant(self, query: str, at: float) -> list[Sample]:
        return [Sample({}, 50.0, at)]

    async def range(self, query: str, start: float, end: float, step: float) -> list[Series]:
        if isinstance(self.odd, Exception) and "odd" in query:
            raise self.odd
        times = np.arange(start, end + step / 2, step)
        values = np.full(len(times), 120.0)
        if self.odd is not None and "odd" in query:
            return [Series({}, times[: len(self.odd)], np.array(self.odd[: len(times)], dtype=float))]
        labels = [{"namespace": "models", "service": "odd"}] if "kn_" in query else [{}]
        return [Series(one, times, values) for one in labels]


def deployment(name: str) -> dict[str, Any]:
    return {
        "metadata": {"labels": {"app": name}},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": name}}},
        "status": {"replicas": 1},
    }


def base() -> Cluster:
    """A good scaler that needs 3 replicas and has 1."""
    cluster = Cluster()
    cluster.add(DEPLOYMENT, "good", deployment("good"))
    cluster.add(MLSCALER, "good", manifest("good", targetRef=target("good"), metric={"query": "good"}))
    return cluster


def target(name: str) -> dict[str, str]:
    return {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}


async def scaled(cluster: Cluster, prometheus: Any = None, **options: Any) -> dict[str, Decision]:
    """The decisions of one pass, in which the good one was scaled."""
    found = await reconcile(cluster, prometheus or Prometheus(), NOW, PassOptions(tick_seconds=5, **options))  # type: ignore[arg-type]
    assert cluster.objects[DEPLOYMENT, "models", "good"]["spec"]["replicas"] == 3
    return {decision.name: decision for decision in found}


def condition(cluster: Cluster, name: str) -> tuple[str, str, str]:
    for item in cluster.objects[MLSCALER, "models", name]["status"]["conditions"]:
        if item["type"] == "Ready":
            return item["status"], item["reason"], item["message"]
    return "", "", ""


# What may stand beside the good one: of each kind one object that its schema would let through.
STATUS = {
    "desiredReplicas": 4,
    "currentReplicas": 4,
    "load": 3.5,
    "capacityPerReplica": 50,
    "leadTimeSeconds": 30,
    "measuredTime": DAY,
    "lastScaleTime": DAY,
    "target": {"kind": "Revision", "name": "odd-predictor-00000", "service": "odd"},
    "scalingPeriod": {"direction": "Up", "startTime": DAY, "replicas": 3},
    "forecast": {"expected": 1.0, "peak": 2.0, "model": "trend", "skill": 0.1, "horizonSeconds": 60},
    "conditions": [
        {"type": "Ready", "status": "True", "reason": "LoadRises", "message": "", "lastTransitionTime": DAY}
    ],
}
ODD: dict[str, tuple[ResourceKind, str, dict[str, Any]]] = {
    "scaler": (MLSCALER, "odd", manifest("odd", status=STATUS, targetRef=target("odd"), metric={"query": "odd"})),
    "service's scaler": (
        MLSCALER,
        "odd",
        manifest(
            "odd",
            status=STATUS,
            targetRef=inference_service_target("odd"),
            metric={"preset": "requests_per_second"},
            capacityPerReplica=None,
            leadTimeSeconds=None,
        ),
    ),
    "deployment": (DEPLOYMENT, "odd", deployment("odd")),
    "service": (
        INFERENCE_SERVICE,
        "odd",
        {
            "metadata": {"annotations": {"serving.kserve.io/autoscalerClass": "external"}},
            "spec": {"predictor": {"minReplicas": 1, "canaryTrafficPercent": 100, "name": "v2"}, "canary": []},
            "status": {
                "deploymentMode": "Knative",
                "components": {
                    "predictor": {
                        "latestReadyRevision": "odd-predictor-00001",
                        "traffic": [{"revisionName": "odd-predictor-00001", "percent": 100}],
                    }
                },
            },
        },
    ),
    "revision": (
        REVISION,
        "odd-predictor-00001",
        {"metadata": {"annotations": {MIN_SCALE: "1"}}, "status": {"actualReplicas": 1}},
    ),
    "pod": (
        POD,
        "odd-1",
        {
            "metadata": {"creationTimestamp": DAY},
            "status": {
                "containerStatuses": [{"restartCount": 0}],
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": DAY}],
            },
        },
    ),
    "lease": (
        LEASE,
        "ml-lifecycle-odd",
        {"spec": {"holderIdentity": "run", "leaseDurationSeconds": 60, "renewTime": "2026-11-21T11:00:00.000000Z"}},
    ),
    "autoscaler": (HORIZONTAL_POD_AUTOSCALER, "odd", {"spec": {"scaleTargetRef": target("another")}}),
    "scaled object": (SCALED_OBJECT, "odd", {"spec": {"scaleTargetRef": {"name": "another"}}}),
}
KINDS = list(ODD)


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [path, *(each for key, inner in value.items() for each in paths(inner, (*path, key)))]
    if isinstance(value, list):
        return [path, *(each for place, inner in enumerate(value) for each in paths(inner, (*path, place)))]
    return [path]


def replaced(value: Any, path: tuple[Any, ...], by: Any) -> Any:
    if not path:
        return by
    copied = copy.copy(value)
    copied[path[0]] = replaced(value[path[0]], path[1:], by)
    return copied


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 2**31, 10**30, 1e308, -0.5])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["", "..", "0", "-5", "9" * 30, "True", "2026-11-21T12:00:00", "9999-12-31T23:59:59Z"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


@st.composite
def odd_objects(draw: st.DrawFn) -> dict[str, dict[str, Any]]:
    """All kinds, of which one or two have something odd somewhere."""
    bodies = {kind: body for kind, (_, _, body) in ODD.items()}
    del bodies[draw(st.sampled_from(["scaler", "service's scaler"]))]
    for kind in draw(st.lists(st.sampled_from(sorted(bodies)), min_size=1, max_size=2, unique=True)):
        path = draw(st.sampled_from([path for path in paths(bodies[kind]) if path[:1] != ("metadata",) or path[2:]]))
        odd = replaced(bodies[kind], path, draw(JSON))
        bodies[kind] = odd if isinstance(odd, dict) else {"spec": odd}
    return bodies


@given(odd_objects())
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_odd_objects_stop_nobody_else(bodies: dict[str, dict[str, Any]]) -> None:
    cluster = base()
    for kind, body in bodies.items():
        cluster.add(*ODD[kind][:2], body)
    found = asyncio.run(scaled(cluster))
    assert set(found) == {"good", "odd"}
    json.dumps([decision.to_json() for decision in found.values()])
    status = cluster.objects[MLSCALER, "models", "odd"].get("status")
    json.dumps(status, allow_nan=False)


@given(st.lists(st.floats() | st.sampled_from([1e308, -1e308, 1e300, 1e-300, 5e-324, math.nan, math.inf]), max_size=60))
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_odd_samples_stop_nobody_else(values: list[float]) -> None:
    cluster, prometheus = base(), Prometheus()
    cluster.add(*ODD["scaler"])
    cluster.add(*ODD["deployment"])
    prometheus.odd = values
    found = asyncio.run(scaled(cluster, prometheus))
    json.dumps([decision.to_json() for decision in found.values()])


@pytest.mark.parametrize(
    "error", [KeyError("values"), AttributeError("get"), RuntimeError("x"), UnavailableError("x"), TimeoutError()]
)
async def test_whatever_the_reading_of_one_load_raises_ends_there(error: Exception) -> None:
    cluster, prometheus = base(), Prometheus()
    cluster.add(*ODD["scaler"])
    cluster.add(*ODD["deployment"])
    prometheus.odd = error
    found = await scaled(cluster, prometheus)
    assert found["odd"].cause == "MetricsMissing"
    assert condition(cluster, "odd")[0] == "False"


@pytest.mark.parametrize("broken", ["forecast", "plans", "read_measures", "draw"])
async def test_whatever_a_step_raises_for_one_scaler_ends_there(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that fails is asked in parts, until what fails fails alone."""
    from ml_lifecycle.scaling import reconciler

    cluster = base()
    cluster.add(MLSCALER, "odd", {**ODD["scaler"][2], "status": {}})
    spec = cluster.objects[MLSCALER, "models", "odd"]["spec"]
    spec |= {"tolerance": 0.77, "quantile": 0.77}
    if broken == "read_measures":
        del spec["capacityPerReplica"]
    cluster.add(*ODD["deployment"])
    whole = getattr(reconciler, broken)

    def breaks(first: Any, *rest: Any, **named: Any) -> Any:
        asked = first if isinstance(first, list) else [first]
        if any("0.77" in str(one) or "odd" in str(one) for one in asked):
            raise ZeroDivisionError("odd")
        return whole(first, *rest, **named)

    monkeypatch.setattr(reconciler, broken, breaks)
    shown: list[str] = []
    found = await scaled(cluster, show=lambda scaler, _: shown.append(scaler.name))
    assert "good" in shown
    if broken in {"plans", "read_measures"}:
        assert "ZeroDivisionError" in found["odd"].why
        assert "ZeroDivisionError" in condition(cluster, "odd")[2]


async def test_a_pod_whose_ready_time_is_null_is_no_measure() -> None:
    cluster = base()
    cluster.add(*ODD["scaler"])
    del cluster.objects[MLSCALER, "models", "odd"]["spec"]["leadTimeSeconds"]
    cluster.add(*ODD["deployment"])
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": None}
    cluster.add(POD, "odd-1", {"metadata": {"creationTimestamp": DAY}, "status": {"conditions": [ready]}})
    assert not (await scaled(cluster))["odd"].error


@pytest.mark.parametrize("kind", [LEASE, INFERENCE_SERVICE])
@pytest.mark.parametrize("fault", [UnavailableError("x"), ForbiddenError("no"), KeyError("items"), "hangs"], ids=repr)
async def test_what_cannot_be_listed_is_not_absent_a_service_holds(kind: ResourceKind, fault: Any) -> None:
    cluster = base()
    for odd in ("service's scaler", "service", "revision"):
        cluster.add(*ODD[odd])
    if fault == "hangs":
        cluster.hangs = {kind}
    else:
        cluster.unlisted = {(kind, None): fault, (kind, "models"): fault}
    found = await scaled(cluster, deadline_seconds=3 if fault == "hangs" else 45)
    assert found["odd"].cause == "SurroundingsUnreadable"
    assert f"{kind.plural} could not be listed" in condition(cluster, "odd")[2]
    assert cluster.objects[REVISION, "models", "odd-predictor-00001"]["metadata"]["annotations"] == {MIN_SCALE: "1"}


@pytest.mark.parametrize("kind", [HORIZONTAL_POD_AUTOSCALER, SCALED_OBJECT])
async def test_where_autoscalers_cannot_be_listed_nobody_fights_them(kind: ResourceKind) -> None:
    cluster = base()
    cluster.unlisted[kind, None] = ForbiddenError("no")
    (found,) = await reconcile(cluster, Prometheus(), NOW, PassOptions())  # type: ignore[arg-type]
    assert found.cause == "SurroundingsUnreadable"
    assert cluster.objects[DEPLOYMENT, "models", "good"]["spec"]["replicas"] == 1


@pytest.mark.parametrize("kind", [INFERENCE_SERVICE, SCALED_OBJECT])
async def test_a_kind_that_the_cluster_does_not_know_has_no_objects(kind: ResourceKind) -> None:
    cluster = base()
    cluster.unlisted[kind, None] = NotFoundError("no such kind")
    assert not (await scaled(cluster))["good"].error


async def test_one_namespace_that_cannot_be_listed_is_said_and_stops_no_other() -> None:
    cluster = base()
    cluster.unlisted[MLSCALER, "locked"] = ForbiddenError("no")
    found = await scaled(cluster, namespaces=["models", "locked"])
    assert found["*"].error
    assert (found["*"].namespace, found["*"].cause) == ("locked", "NotListed")
    cluster.unlisted[MLSCALER, "models"] = ForbiddenError("no")
    with pytest.raises(ForbiddenError):
        await scaled(cluster, namespaces=["models", "locked"])


async def test_only_the_rollouts_leases_of_namespaces_with_services_are_read() -> None:
    cluster = base()
    cluster.add(*ODD["service's scaler"])
    await scaled(cluster)
    read = [(namespace, selector) for kind, namespace, selector in cluster.selectors if kind is LEASE]
    assert read == [("models", "app.kubernetes.io/managed-by=ml-lifecycle")]


async def test_a_target_that_hangs_holds_nobody_else() -> None:
    cluster = base()
    cluster.add(*ODD["scaler"])
    find = cluster.find

    async def hangs(kind: ResourceKind, name: str, namespace: str) -> Any:
        if name == "odd":
            await asyncio.sleep(3600)
        return await find(kind, name, namespace)

    cluster.find = hangs  # type: ignore[method-assign]
    found = await scaled(cluster, deadline_seconds=3)
    assert found["odd"].cause == "TargetUnreadable"
    assert "no answer within" in found["odd"].why


async def test_a_deletion_waits_where_it_is_not_known_what_else_is_there() -> None:
    cluster = base()
    cluster.add(*ODD["service's scaler"])
    metadata = cluster.objects[MLSCALER, "models", "odd"]["metadata"]
    metadata |= {"deletionTimestamp": DAY, "finalizers": ["ml-lifecycle.io/return-replicas"]}
    cluster.unlisted[LEASE, "models"] = ForbiddenError("no")
    await scaled(cluster)
    assert cluster.objects[MLSCALER, "models", "odd"]["metadata"]["finalizers"]


def service(cluster: Cluster, name: str) -> None:
    revision = f"{name}-predictor-00001"
    traffic = {"latestReadyRevision": revision, "traffic": [{"revisionName": revision, "percent": 100}]}
    cluster.add(INFERENCE_SERVICE, name, {"status": {"components": {"predictor": traffic}}})
    cluster.add(REVISION, revision, {"metadata": {"annotations": {MIN_SCALE: "1"}}})
    metric = {"preset": "requests_per_second"}
    cluster.add(MLSCALER, name, manifest(name, targetRef=inference_service_target(name), metric=metric))


class Limited(Prometheus):
    """A Prometheus that refuses what names `heavy`, and what asks for more samples than it can load."""

    def __init__(self, *, hangs: bool = False, most_samples: float = math.inf) -> None:
        super().__init__()
        self.hangs = hangs
        self.most_samples = most_samples
        self.asked = 0

    async def range(self, query: str, start: float, end: float, step: float) -> list[Series]:
        self.asked += 1
        points = round((end - start) / step) + 1
        if "heavy" in query or points > self.most_samples:
            if self.hangs:
                await asyncio.sleep(3600)
            raise PrometheusTooHeavyError("query processing would load too many samples")
        times = start + step * np.arange(points)
        if "kn_" not in query:
            return [Series({}, times, np.full(points, 120.0))]
        names = re.search(r'kn_configuration_name=~"[(](.*?)[)]', query).group(1).split("|")  # type: ignore[union-attr]
        labels = [{"namespace": "models", "service": name} for name in names]
        return [Series(one, times, np.full(points, 120.0)) for one in labels]


@pytest.mark.parametrize("hangs", [False, True])
async def test_one_heavy_service_holds_none_of_a_hundred(hangs: bool) -> None:
    cluster, prometheus = base(), Limited(hangs=hangs)
    for number in range(40):
        service(cluster, f"light-{number}")
    service(cluster, "heavy")
    found = await scaled(cluster, prometheus, deadline_seconds=20 if hangs else 45)
    assert found["heavy"].cause == "MetricsMissing"
    assert {one.desired for name, one in found.items() if name != "heavy"} == {3}
    assert prometheus.asked < 60


async def test_a_history_that_is_too_long_at_once_is_read_by_halves() -> None:
    cluster, prometheus = base(), Limited(most_samples=700)
    cluster.objects[MLSCALER, "models", "good"]["spec"]["historySize"] = 2000
    assert not (await scaled(cluster, prometheus))["good"].error
    assert prometheus.asked == 7
