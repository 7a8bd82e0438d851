"""The client against a real MLflow store: SQLite and a folder, without a server."""

from __future__ import annotations

import json
import os
import threading
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from ml_lifecycle.tracking import client
from ml_lifecycle.tracking.client import CHAMPION, TrackingClient, connect
from ml_lifecycle.tracking.exceptions import (
    EvaluationUnreadableError,
    ServingArtifactMissingError,
    TrackingConnectionError,
    TrackingUnreachableError,
    VersionMissingError,
)

pytestmark = pytest.mark.slow  # starts programs or a database


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def tracking(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrackingClient:
    monkeypatch.chdir(tmp_path)
    return TrackingClient(store)


def start(tracking: TrackingClient, dag_run: str) -> str:
    return tracking.start_run(
        "tests",
        dag_id="train_model",
        dag_run_id=dag_run,
        name=dag_run,
        tags={"model": "m", "mlflow.source.git.commit": None},
    ).run_id


def register(tracking: TrackingClient, model: str, dag_run: str, **tags: str) -> str:
    run_id = start(tracking, dag_run)
    return tracking.register_version(model, run_id=run_id, source=f"runs:/{run_id}/model", tags=tags).version


def test_one_airflow_run_has_one_mlflow_run(tracking: TrackingClient) -> None:
    first = start(tracking, "manual__1'quoted")
    tracking.fail_run(first, "the cluster did not come up")
    again = start(tracking, "manual__1'quoted")
    other = start(tracking, "manual__2")

    run = tracking._client.get_run(again)
    assert again == first
    assert other != first
    assert run.info.status == "RUNNING"
    assert run.data.tags["failure"] == "the cluster did not come up"
    assert run.data.tags["airflow.dag"] == "train_model"
    assert "mlflow.source.git.commit" not in run.data.tags


def test_an_airflow_run_that_is_cleared_with_another_plan_gets_another_mlflow_run(tracking: TrackingClient) -> None:
    def begin(plan: str) -> str:
        return tracking.start_run(
            "tests", dag_id="train_model", dag_run_id="cleared", name="cleared", tags={}, plan=plan
        ).run_id

    first = begin("batch size 20")
    assert begin("batch size 20") == first
    second = begin("batch size 10")
    assert second != first
    assert begin("batch size 10") == second
    earlier = tracking._client.get_run(first)
    assert earlier.info.status == "FAILED"
    assert earlier.data.tags["failure"] == f"its settings were changed; run {second} goes on in its place"


def test_a_run_that_began_before_plans_were_kept_is_gone_on_with(tracking: TrackingClient) -> None:
    first = start(tracking, "older")
    again = tracking.start_run("tests", dag_id="train_model", dag_run_id="older", name="n", tags={}, plan="p").run_id
    assert again == first


def test_a_run_ends_as_told(tracking: TrackingClient) -> None:
    run_id = start(tracking, "ends")
    tracking.end_run(run_id)

    assert tracking._client.get_run(run_id).info.status == "FINISHED"


def test_a_text_artifact_is_written_and_written_again(tracking: TrackingClient) -> None:
    run_id = start(tracking, "text")
    for text in ("<svg/>", "<svg>é</svg>"):
        tracking.log_text(run_id, "rollout/version-2.svg", text)

    assert tracking.read_artifacts(run_id, "rollout") == {"version-2.svg": "<svg>é</svg>".encode()}


def test_registering_a_run_twice_gives_one_version(tracking: TrackingClient) -> None:
    first = register(tracking, "twice", "register-1", compared_with="none")
    again = register(tracking, "twice", "register-1", compared_with="none")
    second = register(tracking, "twice", "register-2")

    assert (first, again, second) == ("1", "1", "2")
    assert tracking.version("twice", "1").tags["compared_with"] == "none"


def test_a_logged_model_is_the_source_of_a_version(
    tracking: TrackingClient, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)  # the registry, without a server, looks there for the model
    run_id = start(tracking, "logged")
    experiment = tracking._client.get_run(run_id).info.experiment_id
    logged = tracking._client.create_logged_model(experiment, name="model", source_run_id=run_id)
    tracking._client.finalize_logged_model(logged.model_id, "READY")

    made = tracking.register_version("logged", run_id=run_id, source=logged.model_uri, tags={})

    found = tracking._client.get_model_version("logged", made.version)
    assert (found.source, made.run_id) == (f"models:/{logged.model_id}", run_id)


def test_an_evaluation_is_read_or_its_absence_named(tracking: TrackingClient) -> None:
    run_id = start(tracking, "evaluated")
    with pytest.raises(EvaluationUnreadableError, match=r"there is none.*train again"):
        tracking.read_json(run_id, "evaluation.json")
    tracking._client.log_text(run_id, "{", "evaluation.json")
    with pytest.raises(EvaluationUnreadableError, match=run_id):
        tracking.read_json(run_id, "evaluation.json")
    tracking._client.log_dict(run_id, {"accuracy": 0.5}, "evaluation.json")

    assert tracking.read_json(run_id, "evaluation.json") == {"accuracy": 0.5}


def test_aliases_move(tracking: TrackingClient) -> None:
    assert tracking.find_alias("aliased", CHAMPION) is None
    for number in ("1", "2"):
        tracking.set_alias("aliased", CHAMPION, register(tracking, "aliased", f"alias-{number}"))
        found = tracking.find_alias("aliased", CHAMPION)
        assert found is not None
        assert found.version == number


def test_a_missing_version_is_named(tracking: TrackingClient) -> None:
    register(tracking, "present", "present-1")

    with pytest.raises(VersionMissingError, match="'present' has no version '7'"):
        tracking.version("present", "7")


def test_artifacts_come_back_by_name(tracking: TrackingClient, tmp_path: Path) -> None:
    run_id = start(tracking, "artifacts")
    with pytest.raises(ServingArtifactMissingError, match=f"run {run_id} has no artifact folder 'serving'"):
        tracking.read_artifacts(run_id, "serving")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "model.onnx").write_bytes(b"\x00onnx")
    tracking._client.log_artifacts(run_id, str(tmp_path / "source"), "serving")

    assert tracking.read_artifacts(run_id, "serving") == {"model.onnx": b"\x00onnx"}


