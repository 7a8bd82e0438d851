"""A real scheduler, triggerer and API server, and a rollout whose every deferral is heard of late.

While the scheduler stands still, workers and triggerer go on: the event of a trigger comes before the scheduler has
booked the deferral, and Airflow then counts the try as failed although nothing was wrong.
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

from local.stack.environment import airflow_configuration, base_environment
from local.stack.layout import REPOSITORY, Layout
from local.stack.services import airflow
from tests.faults.rollout_world import FAST, IMAGE, MODEL, world

pytestmark = pytest.mark.slow

HELD_SECONDS = 15.0
PATIENCE = 420.0
SMOKE_TEST = "print('asked')"


@contextmanager
def running(layout, variables):
    """Airflow's processes by name, all of them stopped at the end."""
    environment = {**base_environment(), **variables}
    airflow_program = str(Path(sys.executable).parent / "airflow")
    layout.logs.mkdir(parents=True)
    started = {}
    try:
        with (layout.logs / "migrate.log").open("wb") as log:
            subprocess.run([airflow_program, "db", "migrate"], env=environment, stdout=log, stderr=log, check=True)
        for service in airflow(layout, variables):
            with (layout.logs / f"{service.name}.log").open("wb") as log:
                started[service.name] = subprocess.Popen(
                    service.command, env=environment, cwd=layout.state, stdout=log, stderr=log, start_new_session=True
                )
        yield started
    finally:
        for process in started.values():
            os.kill(process.pid, signal.SIGCONT)
            os.killpg(process.pid, signal.SIGTERM)
        for process in started.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def until(condition, what, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.2)
    return found


class Api:
    """Airflow's REST API, and its database where the API is too slow to watch a state."""

    def __init__(self, layout):
        self._url = layout.url("airflow")
        self._database = layout.airflow_home / "airflow.db"

    def __call__(self, method, path, body=None):
        try:
            token = httpx.get(f"{self._url}/auth/token", timeout=10).json()["access_token"]
            headers = {"Authorization": f"Bearer {token}"}
            answer = httpx.request(method, f"{self._url}/api/v2/{path}", json=body, headers=headers, timeout=30)
        except (httpx.TransportError, ValueError, KeyError):
            return None
        return answer.json() if answer.is_success else None

    def tasks(self):
        """(task, try) to state of every task of every run."""
        with closing(sqlite3.connect(f"file:{self._database}?mode=ro", uri=True, timeout=30)) as database:
            rows = database.execute("select task_id, try_number, state from task_instance").fetchall()
        return {(task, number): state for task, number, state in rows}


@pytest.fixture
def promoted_version(mlflow_server, tmp_path):
    """Registers version 1 as champion; `register(uri)` says where its serving files lie."""

    def register(uri):
        import mlflow

        store = mlflow.MlflowClient(mlflow_server)
        store.create_registered_model(MODEL)
        run = store.create_run(store.create_experiment(f"races-{tmp_path.name}"))
        store.create_model_version(MODEL, source=f"{run.info.artifact_uri}/model", run_id=run.info.run_id)
        store.set_model_version_tag(MODEL, "1", "storage_uri", uri)
        store.set_registered_model_alias(MODEL, "champion", "1")
        return store

    return register


@pytest.mark.usefixtures("tracking_connection")
def test_a_rollout_survives_a_scheduler_that_hears_of_every_deferral_late(tmp_path, monkeypatch, promoted_version):
    image = tmp_path / "image" / "serving"
    image.mkdir(parents=True)
    (image / "smoke_test.py").write_text(SMOKE_TEST)
    dags = tmp_path / "dags"
    dags.mkdir()
    (dags / "roll_out_model.py").symlink_to(REPOSITORY / "dags" / "roll_out_model.py")
    with world(tmp_path, monkeypatch, image=image.parent) as cluster:
        registry = promoted_version(cluster.version("1"))
        overlay = {"serving": {"image": IMAGE}, "rollout": {}}
        for path, value in FAST.items():
            section, _, key = path.partition(".")
            overlay[section][key] = value
        document = {"defaults": {"data_lake": f"file://{cluster.lake}", **overlay}}
        layout = Layout(tmp_path / "stack")
        layout.airflow_home.mkdir(parents=True)
        variables = {
            **airflow_configuration(layout, dags, REPOSITORY / "plugins", deferrable=True),
            **{name: os.environ[name] for name in os.environ if name.startswith("AIRFLOW_CONN_")},
            "AIRFLOW_VAR_ML_LIFECYCLE": json.dumps(document),
        }
        with running(layout, variables) as processes:
            api = Api(layout)
            until(lambda: api("GET", "dags/roll_out_model"), "Airflow did not read the DAG", 240)
            body = {"logical_date": None, "conf": {"model": MODEL}}
            run = until(lambda: api("POST", "dags/roll_out_model/dagRuns", body), "the run was not taken")
            held = hold_up(processes["airflow-scheduler"].pid, api, run["dag_run_id"])
        assert {"roll_out.open", "roll_out.smoke_test"} <= {task for task, _ in held}
        assert registry.get_model_version_by_alias(MODEL, "live").version == "1"
        assert cluster.is_clean()


def hold_up(scheduler, api, run_id):
    """Stops the scheduler for a while at each deferral, until the run has ended well; the tries so held up."""
    held = set()
    deadline = time.monotonic() + PATIENCE
    while True:
        assert time.monotonic() < deadline, api.tasks()
        tasks = api.tasks()
        if new := {key for key, state in tasks.items() if state == "deferred"} - held:
            os.kill(scheduler, signal.SIGSTOP)
            held |= new
            time.sleep(HELD_SECONDS)
            os.kill(scheduler, signal.SIGCONT)
        elif any(state == "failed" for state in tasks.values()):
            pytest.fail(f"a task failed: {tasks}")
        elif (found := api("GET", f"dags/roll_out_model/dagRuns/{run_id}")) and found["state"] == "success":
            return held
        time.sleep(0.1)
