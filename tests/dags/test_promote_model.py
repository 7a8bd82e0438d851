"""promote_model by `dag.test()`: a real MLflow server and a data lake in a folder."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from ml_lifecycle.tracking.client import TrackingClient

pytestmark = pytest.mark.slow

GOOD = {"holdout_accuracy": 0.9, "holdout_loss": 0.3, "onnx_difference": 1e-6}
numbers = itertools.count()


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    document = {"defaults": {"data_lake": (tmp_path / "lake").as_uri(), "gate": {"min_accuracy": 0.8}}}
    monkeypatch.setenv("AIRFLOW_VAR_ML_LIFECYCLE", json.dumps(document))
    return tmp_path / "lake"


@pytest.fixture
def tracking(tracking_connection: str) -> TrackingClient:
    return TrackingClient(tracking_connection)


@pytest.fixture
def model() -> str:
    return f"promoted-{next(numbers)}"


def trained(tracking: TrackingClient, model: str, folder: Path, compared_with: str = "none", **metrics: float) -> str:
    """A version as train_model leaves it: metrics and serving files on its run, registered as challenger."""
    run = tracking.start_run("tests", dag_id="t", dag_run_id=f"{model}-{next(numbers)}", name=model, tags={})
    for name, value in (GOOD | metrics).items():
        tracking._client.log_metric(run.run_id, name, value)
    files = folder / run.run_id
    files.mkdir()
    for name, content in {"model.onnx": run.run_id, "model.json": "{}", "golden.json": "{}"}.items():
        (files / name).write_text(content)
    tracking._client.log_artifacts(run.run_id, str(files), "serving")
    source = tracking._client.get_run(run.run_id).info.artifact_uri + "/serving"
    made = tracking.register_version(model, run_id=run.run_id, source=source, tags={"compared_with": compared_with})
    tracking.set_alias(model, "challenger", made.version)
    return made.version


def champion(tracking: TrackingClient, model: str) -> str | None:
    found = tracking.find_alias(model, "champion")
    return found and found.version


def test_first_better_worse_and_back(
    lake: Path, tracking: TrackingClient, model: str, tmp_path: Path, run_dag: Any, states: Any, xcom: Any
) -> None:
    trained(tracking, model, tmp_path)
    first = run_dag("promote_model.py", "promote_model", {"model": model})
    assert first.state == "success"
    assert champion(tracking, model) == "1"
    version = tracking.version(model, "1")
    assert version.storage_uri == f"{lake.as_uri()}/models/{model}/1"
    assert (lake / "models" / model / "1" / "model.onnx").read_text() == version.run_id
    assert version.tags["gate"] == "passed"
    event = xcom(first, "promote.publish", map_index=0)
    assert (event["version"], event["storage_uri"]) == ("1", version.storage_uri)
    assert event["metrics"] == {"accuracy": 0.9, "loss": 0.3}

    worse = {"holdout_accuracy": 0.85, "champion_accuracy": 0.9}
    trained(tracking, model, tmp_path, compared_with="1", **worse)
    refused = run_dag("promote_model.py", "promote_model", {"model": model, "version": "2"})
    assert refused.state == "success"
    assert states(refused)["promote.judge[0]"] == "skipped"
    assert states(refused)["promote.publish[0]"] == "skipped"
    assert champion(tracking, model) == "1"
    evidence = tracking.version(model, "2").tags
    assert evidence["gate"] == "refused"
    assert "0.85 is not >= 0.9, by 0.05" in evidence["gate.accuracy_against_champion"]
    assert "gate.json" in [file.path for file in tracking._client.list_artifacts(tracking.version(model, "2").run_id)]
    assert not (lake / "models" / model / "2").exists()

    trained(tracking, model, tmp_path, compared_with="1", holdout_accuracy=0.95, champion_accuracy=0.9)
    assert run_dag("promote_model.py", "promote_model", {"model": model}).state == "success"
    assert champion(tracking, model) == "3"

    back = run_dag("promote_model.py", "promote_model", {"model": model, "version": "1", "reason": "3 is too slow"})
    assert back.state == "success"
    assert champion(tracking, model) == "1"
    tags = tracking.version(model, "1").tags
    assert (tags["gate"], tags["promotion_reason"]) == ("by hand", "3 is too slow")


def test_publishing_again_changes_nothing(
    lake: Path, tracking: TrackingClient, model: str, tmp_path: Path, run_dag: Any, states: Any
) -> None:
    trained(tracking, model, tmp_path)
    run_dag("promote_model.py", "promote_model", {"model": model})
    before = {file: file.stat().st_ino for file in (lake / "models" / model / "1").glob("model*")}

    again = run_dag("promote_model.py", "promote_model", {"model": model})

    assert set(states(again).values()) == {"success"}
    assert {file: file.stat().st_ino for file in before} == before
    assert champion(tracking, model) == "1"


def test_a_damaged_publication_never_becomes_champion(
    lake: Path, tracking: TrackingClient, model: str, tmp_path: Path, run_dag: Any
) -> None:
    trained(tracking, model, tmp_path)
    run_dag("promote_model.py", "promote_model", {"model": model})
    trained(tracking, model, tmp_path, compared_with="1", champion_accuracy=0.5)
    run_dag("promote_model.py", "promote_model", {"model": model})
    (lake / "models" / model / "1" / "model.onnx").write_text("damaged")

    back = run_dag("promote_model.py", "promote_model", {"model": model, "version": "1", "reason": "why not"})

    assert back.state == "failed"
    assert champion(tracking, model) == "2"


@pytest.mark.parametrize(
    ("conf", "said"),
    [
        ({"model": "nobody"}, "model = 'nobody' has no version under the alias challenger"),
        ({"version": "3"}, "version = '3' needs the param model"),
        ({"model": "digits", "reason": "because"}, "reason promotes by hand and needs the params model and version"),
        ({"model": "digits", "version": "1", "min_accuracy": 0.5, "max_loss": 0.1}, "no version '1'"),
    ],
)
def test_bad_input_is_refused(
    lake: Path,
    tracking: TrackingClient,
    run_dag: Any,
    capsys: pytest.CaptureFixture[str],
    conf: dict[str, Any],
    said: str,
) -> None:
    assert run_dag("promote_model.py", "promote_model", conf).state == "failed"
    assert said in "".join(capsys.readouterr())
