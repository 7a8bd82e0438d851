"""The controllers together in KServe's Standard mode, with real (tiny) processes as pods."""

import asyncio
import sys

import pytest

from local.kubernetes.controllers import run_controllers
from local.kubernetes.store import Store
from ml_lifecycle.kubernetes.exceptions import ForbiddenError
from ml_lifecycle.kubernetes.resource import (
    DEPLOYMENT,
    HORIZONTAL_POD_AUTOSCALER,
    HTTP_ROUTE,
    INFERENCE_SERVICE,
    POD,
    REVISION,
    SERVICE,
    SERVING_RUNTIME,
)
from tests.unit.local.test_controllers_cluster import IMAGE, PACE, RUNTIME, SERVER, condition, processes, until

pytestmark = pytest.mark.slow  # starts programs or a database

STANDARD = {"serving.kserve.io/deploymentMode": "Standard"}


class Cluster:
    def __init__(self, store, state, models):
        self.store, self.state, self.models = store, state, models

    def predictor(self, answer, **fields):
        folder = self.models / answer
        folder.mkdir(exist_ok=True)
        (folder / "answer").write_text(answer)
        model = {
            "modelFormat": {"name": "onnx"},
            "runtime": "server",
            "storageUri": f"file://{folder}",
        }
        return {"model": model, **fields}

    def serve(self, predictor, *canaries, annotations=STANDARD):
        body = {
            "apiVersion": INFERENCE_SERVICE.api_version,
            "kind": INFERENCE_SERVICE.kind,
            "metadata": {"name": "digits", "namespace": "models", "annotations": annotations},
            "spec": {
                "predictor": predictor,
                **({"canary": [{"trafficPercent": p, "predictor": c} for c, p in canaries]} if canaries else {}),
            },
        }
        self.store.apply(body, field_manager="test", force=True)

    @property
    def service(self):
        return self.store.get(INFERENCE_SERVICE, "digits", "models")

    @property
    def status(self):
        return self.service["status"]

    def ready(self):
        return condition(self.service, "Ready") == "True"

    def available(self):
        """Every Deployment has all its replicas."""
        return all(
            item["spec"]["replicas"] == item["status"].get("availableReplicas", 0)
            for item in self.store.list(DEPLOYMENT, "models")
        )

    def names(self, kind):
        return {item["metadata"]["name"] for item in self.store.list(kind, "models")}

    def backends(self, route="digits-predictor"):
        found = self.store.find(HTTP_ROUTE, route, "models")
        return found and {item["name"]: item["weight"] for item in found["spec"]["rules"][0]["backendRefs"]}

    def routes_are_taken(self):
        """Every route's gateway says that it routes by the present weights."""
        return all(
            {item["observedGeneration"] for parent in route["status"]["parents"] for item in parent["conditions"]}
            == {route["metadata"]["generation"]}
            for route in self.store.list(HTTP_ROUTE, "models")
        )

    def pods(self, deployment):
        pods = self.store.list(POD, "models", f"app=isvc.{deployment}")
        return {pod["metadata"]["name"] for pod in pods if not pod["metadata"].get("deletionTimestamp")}

    def replicas(self, deployment):
        found = self.store.find(DEPLOYMENT, deployment, "models")
        return found and found["spec"]["replicas"]

    async def open(self, percent=20, **canary):
        """A stable predictor, and a ready canary beside it."""
        self.serve(self.predictor("one"))
        await until(self.ready)
        self.serve(self.predictor("one"), (self.predictor("two", name="v2", **canary), percent))
        await until(lambda: self.status["canaryStatuses"][0]["ready"])


@pytest.fixture
async def cluster(tmp_path, request):
    (tmp_path / "models").mkdir()
    (tmp_path / "server.py").write_text(SERVER)
    store = Store()
    store.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "models"}})
    store.create(RUNTIME)
    cluster = Cluster(store, tmp_path / "state", tmp_path / "models")
    images = {IMAGE: {"entrypoint": [sys.executable, "-I", "-S", str(tmp_path / "server.py")]}}
    options = getattr(request, "param", {})
    running = asyncio.create_task(
        run_controllers(store, state=cluster.state, ingress_port=8081, images=images, pace=PACE, **options)
    )
    await asyncio.sleep(0)  # the webhook is in place
    yield cluster
    assert not running.done(), running.result()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert processes(cluster) == []


