"""How KServe in Knative mode rolls a new model out: the stand-in's controllers here, a real cluster's on demand.

Real: ML_LIFECYCLE_CONTRACT_KUBECONFIG, and `-m real_cluster`. KSERVE_CONTRACT_MODELS may name two storage URIs of
scikit-learn models that the cluster can read.
"""

import os
import sys
import textwrap
import uuid

import pytest

from local.kubernetes.stand_in import KubernetesStandIn
from ml_lifecycle.kubernetes.client import KubernetesClient
from ml_lifecycle.kubernetes.conditions import Progress, Verdict, condition
from ml_lifecycle.kubernetes.resource import INFERENCE_SERVICE, NAMESPACE, POD, REVISION, SERVING_RUNTIME

NAME = "contract"
EXAMPLES = "gs://kfserving-examples/models/sklearn/1.0/model gs://kfserving-examples/models/sklearn/1.0/model-2"
SERVER = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


class Local:
    """The stand-in with its controllers; a model is a folder, its server a few lines."""

    seconds, poll = 20, 0.1

    def __init__(self, folder):
        self.uris = [f"file://{folder}/models/{version}" for version in (1, 2)]
        for version in (1, 2):
            (folder / "models" / str(version)).mkdir(parents=True)
            (folder / "models" / str(version) / "model.json").write_text("{}")
        (folder / "server.py").write_text(textwrap.dedent(SERVER))
        images = {"contract/server:1": {"entrypoint": [sys.executable, "-S", str(folder / "server.py")]}}
        self.stand_in = KubernetesStandIn(folder / "state", controllers=True, images=images, ingress_port=8080)

    def model(self, uri):
        return {"modelFormat": {"name": "any"}, "runtime": "server", "storageUri": uri}

    async def prepare(self, client, namespace):
        runtime = {
            "apiVersion": SERVING_RUNTIME.api_version,
            "kind": SERVING_RUNTIME.kind,
            "metadata": {"name": "server", "namespace": namespace},
            "spec": {
                "supportedModelFormats": [{"name": "any"}],
                "containers": [{"name": "kserve-container", "image": "contract/server:1"}],
            },
        }
        await client.apply(runtime, field_manager="contract")


class Cluster:
    """A real cluster with KServe and Knative."""

    seconds, poll = 600, 3

    def __init__(self):
        self.uris = os.environ.get("KSERVE_CONTRACT_MODELS", EXAMPLES).split()

    def model(self, uri):
        return {"modelFormat": {"name": "sklearn"}, "storageUri": uri}

    async def prepare(self, client, namespace):
        pass


@pytest.fixture(params=["local", pytest.param("cluster", marks=pytest.mark.real_cluster)])
async def platform(request, tmp_path, real_server):
    if request.param == "cluster":
        path = os.environ.get("ML_LIFECYCLE_CONTRACT_KUBECONFIG")
        if not path:
            pytest.skip("needs a cluster with KServe: make test-contract KUBECONFIG=…")
        namespace = f"contract-{uuid.uuid4().hex[:8]}"
        async with KubernetesClient.from_kubeconfig(path) as client:
            await client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
            yield client, Cluster(), namespace
            await client.delete(NAMESPACE, namespace)
        return
    if real_server:
        pytest.skip("the stand-in's turn is without a real API server")
    local = Local(tmp_path)
    with local.stand_in as stand_in:
        async with KubernetesClient.from_kubeconfig(stand_in.kubeconfig) as client:
            yield client, local, "models"


async def test_a_canary_from_first_revision_to_promotion(platform):
    client, platform, namespace = platform
    await platform.prepare(client, namespace)

    async def apply(uri, **predictor):
        body = {
            "apiVersion": INFERENCE_SERVICE.api_version,
            "kind": INFERENCE_SERVICE.kind,
            "metadata": {
                "name": NAME,
                "namespace": namespace,
                "annotations": {"serving.kserve.io/enable-tag-routing": "true"},
            },
            "spec": {"predictor": {"minReplicas": 1, "model": platform.model(uri), **predictor}},
        }
        await client.apply(body, field_manager="contract")

    async def settled(rule):
        def when(service):
            component = ((service or {}).get("status") or {}).get("components", {}).get("predictor") or {}
            done = condition(service, "Ready").true and bool(component) and rule(component)
            return Verdict(Progress.MET if done else Progress.WAITING, f"{condition(service, 'Ready')} {component}")

        service = await client.wait(
            INFERENCE_SERVICE,
            NAME,
            namespace,
            when,
            timeout_seconds=platform.seconds,
            poll_seconds=platform.poll,
        )
        return service["status"]["components"]["predictor"]

    def traffic(component):
        return {item["revisionName"]: item["percent"] for item in component["traffic"] if item.get("percent")}

    # The first revision takes all traffic, and its pods say whose they are.
    await apply(platform.uris[0])
    component = await settled(lambda found: found.get("latestRolledoutRevision"))
    first = component["latestRolledoutRevision"]
    assert first == f"{NAME}-predictor-00001"
    assert traffic(component) == {first: 100}
    revision = await client.get(REVISION, first, namespace)
    assert revision["metadata"]["labels"]["serving.kserve.io/inferenceservice"] == NAME
    assert await client.list(POD, namespace, f"serving.knative.dev/revision={first}")

    # A new model at 0 %: its revision becomes ready, the first keeps the traffic under the tag `prev`.
    await apply(platform.uris[1], canaryTrafficPercent=0)
    component = await settled(lambda found: found.get("latestReadyRevision") not in (None, first))
    second = component["latestReadyRevision"]
    assert component["latestRolledoutRevision"] == first
    assert traffic(component) == {first: 100}
    assert {item.get("tag") for item in component["traffic"]} == {"latest", "prev"}

    # A percent makes no revision; it moves traffic.
    await apply(platform.uris[1], canaryTrafficPercent=25)
    component = await settled(lambda found: traffic(found).get(second) == 25)
    assert traffic(component) == {first: 75, second: 25}
    assert component["latestCreatedRevision"] == second

    # Leaving the percent out promotes.
    await apply(platform.uris[1])
    component = await settled(lambda found: found.get("latestRolledoutRevision") == second)
    assert traffic(component) == {second: 100}
    assert component["previousRolledoutRevision"] == first
