"""train_model by `dag.test()`: the Yandex stand-in over gRPC, real Spark and torch, a real MLflow server."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from local.dataset import write_digits
from local.stack.environment_archive import build_environment_archive
from local.yandex.stand_in import YandexStandIn
from ml_lifecycle.dataproc.operators import DeleteClusterOperator
from ml_lifecycle.tracking.client import TrackingClient

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
CLUSTER = {"subnet_id": "subnet", "folder_id": "laptop", "service_account_id": "account", "secret_id": "laptop-secret"}
SMALL = {"epochs": 1, "fraction": 0.5, "batch_size": 32, "width": 8, "processes": 1}


LOCKBOX = {
    "MLFLOW_TRACKING_USERNAME": "trainer",
    "MLFLOW_TRACKING_PASSWORD": "found-mlflow-password-of-lockbox",
    "AWS_ACCESS_KEY_ID": "trainer",
    "AWS_SECRET_ACCESS_KEY": "found-storage-key-of-lockbox",
}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[YandexStandIn]:
    folder = tmp_path_factory.mktemp("yandex")
    secrets = {CLUSTER["secret_id"]: LOCKBOX}
    with YandexStandIn(folder, creation_seconds=0.5, deletion_seconds=0.2, secrets=secrets) as stand_in:
        yield stand_in


@pytest.fixture
def lake(
    cloud: YandexStandIn, tracking_connection: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    environment = build_environment_archive(tmp_path / "packed")
    document = {
        "defaults": {
            "data_lake": (tmp_path / "lake").as_uri(),
            "cluster": {**CLUSTER, "environment": str(environment), "poll_seconds": 0.5},
            "dataset": {"image_size": 16, "channels": 1},
            "cost": {"host_hour": {"s3-c4-m16": 3600}, "expected_hours": 0.5},
        }
    }
    monkeypatch.setenv("AIRFLOW_VAR_ML_LIFECYCLE", json.dumps(document))
    yield tmp_path / "lake"
    cloud.faults.clear()


@pytest.fixture
def secrets(cloud: YandexStandIn, lake: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Connections and Lockbox carry secrets that are recognised wherever they turn up: these."""

    def change(connection: str, **changes: Any) -> None:
        variable = f"AIRFLOW_CONN_{connection}"
        document = json.loads(os.environ.get(variable, '{"conn_type": "aws"}'))
        monkeypatch.setenv(variable, json.dumps({**document, **changes}))

    yandex = json.loads(cloud.connection())["extra"]
    key = Path(yandex.pop("service_account_json_path")).read_text()
    change("YANDEXCLOUD_DEFAULT", extra={**yandex, "service_account_json": key})
    change("MLFLOW_DEFAULT", login="airflow", password="mlflow-password-of-the-connection")
    change("AWS_DEFAULT", login="airflow", password="storage-key-of-the-connection")
    line_of_key = json.loads(key)["private_key"].splitlines()[3]
    in_connections = ["mlflow-password-of-the-connection", "storage-key-of-the-connection", line_of_key]
    return [*in_connections, LOCKBOX["MLFLOW_TRACKING_PASSWORD"], LOCKBOX["AWS_SECRET_ACCESS_KEY"]]


def files_with(secrets: Iterable[str], *folders: Path) -> dict[str, list[str]]:
    """Names of the files that hold a secret, as it is or within something in base64, and which secrets."""
    wanted = {
        secret: [secret.encode(), *(base64.b64encode(b"." * shift + secret.encode())[4:-4] for shift in range(3))]
        for secret in secrets
    }
    found: dict[str, list[str]] = {}
    for file in (file for folder in folders for file in folder.rglob("*") if file.is_file()):
        content = file.read_bytes()
        if held := [secret for secret, forms in wanted.items() if any(form in content for form in forms)]:
            found[file.name] = held
    return found


@pytest.fixture(autouse=True)
def no_pause_before_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "airflow.models.taskinstance.TaskInstance.ready_for_retry", lambda ti: ti.state == "up_for_retry"
    )


def alive(cloud: YandexStandIn) -> list[dict[str, Any]]:
    return [cluster for cluster in cloud.history() if not cluster["deleted"]]


def candidate_events() -> list[dict[str, Any]]:
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session

    with create_session() as session:
        events = session.query(AssetEvent).order_by(AssetEvent.id).all()
        return [event.extra for event in events if event.asset.name == "candidate_model"]


