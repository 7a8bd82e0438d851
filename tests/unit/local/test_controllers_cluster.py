"""The controllers together, with real (tiny) processes as pods."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import aiohttp
import pytest

from local.kubernetes.controllers import run_controllers
from local.kubernetes.controllers.pod import Pace
from local.kubernetes.logs import log_path
from local.kubernetes.store import Store
from ml_lifecycle.kubernetes.resource import (
    CONFIG_MAP,
    DEPLOYMENT,
    EVENT,
    INFERENCE_SERVICE,
    NAMESPACE,
    POD,
    REVISION,
    SERVING_RUNTIME,
)

pytestmark = pytest.mark.slow  # starts programs or a database

IMAGE = "test/server:1"
# Serves what the model folder's file `answer` holds; `crash` ends at once, `never` never listens.
SERVER = """
import http.server, json, os, pathlib, signal, sys, time
folder = pathlib.Path(next(a for a in sys.argv if a.startswith("--model_dir=")).partition("=")[2])
answer = (folder / "answer").read_text()
print("serving", answer, *sys.argv[1:], flush=True)
if answer == "crash": sys.exit("the model is broken")
while answer == "never": time.sleep(1)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"answer": answer, "arguments": sys.argv[1:]}).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""
PACE = Pace(
    first_back_off=0.1,
    longest_back_off=0.2,
    pull_retry=0.1,
    mount_retry=0.05,
    first_probe=0.05,
    longest_probe=0.2,
    drain=0,
)
RUNTIME = {
    "apiVersion": SERVING_RUNTIME.api_version,
    "kind": SERVING_RUNTIME.kind,
    "metadata": {"name": "server", "namespace": "models"},
    "spec": {
        "supportedModelFormats": [{"name": "onnx", "version": "1"}],
        "containers": [
            {
                "name": "kserve-container",
                "image": IMAGE,
                "args": ["--model_name={{.Name}}", "--model_dir=/mnt/models"],
                "readinessProbe": {"httpGet": {"path": "/v2/health/ready", "port": 8080}, "periodSeconds": 1},
            }
        ],
    },
}


class Cluster:
    def __init__(self, store, state, models):
        self.store, self.state, self.models = store, state, models

    def model(self, answer):
        folder = self.models / answer
        folder.mkdir(exist_ok=True)
        (folder / "answer").write_text(answer)
        return f"file://{folder}"

    def serve(self, uri, percent=None, **predictor):
        body = {
            "apiVersion": INFERENCE_SERVICE.api_version,
            "kind": INFERENCE_SERVICE.kind,
            "metadata": {
                "name": "digits",
                "namespace": "models",
                "annotations": {"serving.kserve.io/enable-tag-routing": "true"},
            },
            "spec": {
                "predictor": {
                    "model": {"modelFormat": {"name": "onnx"}, "runtime": "server", "storageUri": uri},
                    **({} if percent is None else {"canaryTrafficPercent": percent}),
                    **predictor,
                }
            },
        }
        self.store.apply(body, field_manager="test", force=True)

    @property
    def service(self):
        return self.store.get(INFERENCE_SERVICE, "digits", "models")

    @property
    def predictor(self):
        return self.service.get("status", {}).get("components", {}).get("predictor", {})

    @property
    def model_status(self):
        return self.service.get("status", {}).get("modelStatus", {})

    @property
    def shares(self):
        return {item["revisionName"][-1]: item["percent"] for item in self.predictor.get("traffic", ())}

    def ready(self):
        return condition(self.service, "Ready") == "True"

    def pods(self, **labels):
        pods = self.store.list(POD, "models")
        return [pod for pod in pods if labels.items() <= pod["metadata"].get("labels", {}).items()]

    def revision(self, number):
        return self.store.get(REVISION, f"digits-predictor-{number:05}", "models")

    def revision_pods(self, number):
        return self.pods(**{"serving.knative.dev/revision": f"digits-predictor-{number:05}"})

    def pod(self, name, **spec):
        container = {"name": "base", "image": IMAGE, **spec.pop("container", {})}
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "models", "labels": {"run": "7"}},
            "spec": {"restartPolicy": "Never", "containers": [container], **spec},
        }
        return self.store.create(body)

    def phase(self, name):
        return self.store.get(POD, name, "models")["status"]["phase"]

    def container(self, name):
        return self.store.get(POD, name, "models")["status"]["containerStatuses"][0]

    def log(self, pod, container="base"):
        return log_path(self.state, pod, container).read_text()


