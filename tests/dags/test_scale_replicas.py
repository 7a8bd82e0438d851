"""`scale_replicas` as Airflow runs it, against the Kubernetes stand-in and a small Prometheus."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import time_machine
import yaml
from jinja2 import Template

from local.kubernetes.stand_in import KubernetesStandIn
from ml_lifecycle.kubernetes import leases
from ml_lifecycle.kubernetes.client import KubernetesClient
from ml_lifecycle.kubernetes.resource import INFERENCE_SERVICE, MLSCALER, REVISION
from ml_lifecycle.resources import resource
from ml_lifecycle.scaling.client import MIN_SCALE

REVISION_NAME = "digits-predictor-00001"
TICK_MINUTES = 15
ROLLOUT, OUTAGE = (60, 75), (120, 135)  # minutes of the afternoon
LABELS = {"namespace": "models", "service": "digits"}


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
        settings = {
            "defaults": {
                "data_lake": f"file://{tmp_path}/lake",
                "connections": {"kubernetes": "serving_cluster"},
                "scaling": {"history_cache": str(tmp_path / "loads")},
            }
        }
        monkeypatch.setenv("AIRFLOW_VAR_ML_LIFECYCLE", json.dumps(settings))
        yield stand_in


def on(cluster: KubernetesStandIn, work: Callable[[KubernetesClient], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with KubernetesClient.from_kubeconfig(cluster.kubeconfig) as client:
            return await work(client)

    return asyncio.run(run())


async def service(client: KubernetesClient, **changes: int) -> None:
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
    usual = {"step_seconds": 1, "history_size": 40, "lead_time_seconds": 3, "stabilization_seconds": 10}
    text = template.render(
        name="digits", namespace="models", capacity_per_replica=50, max_replicas=20, mode="auto", **(usual | changes)
    )
    await client.create(yaml.safe_load(text))


async def min_scale(client: KubernetesClient) -> str | None:
    found = await client.get(REVISION, REVISION_NAME, "models")
    return (found["metadata"].get("annotations") or {}).get(MIN_SCALE)


def test_several_passes_in_one_run_meet_a_ramp(
    cluster: KubernetesStandIn, prometheus: Prometheus, run_dag: Any, xcom: Any, tmp_path: Path
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
    assert (tmp_path / "loads/loads-1s.f32").stat().st_size == 4 * 40  # the one history of 40 samples


def test_dry_run_writes_nothing_but_the_pictures(
    cluster: KubernetesStandIn, prometheus: Prometheus, run_dag: Any, xcom: Any, tmp_path: Path
) -> None:
    on(cluster, service)
    prometheus.load = lambda _: 120.0
    pictures = tmp_path / "lake/pictures"
    conf = {"dry_run": True, "namespace": "models", "pictures": pictures.as_uri()}
    run = run_dag("scale_replicas.py", "scale_replicas", conf)
    assert "models/digits: load, forecast and replicas" in (pictures / "models/digits.svg").read_text()
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


async def take_lease(client: KubernetesClient, now: datetime) -> None:
    await leases.acquire(client, "models", "ml-lifecycle-digits", "run", 600, now)


def test_an_afternoon_of_ticks(cluster: KubernetesStandIn, prometheus: Prometheus, run_dag: Any, xcom: Any) -> None:
    """Every tick a run of the DAG, each of which knows only what Prometheus and the status say.

    The load rises, falls and rises again; a rollout holds the Lease for a while, and Prometheus gives nothing for
    another. Replicas carry the load at every other tick, are never taken away while nothing is known, and come back.
    """
    noon = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
    on(cluster, partial(service, step_seconds=60, lead_time_seconds=60, history_size=240, stabilization_seconds=300))

    def load(at: float) -> float:
        hours = (at - noon.timestamp()) / 3600
        return 60.0 + (240.0 * math.sin(math.pi * hours / 3) ** 2 if 0 < hours < 6 else 0.0)

    seen: list[tuple[int, dict[str, Any]]] = []
    for minute in [*range(0, 360, TICK_MINUTES), 370, 380]:
        now = noon + timedelta(minutes=minute)
        rollout, outage = minute in ROLLOUT, minute in OUTAGE
        prometheus.load = (lambda _: math.nan) if outage else load
        with time_machine.travel(now, tick=True):
            if rollout:
                on(cluster, partial(take_lease, now=now))
            run = run_dag("scale_replicas.py", "scale_replicas", {})
            if rollout:
                on(cluster, lambda client: leases.release(client, "models", "ml-lifecycle-digits", "run"))
        decision = xcom(run, "scale_replicas")[0]
        held = int(on(cluster, min_scale) or 1)
        if rollout:
            assert (decision["cause"], held) == ("RolloutInProgress", seen[-1][0])
        elif outage:
            assert (decision["cause"], held) == ("MetricsMissing", seen[-1][0])
        else:
            assert held * 50 >= load(now.timestamp()), f"too few at {now:%H:%M}: {decision}"
        seen.append((held, decision))
    replicas = [held for held, _ in seen]
    assert max(replicas) <= 10
    assert replicas[-1] == 2
    assert any(decision["cause"] == "ForecastRises" for _, decision in seen)