def test_a_table_is_written_and_announced_once(tracking: TrackingClient) -> None:
    run_id = start(tracking, "table")
    for value in (0.1, 0.9):
        tracking.log_table(run_id, "gate", [{"check": "accuracy", "value": value}])

    path = tracking._client.download_artifacts(run_id, "gate.json")
    announced = json.loads(tracking._client.get_run(run_id).data.tags["mlflow.loggedArtifacts"])
    assert json.loads(Path(path).read_text()) == {"columns": ["check", "value"], "data": [["accuracy", 0.9]]}
    assert announced == [{"path": "gate.json", "type": "table"}]


@pytest.fixture
def health() -> Iterator[int]:
    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/mlflow/health" else 503)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Health)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


def connection(monkeypatch: pytest.MonkeyPatch, **fields: object) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_TESTED", json.dumps({"conn_type": "http", **fields}))


def test_credentials_stand_in_the_environment_while_connected(monkeypatch: pytest.MonkeyPatch, health: int) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "of-the-caller")
    connection(monkeypatch, host="127.0.0.1/mlflow", port=health, login="ann", password="hidden")
    with connect("mlflow_tested") as tracking:
        assert tracking.uri == f"http://127.0.0.1:{health}/mlflow"
        assert os.environ["MLFLOW_TRACKING_USERNAME"] == "ann"
        assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "hidden"
        assert "MLFLOW_TRACKING_TOKEN" not in os.environ
        # MLflow's own would retry a server that does not answer for many minutes.
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "60"
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "4"

    assert "MLFLOW_TRACKING_PASSWORD" not in os.environ
    assert os.environ["MLFLOW_TRACKING_TOKEN"] == "of-the-caller"


def test_a_password_alone_is_a_token(monkeypatch: pytest.MonkeyPatch, health: int) -> None:
    connection(monkeypatch, host="http://127.0.0.1/mlflow", port=health, password="token")
    with connect("mlflow_tested"):
        assert os.environ["MLFLOW_TRACKING_TOKEN"] == "token"


@pytest.mark.parametrize(
    ("fields", "error", "said"),
    [
        ({"host": "127.0.0.1", "port": 9}, TrackingUnreachableError, "MLflow at http://127.0.0.1:9 does not answer"),
        ({}, TrackingConnectionError, "it has no host"),
    ],
)
def test_an_unreachable_server_is_named(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, object], error: type[Exception], said: str
) -> None:
    connection(monkeypatch, password="hidden", **fields)

    with pytest.raises(error, match=r"connections\.tracking = 'mlflow_tested'") as raised, connect("mlflow_tested"):
        pass
    assert said in str(raised.value)
    assert "hidden" not in str(raised.value)


def test_a_call_that_was_sent_twice_makes_one_version(
    tracking: TrackingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = tracking._client.create_model_version

    def twice(*given: object, **named: object) -> object:
        create(*given, **named)
        return create(*given, **named)

    monkeypatch.setattr(tracking._client, "create_model_version", twice)

    assert register(tracking, "sent-twice", "sent", images="5") == "1"
    assert register(tracking, "sent-twice", "sent", images="5") == "1"
    assert tracking.version("sent-twice", "1").tags["images"] == "5"
    assert tracking.version("sent-twice", "2").tags == {"duplicate_of": "1"}


def test_what_stands_before_the_host_is_login_and_password_and_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    document = {"conn_type": "http", "host": "http://alice:s3%40cret@127.0.0.1", "port": 9}
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_USERINFO", json.dumps(document))

    uri, credentials = client._read_connection("mlflow_userinfo")

    assert uri == "http://127.0.0.1:9"
    assert credentials == {"MLFLOW_TRACKING_USERNAME": "alice", "MLFLOW_TRACKING_PASSWORD": "s3@cret"}
    with pytest.raises(TrackingUnreachableError) as raised, connect("mlflow_userinfo"):
        pass
    assert "s3" not in "".join(traceback.format_exception(raised.value)).replace("/s3", "")


@pytest.mark.parametrize("host", ["http://h/?token=s3cr3t", "h#s3cr3t", "http://alice:s3/cr3t@h"])
def test_an_address_that_could_carry_a_secret_is_refused_without_showing_it(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_ODD", json.dumps({"conn_type": "http", "host": host}))
    with pytest.raises(TrackingConnectionError) as raised:
        client._read_connection("mlflow_odd")
    assert "cr3t" not in str(raised.value)
