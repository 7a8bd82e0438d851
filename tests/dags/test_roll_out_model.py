"""roll_out_model by `dag.test()`: the Kubernetes stand-in with its controllers, MLflow on SQLite, counted traffic."""

import json
import os
from contextlib import contextmanager
from urllib.parse import quote

import pytest
from airflow.sdk import BaseNotifier

from ml_lifecycle.tracking import client as tracking_client
from ml_lifecycle.tracking import rollout_aliases
from tests.faults.rollout_world import FAST, IMAGE, MODEL, Behaviour, world

SMOKE_TEST = """
import pathlib, sys
golden = sys.argv[sys.argv.index("--golden") + 1]
print("asking", *sys.argv[1:], pathlib.Path(golden).read_text(), flush=True)
sys.exit("wrong answers" if "wrong" in pathlib.Path(golden).read_text() else 0)
"""


class Recorder(BaseNotifier):
    """Keeps the subjects and the body that it is told, then fails where it was told to."""

    told: list = []  # noqa: RUF012

    def __init__(self, fails=False):
        super().__init__()
        self.fails = fails

    def notify(self, context):
        self.told.append(context["message"])
        if self.fails:
            raise ConnectionError("nobody listens")


pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(request, tmp_path, monkeypatch):
    """In Knative mode, unless a test asks for another by its parameter."""
    image = tmp_path / "image" / "serving"
    image.mkdir(parents=True)
    (image / "smoke_test.py").write_text(SMOKE_TEST)
    with world(tmp_path, monkeypatch, image=image.parent, mode=getattr(request, "param", "Knative")) as made:
        overlay = {}
        for path, value in FAST.items():
            section, _, key = path.partition(".")
            overlay.setdefault(section, {})[key] = value
        overlay["serving"]["image"] = IMAGE
        overlay["rollout"]["notifiers"] = [{"notifier": f"{__name__}.Recorder"}]
        Recorder.told.clear()
        monkeypatch.setenv("AIRFLOW__API__BASE_URL", "http://airflow.example.org")
        document = {"defaults": {"data_lake": f"file://{made.lake}", **overlay}}
        monkeypatch.setenv("AIRFLOW_VAR_ML_LIFECYCLE", json.dumps(document))
        yield made


@pytest.fixture
def registry(tmp_path, monkeypatch, cluster):
    """MLflow's registry with promoted versions 1, 2 and 3; `connect` leads to it."""
    client = tracking_client.TrackingClient(f"sqlite:///{tmp_path}/mlflow.db")
    import mlflow

    store = mlflow.MlflowClient(client.uri)
    store.create_registered_model(MODEL)
    for version in ("1", "2", "3"):
        run = store.create_run(
            store.create_experiment(f"training-{version}", artifact_location=(tmp_path / "artifacts").as_uri())
        )
        store.create_model_version(MODEL, source="file:///nowhere", run_id=run.info.run_id)
        cluster.version(version)
    store.set_registered_model_alias(MODEL, "champion", "1")

    @contextmanager
    def connect(_):
        yield client

    monkeypatch.setattr(tracking_client, "connect", connect)
    monkeypatch.setattr(rollout_aliases, "connect", connect)
    return client


def test_first_version_then_canary_then_roll_back(cluster, registry, run_dag, states, xcom):
    first = run_dag("roll_out_model.py", "roll_out_model", {"model": MODEL})
    assert set(states(first).values()) == {"success"}, states(first)
    assert registry.find_alias(MODEL, "live").version == "1"

    second = run_dag("roll_out_model.py", "roll_out_model", {"model": MODEL, "version": "2"})
    report = xcom(second, "roll_out.close", map_index=0)
    assert (second.state, report["outcome"], report["kind"]) == ("success", "promoted", "canary")
    assert [step["percent"] for step in report["steps"]] == [10, 50]
    assert registry.find_alias(MODEL, "live").version == "2"
    assert registry.find_alias(MODEL, "champion").version == "2"
    picture = registry.read_artifacts(report["run_id"], "rollout")["version-2.svg"].decode()
    assert "version 2 beside version 1: promoted" in picture
    assert Recorder.told[-1].subject == f"{MODEL} version 2 was promoted and serves all traffic"

    registry.set_alias(MODEL, "champion", "3")
    cluster.traffic.behaviours["digits-predictor-00003"] = Behaviour(errors=0.2)
    third = run_dag("roll_out_model.py", "roll_out_model", {"model": MODEL})
    ended = states(third)
    assert third.state == "failed"
    assert (ended["roll_out.canary[0]"], ended["roll_out.close[0]"]) == ("failed", "success")
    report = xcom(third, "roll_out.close", map_index=0)
    assert report["outcome"] == "rolled_back"
    assert "canary requests failed" in report["reason"]
    assert list(registry.read_artifacts(report["run_id"], "rollout")) == ["version-3.svg"]
    assert ended["roll_out.notify[0]"] == "success"
    assert Recorder.told[-1].subject == f"{MODEL} version 3 was rolled back"
    assert f"/dags/roll_out_model/runs/{quote(third.run_id, safe='')}" in Recorder.told[-1].body
    assert f"picture rollout/version-3.svg: {registry.run_url(report['run_id'])}" in Recorder.told[-1].body
    assert registry.find_alias(MODEL, "live").version == "2"
    assert registry.find_alias(MODEL, "champion").version == "2"
    assert cluster.is_clean()

    cluster.publish("3", golden_json='{"cases": ["wrong"]}')
    fourth = run_dag("roll_out_model.py", "roll_out_model", {"model": MODEL, "version": "3"})
    ended = states(fourth)
    assert (ended["roll_out.smoke_test[0]"], ended["roll_out.canary[0]"]) == ("failed", "upstream_failed")
    assert "smoke test" in xcom(fourth, "roll_out.close", map_index=0)["reason"]
    assert not any(cluster.traffic.served["digits-predictor-00005"])
    assert cluster.is_clean()