def test_a_training_ends_in_a_challenger_without_a_cluster_and_leaves_no_secret(
    cloud: YandexStandIn,
    lake: Path,
    tracking_connection: str,
    secrets: list[str],
    airflow_home: Path,
    tmp_path_factory: pytest.TempPathFactory,
    run_dag: Any,
    states: Any,
    xcom: Any,
    request: pytest.FixtureRequest,
) -> None:
    write_digits(lake / "datasets" / "digits")
    run = run_dag("train_model.py", "train_model", {"model": "trained", "dataset": "digits", **SMALL})

    assert states(run) == {
        **dict.fromkeys(["prepare", "submit_cluster", "wait_for_cluster", "ingest", "train", "evaluate"], "success"),
        **dict.fromkeys(["delete_cluster", "register", "close_run"], "success"),
    }
    assert run.state == "success"
    assert alive(cloud) == []

    evaluation, event = xcom(run, "evaluate"), xcom(run, "register")
    tracking = TrackingClient(tracking_connection)
    version = tracking.find_alias("trained", "challenger")
    assert version is not None
    assert (version.version, version.tags["compared_with"]) == ("1", "none")
    assert event == candidate_events()[-1]
    assert event["metrics"]["accuracy"] == evaluation["accuracy"]
    assert tracking.run_metrics(version.run_id)["holdout_accuracy"] == pytest.approx(evaluation["accuracy"])
    assert set(tracking.read_artifacts(version.run_id, "serving")) == {"model.onnx", "model.json", "golden.json"}
    mlflow_run = tracking._client.get_run(version.run_id)
    assert mlflow_run.info.status == "FINISHED"
    assert mlflow_run.data.tags["airflow.run"] == run.run_id
    assert len(mlflow_run.data.tags["mlflow.source.git.commit"]) == 40
    deleted = xcom(run, "delete_cluster")
    assert mlflow_run.data.tags["cost.estimate"] == "3600.00"
    assert mlflow_run.data.tags["cost.currency"] == deleted["currency"] == "RUB"
    assert mlflow_run.data.metrics["cost"] == pytest.approx(2 * deleted["lived_seconds"], rel=0.01)

    # Airflow's database and logs, MLflow's, the lake, the drivers' logs: all that the run wrote, and what it said.
    logged = request.config.pluginmanager.get_plugin("capturemanager").read_global_capture()
    said = "".join(logged) + json.dumps(cloud.history())
    assert re.search(r"ingest-\w+ \| ", said), "the driver speaks in the task log"
    secrets += cloud.issued_tokens
    assert [secret for secret in secrets if secret in said] == []
    left = files_with([*secrets, run.run_id], tmp_path_factory.getbasetemp(), airflow_home)
    holding = {name.removesuffix("-wal") for name, held in left.items() if run.run_id in held}  # SQLite's newest pages
    assert {"airflow.db", "mlflow.db"} <= holding
    assert {name: held for name, held in left.items() if set(held) & set(secrets)} == {
        "service_account.json": [secrets[2]]
    }


def test_a_cluster_that_fails_is_deleted_and_the_run_marked(
    cloud: YandexStandIn, lake: Path, tracking_connection: str, run_dag: Any, states: Any, xcom: Any
) -> None:
    write_digits(lake / "datasets" / "digits")
    before = len(candidate_events())
    cloud.faults.add(method="ClusterService.Create", code="RESOURCE_EXHAUSTED", after_id=True, times=9)

    run = run_dag("train_model.py", "train_model", {"model": "unlucky", "dataset": "digits", **SMALL})

    ended = states(run)
    assert run.state == "failed"
    assert (ended["submit_cluster"], ended["wait_for_cluster"]) == ("success", "failed")
    assert (ended["ingest"], ended["register"]) == ("upstream_failed", "upstream_failed")
    assert (ended["delete_cluster"], ended["close_run"]) == ("success", "success")
    assert alive(cloud) == []
    tracking = TrackingClient(tracking_connection)
    mlflow_run = tracking._client.get_run(xcom(run, "prepare", "run_id"))
    assert mlflow_run.info.status == "FAILED"
    assert run.run_id in mlflow_run.data.tags["failure"]
    assert mlflow_run.data.metrics["cost"] > 0, "a failed training costs money too"
    assert tracking.find_alias("unlucky", "challenger") is None
    assert len(candidate_events()) == before