def condition(item, kind):
    return {each["type"]: each["status"] for each in item.get("status", {}).get("conditions", ())}.get(kind)


async def until(true, seconds=8.0):
    """A status that is not there yet is no failure."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(LookupError):
            if true():
                return
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.02)


def processes(cluster):
    """The processes that run below the cluster's state folder."""
    marker, found = str(cluster.state), []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and int(entry.name) != os.getpid() and marker in (entry / "cmdline").read_text():
                found.append(int(entry.name))
    return found


@pytest.fixture
async def cluster(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "server.py").write_text(SERVER)
    store = Store()
    store.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "models"}})
    store.create(RUNTIME)
    cluster = Cluster(store, tmp_path / "state", tmp_path / "models")
    images = {IMAGE: {"entrypoint": [sys.executable, "-I", "-S", str(tmp_path / "server.py")]}}
    running = asyncio.create_task(
        run_controllers(
            store, state=cluster.state, ingress_port=8081, images=images, scale_to_zero_seconds=0.3, pace=PACE
        )
    )
    yield cluster
    assert not running.done(), running.result()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert processes(cluster) == []


def python(code, *arguments):
    return {"command": ["python", "-I", "-S", "-c", code], "args": list(arguments)}


# Pods


async def test_a_pod_runs_to_its_end_and_its_log_is_kept(cluster):
    pod = cluster.pod("job", container=python("print('hello'); print('world')"))
    await until(lambda: cluster.phase("job") == "Succeeded")
    lines = cluster.log(pod).splitlines()
    assert [line.partition(" ")[2] for line in lines] == ["hello", "world"]
    assert lines[0][:2] == "20"
    assert lines[0].partition(" ")[0].endswith("Z")
    ended = cluster.container("job")["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (0, "Completed")


async def test_a_failing_pod_says_why(cluster):
    cluster.pod("job", container=python("import sys; sys.exit('no such thing')"))
    await until(lambda: cluster.phase("job") == "Failed")
    ended = cluster.container("job")["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"], ended["message"]) == (1, "Error", "no such thing")