@pytest.mark.parametrize("cluster", ["Standard"], indirect=True)
def test_in_standard_mode_a_version_goes_live_beside_the_stable_one(cluster, registry, run_dag, states, xcom):
    run_dag("roll_out_model.py", "roll_out_model", {"model": MODEL})
    assert registry.find_alias(MODEL, "live").version == "1"
    second = run_dag("roll_out_model.py", "roll_out_model", {"model": MODEL, "version": "2"})
    assert set(states(second).values()) == {"success"}, states(second)
    report = xcom(second, "roll_out.close", map_index=0)
    assert (report["kind"], report["revisions"]["live"]) == ("canary", "digits-v2-predictor")
    assert xcom(second, "roll_out.open", map_index=0)["url"] == "http://digits-v2-predictor.models.svc.cluster.local"
    assert [registry.find_alias(MODEL, alias).version for alias in ("live", "champion")] == ["2", "2"]
    assert cluster.is_clean()


def test_a_first_version_that_fails_its_smoke_test_is_no_longer_champion(cluster, registry, run_dag, states):
    cluster.publish("1", golden_json='{"cases": ["wrong"]}')
    run = run_dag("roll_out_model.py", "roll_out_model", {"model": MODEL})
    assert (run.state, states(run)["roll_out.smoke_test[0]"]) == ("failed", "failed")
    assert registry.find_alias(MODEL, "champion") is None
    assert registry.find_alias(MODEL, "live") is None
    assert registry.version(MODEL, "1").tags["rollout"] == "rolled_back"
    assert cluster.service is None


def test_what_cannot_be_rolled_out_is_refused_before_anything_is_changed(cluster, registry, run_dag, states, xcom):
    (cluster.lake / "models" / MODEL / "2" / "model.onnx").unlink()
    run = run_dag("roll_out_model.py", "roll_out_model", {"model": MODEL, "version": "2"})
    ended = states(run)
    assert (run.state, ended["roll_out.open[0]"], ended["roll_out.close[0]"]) == ("failed", "failed", "success")
    assert xcom(run, "roll_out.close", map_index=0)["outcome"] == "not_opened"
    assert (cluster.service, cluster.lease) == (None, None)
    assert [message.subject for message in Recorder.told] == [f"{MODEL} version 2 was not rolled out"]


def test_a_version_whose_training_run_was_deleted_goes_live_without_a_picture(
    cluster, registry, run_dag, states, caplog
):
    for version in ("1", "2"):
        run_id = registry.version(MODEL, version).run_id
        registry._client.delete_run(run_id)
        registry._client._tracking_client.store._hard_delete_run(run_id)  # as `mlflow gc` does
        run = run_dag("roll_out_model.py", "roll_out_model", {"model": MODEL, "version": version})
        assert run.state == "success", states(run)
    assert "the rollout has no picture" in caplog.text
    assert registry.find_alias(MODEL, "live").version == "2"


def test_a_notifier_that_fails_is_seen_and_changes_nothing(cluster, registry, run_dag, states, monkeypatch):
    document = json.loads(os.environ["AIRFLOW_VAR_ML_LIFECYCLE"])
    broken = {"notifier": f"{__name__}.Recorder", "arguments": {"fails": True}}
    document["defaults"]["rollout"]["notifiers"] = [{"notifier": "no.such.Notifier"}, broken]
    monkeypatch.setenv("AIRFLOW_VAR_ML_LIFECYCLE", json.dumps(document))
    run = run_dag("roll_out_model.py", "roll_out_model", {"model": MODEL})
    ended = states(run)
    assert (ended["roll_out.publish[0]"], ended["roll_out.notify[0]"], run.state) == ("success", "failed", "success")
    assert len(Recorder.told) == 1
    assert registry.find_alias(MODEL, "live").version == "1"


@pytest.mark.usefixtures("no_asset_events")
def test_without_a_model_and_without_an_event_there_is_nothing_to_do(cluster, registry, run_dag, states):
    run = run_dag("roll_out_model.py", "roll_out_model", {})
    assert (run.state, states(run)["champions"]) == ("success", "success")
    assert cluster.service is None
