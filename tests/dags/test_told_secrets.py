"""Every DAG runs with recognisable secrets wherever a person may put them, against services that do not answer.

Each fails where it reaches the first of them, which is when errors speak of connections. Nothing that is left, or was
said, may hold a secret: XCom, rendered fields, run, log, traceback, whatever Airflow keeps. `test_train_model.py` and
the tests of the Lease and the notifiers look for secrets where all goes well.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.dags.test_train_model import files_with

pytestmark = pytest.mark.slow

CLOSED_PORT = 9
USER_INFO = "pw-within-the-host-of-mlflow"
SECRETS = {
    "MLFLOW_DEFAULT": {"conn_type": "http", "host": f"http://alice:{USER_INFO}@127.0.0.1", "port": CLOSED_PORT},
    "PROMETHEUS_DEFAULT": {
        "conn_type": "http",
        "host": "http://bob:pw-within-the-host-of-prometheus@127.0.0.1",
        "port": CLOSED_PORT,
        "extra": {"headers": {"Authorization": "Bearer token-of-the-header-of-prometheus-1"}, "timeout": 1},
    },
    "YANDEXCLOUD_DEFAULT": {
        "conn_type": "yandexcloud",
        "extra": {"oauth": "oauth-token-of-yandex", "endpoint": f"127.0.0.1:{CLOSED_PORT}", "folder_id": "folder"},
    },
    "AWS_DEFAULT": {"conn_type": "aws", "login": "key", "password": "storage-key-of-the-connection"},
    "KUBERNETES_DEFAULT": {
        "conn_type": "kubernetes",
        "extra": {"kube_config": json.dumps({"users": [{"name": "u", "user": {"token": "token-of-the-kubeconfig"}}]})},
    },
}
KNOWN = (
    USER_INFO,
    "pw-within-the-host-of-prometheus",
    "token-of-the-header-of-prometheus-1",
    "oauth-token-of-yandex",
    "storage-key-of-the-connection",
    "token-of-the-kubeconfig",
    "password-of-a-notifier-deep-within",
    "password-under-a-name-nobody-knows",
)
RUNS = {
    "train_model": {"model": "digits"},
    "promote_model": {"model": "digits"},
    "roll_out_model": {"model": "digits"},
    "roll_back_model": {"model": "digits"},
    "steer_rollout": {"model": "digits", "action": "freeze"},
    "scale_replicas": {"passes": 1},
    "clean_up": {},
}
DEEP = {
    "notifier": "a.B",
    "arguments": {"config": [{"headers": {"Authorization": "password-of-a-notifier-deep-within"}}]},
}
VARIABLES = {
    "sound": {},
    "a secret deep in a notifier": {"rollout": {"notifiers": [DEEP]}},
    "a secret under an unknown name": {"serving": {"imagee": ["password-under-a-name-nobody-knows"]}},
}


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for connection, document in SECRETS.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{connection}", json.dumps(document))
    for number in range(2):
        folder = tmp_path / "lake" / "datasets" / "digits" / str(number)
        folder.mkdir(parents=True)
        (folder / "0.png").write_bytes(b"png")
    return tmp_path / "lake"


def test_no_dag_is_left_out() -> None:
    assert set(RUNS) == {file.stem for file in (Path(__file__).resolve().parents[2] / "dags").glob("*.py")}


@pytest.mark.usefixtures("no_pause")
@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("dag", RUNS)
def test_a_dag_that_fails_leaves_no_secret(
    dag: str,
    variable: str,
    lake: Path,
    run_dag: Any,
    airflow_home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    document = {"defaults": {"data_lake": lake.as_uri(), **VARIABLES[variable]}}
    monkeypatch.setenv("AIRFLOW_VAR_ML_LIFECYCLE", json.dumps(document))

    run_dag(f"{dag}.py", dag, RUNS[dag])

    said = "".join(capfd.readouterr()) + caplog.text
    assert [secret for secret in KNOWN if secret in said] == []
    assert files_with(KNOWN, airflow_home, lake) == {}
    assert dag in said, "nothing of the run was seen: the search would find nothing"
    assert os.environ["AIRFLOW_CONN_MLFLOW_DEFAULT"].count(USER_INFO) == 1


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience with services that do not answer is tried elsewhere."""
    from airflow.models.taskinstance import TaskInstance

    from ml_lifecycle.dataproc.client import BackOff

    monkeypatch.setattr(BackOff, "patience", property(lambda _: 0.1, lambda _, __: None))
    monkeypatch.setattr(TaskInstance, "ready_for_retry", lambda ti: ti.state == "up_for_retry")