async def test_config_maps_variables_and_paths_are_the_pods_own(cluster):
    cluster.store.create(
        {
            "apiVersion": "v1",
            "kind": CONFIG_MAP.kind,
            "metadata": {"name": "golden", "namespace": "models"},
            "data": {"golden.json": '{"cases": []}'},
        }
    )
    code = (
        "import os, sys; print(open(sys.argv[1]).read(), os.environ['NAME'], os.environ['RUN'], 'SECRET' in os.environ)"
    )
    os.environ["SECRET"] = "1"
    pod = cluster.pod(
        "job",
        container={
            **python(code, "/golden/golden.json"),
            "env": [
                {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "RUN", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['run']"}}},
            ],
            "volumeMounts": [{"name": "golden", "mountPath": "/golden"}],
        },
        volumes=[{"name": "golden", "configMap": {"name": "golden"}}],
    )
    await until(lambda: cluster.phase("job") == "Succeeded")
    assert '{"cases": []} job 7 False' in cluster.log(pod)


async def test_an_unknown_image_is_refused(cluster):
    cluster.pod("job", container={"image": "test/unknown:1"})
    await until(lambda: cluster.container("job")["state"]["waiting"]["reason"] == "ImagePullBackOff")
    waiting = cluster.container("job")["state"]["waiting"]
    assert "test/unknown:1" in waiting["message"]
    assert IMAGE in waiting["message"]
    assert cluster.phase("job") == "Pending"
    events = [event["reason"] for event in cluster.store.list(EVENT, "models")]
    assert events == ["Failed"]


async def test_a_container_that_ends_is_started_again_with_a_back_off(cluster):
    cluster.pod("loop", restartPolicy="Always", container=python("import sys; sys.exit(3)"))
    await until(lambda: cluster.container("loop")["restartCount"] >= 2)
    await until(lambda: "waiting" in cluster.container("loop")["state"])
    container = cluster.container("loop")
    assert container["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    assert container["lastState"]["terminated"]["exitCode"] == 3
    assert cluster.phase("loop") == "Running"


async def test_a_deleted_pod_ends_and_takes_its_children_along(cluster):
    code = (
        "import subprocess, sys, time;"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)', sys.argv[1]]);"
        "print('started', flush=True); time.sleep(60)"
    )
    pod = cluster.pod("job", container=python(code, str(cluster.state)))
    await until(lambda: len(processes(cluster)) == 2)
    cluster.store.delete(POD, "job", "models")
    assert cluster.store.get(POD, "job", "models")["metadata"]["deletionTimestamp"]
    await until(lambda: cluster.store.find(POD, "job", "models") is None)
    assert processes(cluster) == []
    assert "started" in cluster.log(pod)


async def test_a_pod_that_ignores_sigterm_is_killed(cluster):
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    pod = cluster.pod("job", terminationGracePeriodSeconds=1, container=python(code, str(cluster.state)))
    await until(lambda: log_path(cluster.state, pod, "base").exists() and "deaf" in cluster.log(pod))
    cluster.store.delete(POD, "job", "models")
    await until(lambda: cluster.store.find(POD, "job", "models") is None)
    assert processes(cluster) == []


async def test_pods_do_not_outlive_a_killed_parent(cluster, tmp_path):
    program = (
        "import asyncio, pathlib, sys\n"
        "from local.kubernetes.controllers.process import ContainerProcess\n"
        "async def main():\n"
        "    process = await ContainerProcess.start(['sleep', '60'], cwd=pathlib.Path('.'), environment={},"
        " log=pathlib.Path(sys.argv[1]))\n"
        "    print(process.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, str(tmp_path / "log")),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    child = int(await parent.stdout.readline())
    os.kill(child, 0)
    parent.send_signal(signal.SIGKILL)
    await parent.wait()

    def gone():
        with contextlib.suppress(OSError):
            return Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        return True

    await until(gone)


# Deployments


def deployment(replicas, text="one"):
    return {
        "apiVersion": DEPLOYMENT.api_version,
        "kind": DEPLOYMENT.kind,
        "metadata": {"name": "web", "namespace": "models"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "containers": [
                        {"name": "web", "image": IMAGE, **python("import time; time.sleep(60)", text)},
                    ]
                },
            },
        },
    }


async def test_a_deployment_scales_rolls_and_reports(cluster):
    def status():
        return cluster.store.get(DEPLOYMENT, "web", "models").get("status", {})

    cluster.store.create(deployment(2))
    await until(lambda: status().get("availableReplicas") == 2)
    assert status()["observedGeneration"] == 1
    first = {pod["metadata"]["name"] for pod in cluster.pods(app="web")}

    cluster.store.apply(deployment(3, "two"), field_manager="test", force=True)
    await until(lambda: status().get("updatedReplicas") == status().get("availableReplicas") == 3)
    await until(lambda: len(cluster.pods(app="web")) == 3)
    assert not first & {pod["metadata"]["name"] for pod in cluster.pods(app="web")}
    assert condition(cluster.store.get(DEPLOYMENT, "web", "models"), "Available") == "True"

    cluster.store.merge_patch(DEPLOYMENT, "web", "models", {"spec": {"replicas": 1}})
    await until(lambda: len(cluster.pods(app="web")) == 1)
    cluster.store.delete(DEPLOYMENT, "web", "models")
    await until(lambda: cluster.pods(app="web") == [])


# InferenceServices


async def test_a_service_becomes_ready_and_answers(cluster):
    cluster.serve(cluster.model("one"), minReplicas=1, maxReplicas=3)
    await until(lambda: cluster.model_status.get("transitionStatus") == "InProgress")
    await until(cluster.ready)
    await until(lambda: cluster.model_status["transitionStatus"] == "UpToDate")
    status = cluster.service["status"]
    assert status["url"] == "http://digits-models.localhost:8081"
    assert status["deploymentMode"] == "Knative"
    assert status["modelStatus"]["states"] == {"activeModelState": "Loaded", "targetModelState": "Loaded"}
    assert cluster.predictor["traffic"] == [
        {
            "latestRevision": True,
            "percent": 100,
            "revisionName": "digits-predictor-00001",
            "tag": "latest",
            "url": "http://latest-digits-predictor-models.localhost:8081",
        }
    ]
    for kind in ("PredictorReady", "IngressReady", "RoutesReady", "LatestDeploymentReady"):
        assert condition(cluster.service, kind) == "True"
    (pod,) = cluster.revision_pods(1)
    port = pod["metadata"]["annotations"]["local.ml-lifecycle.io/port"]
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/") as response:
        answer = json.loads(await response.text())
    assert answer["answer"] == "one"
    assert answer["arguments"][0] == "--model_name=digits"
    revision = cluster.revision(1)
    assert revision["metadata"]["labels"]["serving.knative.dev/configuration"] == "digits-predictor"
    assert revision["metadata"]["annotations"]["autoscaling.knative.dev/min-scale"] == "1"
    assert revision["status"]["actualReplicas"] == revision["status"]["desiredReplicas"] == 1


