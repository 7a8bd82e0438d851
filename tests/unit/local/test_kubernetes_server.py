import asyncio
import base64
import json
import os
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import pytest

from local.kubernetes.faults import Fault
from local.kubernetes.logs import LogOptions, log_path, read_log
from local.kubernetes.stand_in import KubernetesStandIn
from ml_lifecycle.kubernetes.resource import POD

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    with KubernetesStandIn(tmp_path_factory.mktemp("kubernetes")) as started:
        yield started


def ask(stand_in, path, method="GET", body=None, content_type="application/json", token=None):
    """Status and document of the answer."""
    if token is None:
        token = json.loads(stand_in.kubeconfig.read_text())["users"][0]["user"]["token"]
    headers = {"Authorization": f"Bearer {token}", "Content-Type": content_type}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(stand_in.url + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10, context=trusting(stand_in)) as answer:
            text, status = answer.read(), answer.status
    except urllib.error.HTTPError as error:
        text, status = error.read(), error.code
    return status, json.loads(text) if text[:1] == b"{" else text.decode()


def trusting(stand_in):
    cluster = json.loads(stand_in.kubeconfig.read_text())["clusters"][0]["cluster"]
    authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
    return ssl.create_default_context(cadata=authority)


def pod(name):
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "models"},
        "spec": {"nodeName": "laptop", "containers": [{"name": "base", "image": "i"}]},
    }


def test_only_the_token_is_let_in(stand_in):
    status, answer = ask(stand_in, "/api/v1/pods", token="wrong")
    assert (status, answer["reason"]) == (401, "Unauthorized")
    assert stand_in.kubeconfig.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/api", "APIVersions"),
        ("/api/v1", "APIResourceList"),
        ("/apis", "APIGroupList"),
        ("/apis/apps", "APIGroup"),
        ("/apis/serving.kserve.io/v1beta1", "APIResourceList"),
    ],
)
def test_discovery(stand_in, path, kind):
    status, answer = ask(stand_in, path)
    assert (status, answer["kind"]) == (200, kind)


def test_discovery_lists_subresources(stand_in):
    _, answer = ask(stand_in, "/apis/apps/v1")
    assert {"deployments", "deployments/status", "deployments/scale"} <= {item["name"] for item in answer["resources"]}
    assert ask(stand_in, "/version")[1]["major"] == "1"


@pytest.mark.parametrize(
    "path", ["/apis/nobody", "/apis/apps/v1/nothings", "/apis/apps/v1/deployments/x", "/nothing", "/api/v1/nodes"]
)
def test_unknown_paths_are_not_found(stand_in, path):
    status, answer = ask(stand_in, path)
    assert (status, answer) == (404, "404 page not found\n")