def test_a_refused_submission_leaves_nothing(cloud: YandexStandIn, lake: Path, run_dag: Any, states: Any) -> None:
    write_digits(lake / "datasets" / "digits")
    cloud.faults.add(method="ClusterService.Create", code="PERMISSION_DENIED", times=9)

    run = run_dag("train_model.py", "train_model", {"model": "refused", "dataset": "digits", **SMALL})

    ended = states(run)
    assert run.state == "failed"
    assert ended["submit_cluster"] == "failed"
    assert ended["delete_cluster"] == "success", "the teardown runs though its setup failed"
    assert alive(cloud) == []


def test_a_cluster_that_cannot_be_deleted_fails_the_run_and_its_cost_is_unknown(
    cloud: YandexStandIn,
    lake: Path,
    tracking_connection: str,
    run_dag: Any,
    states: Any,
    xcom: Any,
) -> None:
    write_digits(lake / "datasets" / "digits")
    cloud.faults.add(method="JobService.Create", code="PERMISSION_DENIED", times=9)
    cloud.faults.add(method="ClusterService.Delete", code="PERMISSION_DENIED", times=99)

    run = run_dag("train_model.py", "train_model", {"model": "undying", "dataset": "digits", **SMALL})

    ended = states(run)
    assert run.state == "failed"
    assert (ended["delete_cluster"], ended["close_run"]) == ("failed", "success")
    assert len(alive(cloud)) == 1
    mlflow_run = TrackingClient(tracking_connection)._client.get_run(xcom(run, "prepare", "run_id"))
    assert mlflow_run.info.status == "FAILED"
    assert mlflow_run.data.tags["cost.unknown"] == "the cluster's deletion failed"
    assert "cost" not in mlflow_run.data.metrics
    cloud.faults.clear()
    DeleteClusterOperator(
        task_id="delete", cluster_id=alive(cloud)[0]["id"], cluster_name="", poll_seconds=0.1, deferrable=False
    ).execute({"dag_run": run, "ti": SimpleNamespace(try_number=1)})


def test_a_cleared_job_makes_a_cluster_again_and_deletes_it() -> None:
    """Airflow clears with a task its setups and their teardowns."""
    from airflow.dag_processing.dagbag import DagBag

    dag = DagBag(dag_folder=REPOSITORY / "dags" / "train_model.py", bundle_name="dags-folder").dags["train_model"]

    cleared = dag.partial_subset(["train"], include_upstream=False).task_ids

    assert set(cleared) == {
        *("prepare", "submit_cluster", "wait_for_cluster", "train", "delete_cluster", "close_run"),
    }


@pytest.mark.parametrize(
    ("conf", "said"),
    [
        ({"dataset": "nowhere"}, "dataset.name = 'nowhere': there is no folder"),
        ({"dataset": "single"}, "only the class 'cats'"),
        ({"model": "Bad_Name"}, "at most 40 lower-case letters"),
        ({"dataset": "good", "compute_preset": "g9.huge"}, "cluster.compute.preset = 'g9.huge': no such resource"),
        ({"dataset": "good", "cost_limit": 5000}, "cost.limit = 5000 RUB: the run is expected to cost 3600.00 RUB"),
        ({"dataset": "good", "gpu": True}, "'s3-c4-m16' is a preset without GPU"),
    ],
)
def test_bad_input_is_refused_before_anything_is_created(
    cloud: YandexStandIn,
    lake: Path,
    run_dag: Any,
    states: Any,
    capsys: pytest.CaptureFixture[str],
    conf: dict[str, Any],
    said: str,
) -> None:
    for path in ("single/cats/1.png", "good/cats/1.png", "good/dogs/1.png"):
        (lake / "datasets" / path).parent.mkdir(parents=True)
        (lake / "datasets" / path).write_bytes(b"png")
    created = cloud.calls.count("ClusterService.Create")

    run = run_dag("train_model.py", "train_model", {"model": "digits", **conf})

    assert run.state == "failed"
    assert {state for task, state in states(run).items() if task != "prepare"} == {"upstream_failed"}
    assert said in "".join(capsys.readouterr())
    assert cloud.calls.count("ClusterService.Create") == created
    assert not (lake / "jobs").exists()


def test_an_unreachable_mlflow_is_named(
    lake: Path, run_dag: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_digits(lake / "datasets" / "digits")
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps({"conn_type": "http", "host": "127.0.0.1", "port": 9}))

    run = run_dag("train_model.py", "train_model", {"model": "digits"})

    assert run.state == "failed"
    assert "connections.tracking = 'mlflow_default': MLflow at http://127.0.0.1:9" in "".join(capsys.readouterr())