@pytest.mark.slow
async def test_a_canary_from_zero_to_everything(cluster):
    cluster.serve(cluster.model("one"))
    await until(cluster.ready)
    cluster.serve(cluster.model("two"), 0)
    await until(lambda: cluster.predictor["latestReadyRevision"].endswith("2"))
    assert cluster.shares == {"2": 0, "1": 100}
    assert {item["tag"] for item in cluster.predictor["traffic"]} == {"latest", "prev"}
    cluster.serve(cluster.model("two"), 25)
    await until(lambda: cluster.shares == {"2": 25, "1": 75})
    assert cluster.predictor["latestRolledoutRevision"].endswith("1")
    cluster.serve(cluster.model("two"), 100)
    await until(lambda: cluster.shares == {"2": 100})
    assert cluster.predictor["latestRolledoutRevision"].endswith("2")
    assert cluster.predictor["previousRolledoutRevision"].endswith("1")
    # The old revision has neither traffic nor a tag: it scales to zero, stays ready, and comes back when asked for.
    await until(lambda: cluster.revision_pods(1) == [])
    assert condition(cluster.revision(1), "Ready") == "True"
    assert condition(cluster.revision(1), "Active") == "False"
    cluster.serve(cluster.model("two"), 0)
    await until(lambda: cluster.shares == {"2": 0, "1": 100})
    await until(lambda: cluster.revision(1)["status"]["actualReplicas"] == 1)


async def test_trap_1_leakage_2130(cluster):
    cluster.serve(cluster.model("one"))
    await until(cluster.ready)
    cluster.serve(cluster.model("two"), 20)
    await until(lambda: cluster.shares == {"2": 20, "1": 80})
    cluster.serve(cluster.model("two"), 0)
    await until(lambda: cluster.shares == {"2": 0, "1": 100})
    cluster.serve(cluster.model("never"), 20)
    await until(lambda: cluster.predictor["latestCreatedRevision"].endswith("3"))
    assert cluster.shares == {"2": 20, "1": 80}


async def test_trap_2_flip_1968(cluster):
    for number, answer in enumerate(("one", "two"), start=1):
        cluster.serve(cluster.model(answer))
        await until(lambda number=number: cluster.shares == {str(number): 100})
    cluster.serve(cluster.model("two"), 20)
    await until(lambda: cluster.shares == {"2": 20, "1": 80})
    assert cluster.predictor["latestRolledoutRevision"].endswith("1")


async def test_trap_10_the_same_uri_makes_no_revision_772(cluster):
    uri = cluster.model("one")
    cluster.serve(uri)
    await until(cluster.ready)
    before = cluster.service["status"]["observedGeneration"]
    cluster.serve(uri, 10)
    await until(lambda: cluster.service["status"]["observedGeneration"] > before)
    assert [revision["metadata"]["name"][-1] for revision in cluster.store.list(REVISION, "models")] == ["1"]
    assert set(cluster.shares) == {"1"}


async def test_min_replicas_in_the_spec_makes_a_revision(cluster):
    uri = cluster.model("one")
    cluster.serve(uri)
    await until(cluster.ready)
    cluster.serve(uri, minReplicas=2)
    await until(lambda: cluster.shares == {"2": 100})
    await until(lambda: cluster.revision(2)["status"]["actualReplicas"] == 2)