def test_bodies_that_do_not_belong_are_refused(stand_in):
    path = "/api/v1/namespaces/models/pods"
    assert ask(stand_in, path, "POST", {**pod("a"), "kind": "Service"})[0] == 400
    assert ask(stand_in, "/api/v1/namespaces/default/pods", "POST", pod("a"))[0] == 400
    assert ask(stand_in, path, "PUT", pod("a"))[0] == 405
    assert ask(stand_in, f"{path}/a", "PATCH", {}, "text/plain")[0] == 415
    strict = {**pod("a"), "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "spec": {"x": 1}}
    strict_path = "/apis/serving.kserve.io/v1beta1/namespaces/models/inferenceservices?fieldValidation=Strict"
    status, answer = ask(stand_in, strict_path, "POST", strict)
    assert (status, 'unknown field "spec.x"' in answer["message"]) == (400, True)


def test_strategic_and_json_patches(stand_in):
    path = "/api/v1/namespaces/models/pods"
    ask(stand_in, path, "POST", pod("patched"))
    patch = {"spec": {"containers": [{"name": "base", "env": [{"name": "A", "value": "1"}]}]}}
    _, answer = ask(stand_in, f"{path}/patched", "PATCH", patch, "application/strategic-merge-patch+json")
    assert answer["spec"]["containers"][0]["image"] == "i"
    operations = [{"op": "add", "path": "/metadata/labels", "value": {"a": "b"}}]
    _, answer = ask(stand_in, f"{path}/patched", "PATCH", operations, "application/json-patch+json")
    assert answer["metadata"]["labels"] == {"a": "b"}


def test_faults_can_be_set_from_outside(stand_in):
    status, _ = ask(stand_in, "/faults", "POST", {"path": "/version", "status": 503, "times": 2})
    assert status == 201
    assert [ask(stand_in, "/version")[0] for _ in range(3)] == [503, 503, 200]
    ask(stand_in, "/faults", "POST", {"status": 500, "times": None})
    assert ask(stand_in, "/version")[1]["reason"] == "InternalError"
    ask(stand_in, "/faults", "DELETE")
    assert ask(stand_in, "/version")[0] == 200


def test_a_fault_may_cut_the_connection_after_the_deed(stand_in):
    stand_in.faults.add(Fault("POST", close="after"))
    with pytest.raises((ConnectionError, urllib.error.URLError)):
        ask(stand_in, "/api/v1/namespaces/models/pods", "POST", pod("cut"))
    assert stand_in.store.find(POD, "cut", "models")


def write_log(stand_in, name, lines):
    path = log_path(stand_in.state, stand_in.store.get(POD, name, "models"), "base")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(f"2026-01-01T00:00:0{second}.5Z {text}\n" for second, text in lines)


def test_logs_with_tail_times_and_since(stand_in):
    stand_in.store.create(pod("logged"))
    path = "/api/v1/namespaces/models/pods/logged/log"
    status, answer = ask(stand_in, path)
    assert (status, "waiting to start" in answer["message"]) == (400, True)
    write_log(stand_in, "logged", [(1, "one"), (2, "two words"), (3, "three")])
    assert ask(stand_in, path) == (200, "one\ntwo words\nthree\n")
    assert ask(stand_in, f"{path}?tailLines=1")[1] == "three\n"
    assert ask(stand_in, f"{path}?timestamps=true&tailLines=1")[1] == "2026-01-01T00:00:03.5Z three\n"
    assert ask(stand_in, f"{path}?sinceTime=2026-01-01T00:00:02Z")[1] == "two words\nthree\n"
    assert ask(stand_in, f"{path}?sinceSeconds=60")[1] == ""
    assert ask(stand_in, f"{path}?limitBytes=6")[1] == "one\ntw"
    assert ask(stand_in, f"{path}?container=other")[0] == 400


async def test_a_followed_log_ends_with_its_container(stand_in):
    stand_in.store.create(pod("followed"))
    write_log(stand_in, "followed", [(1, "one")])
    reading = asyncio.create_task(
        asyncio.to_thread(ask, stand_in, "/api/v1/namespaces/models/pods/followed/log?follow=true")
    )
    await asyncio.sleep(0.2)
    write_log(stand_in, "followed", [(2, "two")])
    assert not reading.done()
    stand_in.store.update_status(POD, "followed", "models", {"phase": "Succeeded"})
    assert await asyncio.wait_for(reading, 5) == (200, "one\ntwo\n")


async def test_a_half_written_line_is_not_split(tmp_path):
    path = tmp_path / "log"
    path.write_text("2026-01-01T00:00:00Z one\n2026-01-01T00:00:01Z tw")
    lines, over = [], False

    async def read():
        lines.extend([line async for line in read_log(path, LogOptions(), follow=True, ended=lambda: over)])

    reading = asyncio.create_task(read())
    await asyncio.sleep(0.05)
    with path.open("a") as file:
        file.write("o\n")
    over = True
    await reading
    assert lines == [b"one\n", b"two\n"]


def test_log_options_refuse_nonsense():
    with pytest.raises(ValueError, match="x"):
        LogOptions.parse({"tailLines": "x"}, datetime.now(UTC))


def test_kubectl_and_airflow_are_told_where_it_is(stand_in):
    assert json.loads(stand_in.connection())["extra"]["kube_config_path"] == str(stand_in.kubeconfig)
    assert "clusters" in json.loads(stand_in.connection(content=True))["extra"]["kube_config"]


def test_as_a_program_it_says_ready_and_stops_on_sigterm(tmp_path):
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'plugins'}"}
    command = [sys.executable, "-m", "local.kubernetes", "--state", str(tmp_path / "state")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout.readline().startswith("ready ")
        assert (tmp_path / "state" / "kubeconfig").exists()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