async def test_a_service_becomes_ready(cluster):
    cluster.serve(cluster.predictor("one", minReplicas=2))
    assert "status" not in cluster.service
    await until(cluster.ready)
    assert cluster.names(DEPLOYMENT) == cluster.names(SERVICE) == {"digits-predictor"}
    assert cluster.names(HTTP_ROUTE) == {"digits-predictor", "digits"}
    assert cluster.names(REVISION) == set()
    assert cluster.replicas("digits-predictor") == 2
    status = cluster.status
    assert status["deploymentMode"] == "Standard"
    assert status["url"] == "http://digits-models.localhost:8081"
    assert status["address"] == {"url": "http://digits-predictor.models.svc.cluster.local"}
    assert status["components"] == {"predictor": {"url": "http://digits-predictor-models.localhost:8081"}}
    assert [item["type"] for item in status["conditions"]] == ["IngressReady", "PredictorReady", "Ready"]
    await until(lambda: cluster.status["modelStatus"]["transitionStatus"] == "UpToDate")
    pod = cluster.store.list(POD, "models")[0]
    labels = {key: pod["metadata"]["labels"][key] for key in ("app", "component", "serving.kserve.io/inferenceservice")}
    assert labels == {
        "app": "isvc.digits-predictor",
        "component": "predictor",
        "serving.kserve.io/inferenceservice": "digits",
    }
    assert cluster.store.get(SERVICE, "digits-predictor", "models")["spec"]["selector"] == {
        "app": "isvc.digits-predictor"
    }
    for route, host in (
        ("digits", "digits-models.localhost"),
        ("digits-predictor", "digits-predictor-models.localhost"),
    ):
        assert cluster.store.get(HTTP_ROUTE, route, "models")["spec"]["hostnames"] == [host]
        assert cluster.backends(route) == {"digits-predictor": 1}


async def test_trap_6_there_is_no_status_before_the_deployment_has_one_4454(cluster):
    seen = []
    watch = cluster.store.subscribe(INFERENCE_SERVICE)
    cluster.serve(cluster.predictor("one"))
    async for _, service in watch:
        seen.append("status" in service)
        if condition(service, "Ready") == "True":
            break
    watch.close()
    assert seen[0] is False
    assert seen[-1] is True
    assert cluster.store.get(DEPLOYMENT, "digits-predictor", "models")["status"]["availableReplicas"] == 1


async def test_a_new_model_is_a_rolling_update_whatever_the_percent_4074(cluster):
    cluster.serve(cluster.predictor("one"))
    await until(cluster.ready)
    first = cluster.pods("digits-predictor")
    cluster.serve(cluster.predictor("two", canaryTrafficPercent=0))
    await until(lambda: cluster.pods("digits-predictor") and not first & cluster.pods("digits-predictor"))
    assert cluster.names(DEPLOYMENT) == {"digits-predictor"}


async def test_a_broken_model_does_not_end_what_serves(cluster):
    cluster.serve(cluster.predictor("one"))
    await until(cluster.ready)
    first = cluster.pods("digits-predictor")
    cluster.serve(cluster.predictor("crash"))
    await until(lambda: len(cluster.pods("digits-predictor")) == 2)
    await asyncio.sleep(0.5)
    assert first < cluster.pods("digits-predictor")
    assert cluster.ready()


async def test_a_canary_is_routed_once_it_is_ready_and_its_percent_moves_traffic(cluster):
    await cluster.open(20)
    await until(lambda: cluster.backends() == {"digits-predictor": 80, "digits-v2-predictor": 20})
    assert cluster.backends("digits") == cluster.backends()
    assert cluster.names(SERVICE) == {"digits-predictor", "digits-v2-predictor"}
    assert cluster.status["canaryStatuses"] == [{"name": "v2", "ready": True, "trafficPercent": 20}]
    assert condition(cluster.service, "CanaryPredictorReady") == "True"
    pods = cluster.pods("digits-v2-predictor")
    watch = cluster.store.subscribe(INFERENCE_SERVICE)
    cluster.serve(cluster.predictor("one"), (cluster.predictor("two", name="v2"), 50))
    await until(lambda: cluster.backends() == {"digits-predictor": 50, "digits-v2-predictor": 50})
    assert cluster.pods("digits-v2-predictor") == pods
    async for _, service in watch:
        assert condition(service, "Ready") == "True"
        if service["metadata"]["generation"] == 3 and service["status"]["canaryStatuses"][0]["trafficPercent"] == 50:
            break
    watch.close()
    await until(cluster.routes_are_taken)


async def test_a_canary_that_never_becomes_ready_gets_no_traffic(cluster):
    cluster.serve(cluster.predictor("one"))
    await until(cluster.ready)
    cluster.serve(cluster.predictor("one"), (cluster.predictor("crash", name="v2"), 50))
    await until(lambda: condition(cluster.service, "CanaryPredictorReady") == "False")
    await until(lambda: cluster.pods("digits-v2-predictor"))
    await asyncio.sleep(0.5)
    assert cluster.status["canaryStatuses"] == [{"name": "v2", "ready": False, "trafficPercent": 50}]
    assert cluster.backends() == {"digits-predictor": 1}
    assert cluster.ready()


