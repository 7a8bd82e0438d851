"""What every DAG test shares: a migrated Airflow in a folder of the session, and `run_dag`.

Connections and the Variable `ml_lifecycle` come from the environment, which Airflow reads at each task: a test
points them at its own stand-ins with `monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", …)`. Until then they
lead to a closed port, so that nothing leaves the machine by accident.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

REPOSITORY = Path(__file__).resolve().parents[2]
CLOSED_PORT = 9

RunDag = Callable[..., "DagRun"]


@pytest.fixture(scope="session", autouse=True)
def airflow_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """AIRFLOW_HOME with a migrated database; connections and Variable point nowhere until a test sets them."""
    lake = tmp_path_factory.mktemp("lake")
    http = json.dumps({"conn_type": "http", "host": "127.0.0.1", "port": CLOSED_PORT, "schema": "http"})
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AIRFLOW_VAR_ML_LIFECYCLE", json.dumps({"defaults": {"data_lake": f"file://{lake}"}}))
        environment.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", http)
        environment.setenv("AIRFLOW_CONN_PROMETHEUS_DEFAULT", http)
        environment.setenv(
            "AIRFLOW_CONN_YANDEXCLOUD_DEFAULT",
            json.dumps({"conn_type": "yandexcloud", "extra": {"endpoint": f"127.0.0.1:{CLOSED_PORT}"}}),
        )
        environment.setenv(
            "AIRFLOW_CONN_KUBERNETES_DEFAULT",
            json.dumps({"conn_type": "kubernetes", "extra": {"kube_config_path": "/nonexistent/kubeconfig"}}),
        )
        from airflow.utils.db import initdb

        initdb()
        yield Path(os.environ["AIRFLOW_HOME"])


@pytest.fixture
def run_dag(airflow_home: Path) -> RunDag:
    """`run_dag("train_model.py", "train_model", {…})` runs a DAG of `dags/` (or of an absolute path) to its end.

    `mark_success_pattern` is that of `airflow dags test`: tasks that count as done without running.

    Only that file lies in Airflow's DAG folder meanwhile, so a sibling costs no time and breaks nothing.
    """
    folder = airflow_home / "dags"

    def run(dag_file: str, dag_id: str, conf: dict[str, Any], mark_success_pattern: str | None = None) -> DagRun:
        source = REPOSITORY / "dags" / dag_file
        for left in folder.glob("*.py"):
            left.unlink()
        link = folder / source.name
        link.symlink_to(source)
        from airflow.dag_processing.dagbag import DagBag

        bag = DagBag(dag_folder=link, bundle_name="dags-folder")
        assert not bag.import_errors, bag.import_errors
        dag = bag.dags[dag_id]
        return dag.test(run_conf=conf, mark_success_pattern=mark_success_pattern)

    return run


@pytest.fixture
def states() -> Callable[[DagRun], dict[str, str]]:
    """`states(dag_run)` maps each task (mapped ones as `task[0]`) to its state."""

    def read(dag_run: DagRun) -> dict[str, str]:
        return {
            task.task_id if task.map_index < 0 else f"{task.task_id}[{task.map_index}]": str(task.state)
            for task in dag_run.get_task_instances()
        }

    return read


@pytest.fixture
def xcom() -> Callable[..., Any]:
    """`xcom(dag_run, task_id, key="return_value", map_index=-1)` reads what a task pushed; None if nothing."""

    def read(dag_run: DagRun, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        from airflow.models.xcom import XComModel
        from airflow.utils.session import create_session

        with create_session() as session:
            row = session.scalars(
                XComModel.get_many(
                    run_id=dag_run.run_id,
                    dag_ids=dag_run.dag_id,
                    task_ids=task_id,
                    key=key,
                    map_indexes=map_index,
                )
            ).first()
            return None if row is None else XComModel.deserialize_value(row)

    return read


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a real MLflow server on SQLite; started once, when the first test asks for it."""
    import httpx

    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/health", timeout=2).is_success:
                    break
            assert server.poll() is None, (folder / "log").read_text()
            time.sleep(0.5)
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)


@pytest.fixture
def tracking_connection(mlflow_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """`mlflow_default` leads to the session's MLflow server; returns its address."""
    host, port = mlflow_server.removeprefix("http://").split(":")
    document = {"conn_type": "http", "host": host, "port": int(port), "schema": "http"}
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps(document))
    return mlflow_server


@pytest.fixture
def no_asset_events(airflow_home: Path) -> None:
    """Forget the events of earlier tests: they share one Airflow."""
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session

    with create_session() as session:
        session.query(AssetEvent).delete()