async def test_trap_9_a_pinned_revision_that_is_gone_fails_the_route(cluster):
    cluster.serve(cluster.model("one"))
    await until(cluster.ready)
    cluster.serve(cluster.model("two"), 10)
    await until(lambda: cluster.shares == {"2": 10, "1": 90})
    cluster.store.delete(REVISION, "digits-predictor-00001", "models")
    await until(lambda: condition(cluster.service, "RoutesReady") == "False")
    assert not cluster.ready()
    cluster.serve(cluster.model("two"), 100)
    await until(lambda: cluster.ready() and cluster.shares == {"2": 100})


async def test_a_crashing_revision_is_reported_and_serves_nothing(cluster):
    cluster.serve(cluster.model("one"))
    await until(cluster.ready)
    cluster.serve(cluster.model("crash"), 10)
    await until(lambda: cluster.model_status.get("transitionStatus") == "BlockedByFailedLoad")
    failure = cluster.model_status["lastFailureInfo"]
    assert failure["reason"] == "ModelLoadFailed"
    assert failure["exitCode"] == 1
    assert "the model is broken" in failure["message"]
    await until(lambda: condition(cluster.revision(2), "Ready") == "False")
    await until(lambda: condition(cluster.service, "Ready") == "False")
    assert cluster.predictor["latestReadyRevision"].endswith("1")
    assert {item["revisionName"][-1] for item in cluster.predictor["traffic"]} == {"1"}
    # Trap 11 (2962): with a good model again the failure stays beside a loaded model.
    cluster.serve(cluster.model("three"), 10)
    await until(lambda: cluster.model_status["transitionStatus"] == "UpToDate")
    assert cluster.model_status["lastFailureInfo"] == failure


@pytest.mark.parametrize(
    ("uri", "message"), [("s3://bucket/model", "only file:///folder"), ("file:///no/such/folder", "does not exist")]
)
async def test_a_model_that_cannot_be_fetched_fails_in_init(cluster, uri, message):
    cluster.serve(uri)
    await until(lambda: cluster.model_status.get("transitionStatus") == "BlockedByFailedLoad")
    assert message in cluster.model_status["lastFailureInfo"]["message"]
    (pod,) = cluster.revision_pods(1)
    assert pod["status"]["initContainerStatuses"][0]["name"] == "storage-initializer"
    assert pod["status"]["phase"] == "Pending"


async def test_an_unknown_runtime_or_format_is_an_invalid_spec_until_it_exists(cluster):
    cluster.store.delete(SERVING_RUNTIME, "server", "models")
    cluster.serve(cluster.model("one"))
    await until(lambda: cluster.model_status.get("transitionStatus") == "InvalidSpec")
    assert cluster.model_status["lastFailureInfo"]["reason"] == "RuntimeNotRecognized"
    assert condition(cluster.service, "Ready") == "False"
    cluster.store.create(RUNTIME)
    await until(cluster.ready)


async def test_min_scale_patched_on_the_revision_is_followed(cluster):
    cluster.serve(cluster.model("one"), maxReplicas=3)
    await until(cluster.ready)
    for annotation, replicas in (("3", 3), ("9", 3), ("1", 1)):
        patch = {"metadata": {"annotations": {"autoscaling.knative.dev/min-scale": annotation}}}
        cluster.store.merge_patch(REVISION, "digits-predictor-00001", "models", patch)
        await until(lambda replicas=replicas: cluster.revision(1)["status"]["actualReplicas"] == replicas)
        await until(lambda replicas=replicas: len(cluster.revision_pods(1)) == replicas)
        assert cluster.revision(1)["status"]["desiredReplicas"] == replicas
    assert len(cluster.store.list(REVISION, "models")) == 1


async def test_deleting_a_service_or_its_namespace_leaves_nothing(cluster):
    cluster.serve(cluster.model("one"))
    await until(cluster.ready)
    cluster.store.delete(INFERENCE_SERVICE, "digits", "models")
    await until(lambda: cluster.pods() == [])
    assert cluster.store.list(REVISION, "models") == cluster.store.list(DEPLOYMENT, "models") == []
    cluster.serve(cluster.model("one"))
    await until(cluster.ready)
    assert cluster.predictor["latestCreatedRevision"].endswith("00001")
    cluster.store.delete(NAMESPACE, "models")
    await until(lambda: cluster.store.find(NAMESPACE, "models") is None)
    assert processes(cluster) == []