async def test_a_canary_at_zero_has_one_pod_and_no_traffic(cluster):
    """Its autoscaler has one replica at least and at most, whatever its share."""
    cluster.serve(cluster.predictor("one"))
    await until(cluster.ready)
    cluster.serve(cluster.predictor("one"), (cluster.predictor("two", name="v2"), 0))
    await until(lambda: cluster.replicas("digits-v2-predictor") == 1)
    await until(lambda: cluster.backends() == {"digits-predictor": 100, "digits-v2-predictor": 0})


async def test_a_ready_canarys_replicas_come_out_of_the_stable_sides_and_return(cluster):
    stable = cluster.predictor("one", minReplicas=3)
    cluster.serve(stable)
    await until(cluster.ready)
    cluster.serve(stable, (cluster.predictor("never", name="v2", minReplicas=2), 50))
    await until(lambda: len(cluster.pods("digits-v2-predictor")) == 2)
    assert cluster.replicas("digits-predictor") == 3
    cluster.serve(stable, (cluster.predictor("two", name="v2", minReplicas=2), 50))
    await until(lambda: cluster.replicas("digits-predictor") == 1)
    cluster.serve(stable)
    await until(lambda: cluster.replicas("digits-predictor") == 3)
    bounds = cluster.store.get(HORIZONTAL_POD_AUTOSCALER, "digits-predictor", "models")["spec"]
    assert (bounds["minReplicas"], bounds["maxReplicas"]) == (3, 3)


async def test_a_promotion_keeps_the_canarys_pods_and_the_routes_and_moves_what_bears_the_predictors_name(cluster):
    await cluster.open(50)
    pods = cluster.pods("digits-v2-predictor")
    cluster.serve(cluster.predictor("two", name="v2"))
    await until(lambda: cluster.backends() == cluster.backends("digits") == {"digits-v2-predictor": 1})
    await until(lambda: cluster.names(DEPLOYMENT) == cluster.names(SERVICE) == {"digits-v2-predictor"})
    await until(lambda: not cluster.pods("digits-predictor"))
    assert cluster.pods("digits-v2-predictor") == pods
    assert cluster.ready()
    assert cluster.names(HTTP_ROUTE) == {"digits-predictor", "digits"}
    assert cluster.names(HORIZONTAL_POD_AUTOSCALER) == {"digits-predictor", "digits-v2-predictor"}
    assert cluster.status["components"]["predictor"]["url"] == "http://digits-v2-predictor-models.localhost:8081"
    assert cluster.status["address"]["url"] == "http://digits-v2-predictor.models.svc.cluster.local"
    assert cluster.status["url"] == "http://digits-models.localhost:8081"
    assert "canaryStatuses" not in cluster.status
    assert condition(cluster.service, "CanaryPredictorReady") is None


@pytest.mark.parametrize("full", [True, False])
async def test_a_promotion_is_seamless_only_if_the_canary_has_all_its_replicas_before(cluster, full):
    stable = cluster.predictor("one", minReplicas=2)
    cluster.serve(stable)
    await until(cluster.ready)
    cluster.serve(stable, (cluster.predictor("two", name="v2", minReplicas=2 if full else 1), 100))
    await until(lambda: cluster.backends() == {"digits-predictor": 0, "digits-v2-predictor": 100})
    await until(lambda: len(cluster.pods("digits-v2-predictor")) == (2 if full else 1))
    await until(cluster.available)
    watch, seen = cluster.store.subscribe(INFERENCE_SERVICE), set()
    cluster.serve(cluster.predictor("two", name="v2", minReplicas=2))
    await until(lambda: cluster.names(DEPLOYMENT) == {"digits-v2-predictor"} and cluster.available())
    await until(lambda: cluster.backends() == {"digits-v2-predictor": 1} and cluster.ready())
    last = cluster.service["metadata"]["resourceVersion"]
    async for _, service in watch:
        seen.add(condition(service, "Ready"))
        if service["metadata"]["resourceVersion"] == last:
            break
    watch.close()
    assert seen == ({"True"} if full else {"True", "False"})


async def test_a_roll_back_ends_the_canary_and_nothing_else(cluster):
    await cluster.open(50)
    stable = cluster.pods("digits-predictor")
    cluster.serve(cluster.predictor("one"))
    await until(lambda: cluster.backends() == {"digits-predictor": 1})
    await until(lambda: cluster.names(DEPLOYMENT) == cluster.names(SERVICE) == {"digits-predictor"})
    assert cluster.pods("digits-predictor") == stable
    assert condition(cluster.service, "CanaryPredictorReady") is None
    assert "canaryStatuses" not in cluster.status


