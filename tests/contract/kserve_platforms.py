"""Where the tests of KServe's behaviour run: the stand-in's controllers here, a real cluster on demand.

Real: ML_LIFECYCLE_CONTRACT_KUBECONFIG. KSERVE_CONTRACT_MODELS names two storage URIs of scikit-learn models that the
cluster can read, with a space between; without it KServe's public examples, which need the internet.
"""

import os
import sys
import textwrap

import pytest

from local.kubernetes.stand_in import KubernetesStandIn
from ml_lifecycle.kubernetes.resource import SERVING_RUNTIME

EXAMPLES = "gs://kfserving-examples/models/sklearn/1.0/model gs://kfserving-examples/models/sklearn/1.0/model-2"
SERVER = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


def model_uris():
    """Two that differ; UsageError otherwise."""
    uris = os.environ.get("KSERVE_CONTRACT_MODELS", EXAMPLES).split()
    if len(set(uris)) != 2:
        raise pytest.UsageError(f"KSERVE_CONTRACT_MODELS names {uris}: two storage URIs that differ are needed")
    return uris


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
        self.uris = model_uris()

    def model(self, uri):
        return {"modelFormat": {"name": "sklearn"}, "storageUri": uri}

    async def prepare(self, client, namespace):
        pass
