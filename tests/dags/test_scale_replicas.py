"""`scale_replicas` as Airflow runs it, against the Kubernetes stand-in and a small Prometheus."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import yaml
from jinja2 import Template

from local.kubernetes.stand_in import KubernetesStandIn
from ml_lifecycle.kubernetes.client import KubernetesClient
from ml_lifecycle.kubernetes.resource import INFERENCE_SERVICE, MLSCALER, REVISION
from ml_lifecycle.resources import resource
from ml_lifecycle.scaling.client import MIN_SCALE

REVISION_NAME = "digits-predictor-00001"
LABELS = {"k8s_namespace_name": "models", "kn_configuration_name": "digits-predictor"}


class Prometheus(ThreadingHTTPServer):
    """Answers every range query with the one series of a load that is given as a function of time."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.load: Callable[[float], float] = lambda _: 30.0
        self.steps: list[float] = []


class _Answer(BaseHTTPRequestHandler):
    server: Prometheus

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        start, end, step = (float(form[name][0]) for name in ("start", "end", "step"))
        self.server.steps.append(step)
        times = [start + step * index for index in range(round((end - start) / step) + 1)]
        series = {"metric": LABELS, "values": [[at, str(self.server.load(at))] for at in times]}
        data = {"resultType": "matrix", "result": [series]}
        body = json.dumps({"status": "success", "data": data}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def prometheus(monkeypatch: pytest.MonkeyPatch) -> Iterator[Prometheus]:
    server = Prometheus()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    connection = {"conn_type": "http", "host": "127.0.0.1", "port": server.server_address[1], "schema": "http"}
    monkeypatch.setenv("AIRFLOW_CONN_PROMETHEUS_DEFAULT", json.dumps(connection))
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[KubernetesStandIn]:
    with KubernetesStandIn(tmp_path) as stand_in:
        # Not the connection's usual name, so that the test sees that settings choose it.
        monkeypatch.setenv("AIRFLOW_CONN_SERVING_CLUSTER", stand_in.connection())
        settings = {"defaults": {"data_lake": "file:///lake", "connections": {"kubernetes": "serving_cluster"}}}
        monkeypatch.setenv("AIRFLOW_VAR_ML_LIFECYCLE", json.dumps(settings))
        yield stand_in


def on(cluster: KubernetesStandIn, work: Callable[[KubernetesClient], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with KubernetesClient.from_kubeconfig(cluster.kubeconfig) as client:
            return await work(client)

    return asyncio.run(run())


async def service(client: KubernetesClient) -> None:
    model = {"modelFormat": {"name": "onnx"}, "storageUri": "s3://bucket/model"}
    await client.create(
        {
            "apiVersion": INFERENCE_SERVICE.api_version,
            "kind": "InferenceService",
            "metadata": {"name": "digits", "namespace": "models"},
            "spec": {"predictor": {"model": model}},
        }
    )
    status = {"components": {"predictor": {"traffic": [{"revisionName": REVISION_NAME, "percent": 100}]}}}
    await client.merge_patch(INFERENCE_SERVICE, "digits", "models", {"status": status}, subresource="status")
    await client.create(
        {
            "apiVersion": REVISION.api_version,
            "kind": "Revision",
            "metadata": {"name": REVISION_NAME, "namespace": "models"},
            "spec": {"containers": [{"name": "kserve-container", "image": "i"}]},
        }
    )
    template = Template(resource("k8s_templates/mlscaler.yaml").read_text())
    text = template.render(
        name="digits",
        namespace="models",
        capacity_per_replica=50,
        step_seconds=1,
        history_size=40,
        lead_time_seconds=3,
        stabilization_seconds=10,
        mode="auto",
    )
    await client.create(yaml.safe_load(text))


async def min_scale(client: KubernetesClient) -> str | None:
    found = await client.get(REVISION, REVISION_NAME, "models")
    return (found["metadata"].get("annotations") or {}).get(MIN_SCALE)


def test_several_passes_in_one_run_meet_a_ramp(
    cluster: KubernetesStandIn, prometheus: Prometheus, run_dag: Any, xcom: Any
) -> None:
    on(cluster, service)
    # The ramp begins shortly before the first pass and takes the load past one replica's 50 within the run.
    begin: list[float] = []

    def load(at: float) -> float:
        if not begin:
            begin.append(at)
        first_pass = begin[0] + 39
        return 20.0 + min(80.0, max(0.0, at - first_pass + 1) * 5)

    prometheus.load = load
    run = run_dag("scale_replicas.py", "scale_replicas", {"passes": 5, "interval_seconds": 1})
    assert run.state == "success"
    decisions = xcom(run, "scale_replicas")
    change = decisions[0]
    assert change["written"]
    assert change["cause"] == "ForecastRises"
    assert change["load"] < 40 < change["forecast"]
    assert (change["replicas"], change["desired"]) == (1, 2)
    assert decisions[-1]["replicas"] >= 2
    assert on(cluster, min_scale) == str(decisions[-1]["desired"])
    assert len(prometheus.steps) == 5


def test_dry_run_writes_nothing(cluster: KubernetesStandIn, prometheus: Prometheus, run_dag: Any, xcom: Any) -> None:
    on(cluster, service)
    prometheus.load = lambda _: 120.0
    run = run_dag("scale_replicas.py", "scale_replicas", {"dry_run": True, "namespace": "models"})
    assert run.state == "success"
    (decision,) = xcom(run, "scale_replicas")
    assert (decision["desired"], decision["written"]) == (3, False)
    assert on(cluster, min_scale) is None
    assert "status" not in on(cluster, lambda client: client.get(MLSCALER, "digits", "models"))


def test_without_prometheus_the_run_fails_and_the_scaler_says_why(
    cluster: KubernetesStandIn, run_dag: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(cluster, service)
    closed = json.dumps({"conn_type": "http", "host": "127.0.0.1", "port": 9})
    monkeypatch.setenv("AIRFLOW_CONN_PROMETHEUS_DEFAULT", closed)
    run = run_dag("scale_replicas.py", "scale_replicas", {})
    assert run.state == "failed"
    stored = on(cluster, lambda client: client.get(MLSCALER, "digits", "models"))
    ready = next(item for item in stored["status"]["conditions"] if item["type"] == "Ready")
    assert ready["status"] == "False"
    assert "does not answer" in ready["message"]
    assert on(cluster, min_scale) is None


@pytest.mark.parametrize("conf", [{"passes": 0}, {"namespace": "Not A Name"}, {"interval_seconds": 0}])
def test_impossible_params_are_refused(conf: dict[str, Any], run_dag: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(conf))):
        run_dag("scale_replicas.py", "scale_replicas", conf)


def test_the_dag_runs_one_at_a_time_and_does_not_catch_up(airflow_home: Path) -> None:
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(dag_folder=Path(__file__).resolve().parents[2] / "dags/scale_replicas.py", bundle_name="dags-folder")
    dag = bag.dags["scale_replicas"]
    assert (dag.max_active_runs, dag.catchup) == (1, False)