@pytest.mark.parametrize("cluster", [{"splits_traffic": False}], indirect=True)
async def test_release_0_20_0_never_splits_and_renames_the_predictors_route(cluster):
    await cluster.open(50)
    await asyncio.sleep(0.2)
    assert cluster.backends() == cluster.backends("digits") == {"digits-predictor": 1}
    assert condition(cluster.service, "CanaryPredictorReady") == "True"
    cluster.serve(cluster.predictor("two", name="v2"))
    await until(lambda: cluster.names(HTTP_ROUTE) == {"digits-v2-predictor", "digits"})
    await until(lambda: cluster.backends("digits") == {"digits-v2-predictor": 1})
    url = "http://digits-v2-predictor-models.localhost:8081"
    await until(lambda: cluster.status["components"]["predictor"]["url"] == url)


@pytest.mark.parametrize("cluster", [{"deployment_mode": "Standard"}], indirect=True)
async def test_the_clusters_default_and_an_annotation_choose_the_mode(cluster):
    cluster.serve(cluster.predictor("one"), annotations={})
    await until(cluster.ready)
    assert cluster.status["deploymentMode"] == "Standard"
    cluster.store.delete(INFERENCE_SERVICE, "digits", "models")
    await until(lambda: cluster.names(INFERENCE_SERVICE) == set())
    cluster.serve(cluster.predictor("one"), annotations={"serving.kserve.io/deploymentMode": "Knative"})
    await until(cluster.ready)
    assert cluster.status["deploymentMode"] == "Knative"
    assert cluster.names(REVISION) == {"digits-predictor-00001"}


async def test_a_service_does_not_change_its_mode(cluster):
    cluster.serve(cluster.predictor("one"))
    await until(cluster.ready)
    with pytest.raises(ForbiddenError, match="deploymentMode cannot be changed"):
        cluster.serve(cluster.predictor("one"), annotations={"serving.kserve.io/deploymentMode": "Knative"})


async def test_a_knative_service_may_have_no_canary(cluster):
    with pytest.raises(ForbiddenError, match="only supported in Standard deployment mode"):
        cluster.serve(cluster.predictor("one"), (cluster.predictor("two", name="v2"), 50), annotations={})
    assert cluster.names(INFERENCE_SERVICE) == set()


async def test_replicas_are_left_to_an_external_autoscaler(cluster):
    annotations = {**STANDARD, "serving.kserve.io/autoscalerClass": "external"}
    cluster.serve(cluster.predictor("one"), annotations=annotations)
    await until(cluster.ready)
    cluster.store.merge_patch(DEPLOYMENT, "digits-predictor", "models", {"spec": {"replicas": 2}})
    await until(lambda: len(cluster.pods("digits-predictor")) == 2)
    assert cluster.replicas("digits-predictor") == 2
    cluster.serve(cluster.predictor("one"))
    await until(lambda: cluster.replicas("digits-predictor") == 1)


async def test_an_unknown_runtime_is_an_invalid_spec_until_it_exists(cluster):
    cluster.store.delete(SERVING_RUNTIME, "server", "models")
    cluster.serve(cluster.predictor("one"))
    await until(lambda: cluster.status["modelStatus"]["transitionStatus"] == "InvalidSpec")
    assert cluster.status["deploymentMode"] == "Standard"
    cluster.store.create(RUNTIME)
    await until(cluster.ready)


async def test_a_host_that_is_too_long_never_serves(cluster):
    name = "d" * 50
    body = {"apiVersion": INFERENCE_SERVICE.api_version, "kind": INFERENCE_SERVICE.kind}
    metadata = {"name": name, "namespace": "models", "annotations": STANDARD}
    cluster.store.create({**body, "metadata": metadata, "spec": {"predictor": cluster.predictor("one")}})

    def said():
        status = cluster.store.get(INFERENCE_SERVICE, name, "models").get("status") or {}
        return {item["type"]: (item["status"], item["message"]) for item in status.get("conditions") or ()}

    await until(lambda: said().get("PredictorReady", ("",))[0] == "False")
    assert "failed creating host name: invalid domain name" in said()["PredictorReady"][1]
    assert "must be no more than 63 characters" in said()["PredictorReady"][1]


async def test_deleting_a_service_leaves_nothing(cluster):
    await cluster.open(50)
    cluster.store.delete(INFERENCE_SERVICE, "digits", "models")
    assert cluster.service["metadata"]["finalizers"] == ["inferenceservice.finalizers"], "until KServe has seen it"
    await until(lambda: cluster.names(INFERENCE_SERVICE) == set())
    for kind in (DEPLOYMENT, SERVICE, HTTP_ROUTE):
        assert cluster.names(kind) == set()
    await until(lambda: cluster.names(POD) == set())
