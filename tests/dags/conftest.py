"""What every DAG test shares: a migrated Airflow in a folder of the session, and `run_dag`.

Connections and the Variable `ml_lifecycle` come from the environment, which Airflow reads at each task: a test
points them at its own stand-ins with `monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", …)`. Until then they
lead to a closed port, so that nothing leaves the machine by accident.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

REPOSITORY = Path(__file__).resolve().parents[2]
CLOSED_PORT = 9

RunDag = Callable[[str, str, dict[str, Any]], "DagRun"]


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

    Only that file lies in Airflow's DAG folder meanwhile, so a sibling costs no time and breaks nothing.
    """
    folder = airflow_home / "dags"

    def run(dag_file: str, dag_id: str, conf: dict[str, Any]) -> DagRun:
        source = REPOSITORY / "dags" / dag_file
        for left in folder.glob("*.py"):
            left.unlink()
        link = folder / source.name
        link.symlink_to(source)
        from airflow.dag_processing.dagbag import DagBag

        bag = DagBag(dag_folder=link, bundle_name="dags-folder")
        assert not bag.import_errors, bag.import_errors
        dag = bag.dags[dag_id]
        return dag.test(run_conf=conf)

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
