"""promote_model by `dag.test()`: a real MLflow server and a data lake in a folder."""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ml_lifecycle.data_lake.client import DataLake
from ml_lifecycle.data_lake.published import keep_evaluation
from ml_lifecycle.settings import parse_settings
from ml_lifecycle.tracking.approval import Ruling
from ml_lifecycle.tracking.client import TrackingClient
from ml_lifecycle.tracking.promotion import judge_candidate, objection, publish_candidate

pytestmark = pytest.mark.slow

IMAGES = 400
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


FILES = {"model.onnx": "weights", "model.json": "{}", "golden.json": "{}"}


def evaluation(accuracy: float, champion: str | None, gained: int, lost: int) -> dict[str, Any]:
    """What the evaluate job finds; of the images on which the models disagree the challenger has `gained` right."""
    right = round(accuracy * IMAGES)
    paired = {
        "both_right": right - gained,
        "only_challenger_right": gained,
        "only_champion_right": lost,
        "both_wrong": IMAGES - right - lost,
    }
    own = {"loss": 0.3, "calibration_error": 0.02, "model_bytes": 1_000_000, "latency_ms": {"p50": 1.0, "p95": 2.0}}
    rival = {"version": champion, "accuracy": (right - gained + lost) / IMAGES, **own, "paired": paired}
    return {
        "accuracy": accuracy,
        **own,
        "per_class": {"0": accuracy, "1": accuracy},
        "per_class_images": {"0": 200, "1": 200},
        "holdout_images": IMAGES,
        "onnx_difference": 1e-6,
        "champion": rival if champion else None,
    }


def trained(
    tracking: TrackingClient,
    model: str,
    folder: Path,
    accuracy: float = 0.9,
    champion: str | None = None,
    gained: int = 0,
    lost: int = 0,
) -> str:
    """A version as train_model leaves it: its evaluation and serving files on its run, registered as challenger."""
    run = tracking.start_run("tests", dag_id="t", dag_run_id=f"{model}-{next(numbers)}", name=model, tags={})
    found = {"model": model, **evaluation(accuracy, champion, gained, lost)}
    contents = {**FILES, "model.onnx": run.run_id}
    digests = {name: hashlib.sha256(content.encode()).hexdigest() for name, content in contents.items()}
    keep_evaluation(DataLake((folder / "lake").as_uri()), run.run_id, {**found, "serving_files": digests}, asked_by="")
    for name in ("accuracy", "loss"):
        tracking._client.log_metric(run.run_id, f"holdout_{name}", found[name])
    files = folder / run.run_id
    files.mkdir()
    for name, content in contents.items():
        (files / name).write_text(content)
    tracking._client.log_artifacts(run.run_id, str(files), "serving")
    source = tracking._client.get_run(run.run_id).info.artifact_uri + "/serving"
    made = tracking.register_version(model, run_id=run.run_id, source=source, tags={})
    tracking.set_alias(model, "challenger", made.version)
    return made.version


def champion(tracking: TrackingClient, model: str) -> str | None:
    found = tracking.find_alias(model, "champion")
    return found and found.version


def with_approval(lake: Path) -> str:
    """The Variable, with a person's word required."""
    gate = {"min_accuracy": 0.8, "approval": {"required": True, "timeout_hours": 2}}
    return json.dumps({"defaults": {"data_lake": lake.as_uri(), "gate": gate}})


def test_first_better_worse_and_back(
    lake: Path,
    tracking: TrackingClient,
    model: str,
    tmp_path: Path,
    run_dag: Any,
    states: Any,
    xcom: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained(tracking, model, tmp_path)
    first = run_dag("promote_model.py", "promote_model", {"model": model})
    assert first.state == "success"
    assert champion(tracking, model) == "1"
    version = tracking.version(model, "1")
    storage_uri = f"{lake.as_uri()}/models/{model}/1"
    assert version.tags["storage_uri"] == storage_uri
    assert (lake / "models" / model / "1" / "model.onnx").read_text() == version.run_id
    assert version.tags["gate"] == "passed"
    event = xcom(first, "promote.publish", map_index=0)
    assert (event["version"], event["storage_uri"]) == ("1", storage_uri)
    assert event["metrics"] == {"accuracy": 0.9, "loss": 0.3}

    trained(tracking, model, tmp_path, accuracy=0.85, champion="1", gained=2, lost=22)
    refused = run_dag("promote_model.py", "promote_model", {"model": model, "version": "2"})
    assert refused.state == "success"
    assert states(refused)["promote.judge[0]"] == "skipped"
    assert states(refused)["promote.approve[0]"] == "skipped"
    assert states(refused)["promote.publish[0]"] == "skipped"
    assert champion(tracking, model) == "1"
    evidence = tracking.version(model, "2").tags
    assert evidence["gate"] == "refused"
    assert "accuracy_against_champion -0.05, at least -0.07" in evidence["gate.accuracy_against_champion"]
    assert "2 gained and 22 lost" in evidence["gate.accuracy_against_champion"]
    assert "gate.json" in [file.path for file in tracking._client.list_artifacts(tracking.version(model, "2").run_id)]
    assert not (lake / "models" / model / "2").exists()

    trained(tracking, model, tmp_path, accuracy=0.95, champion="1", gained=25, lost=5)
    assert run_dag("promote_model.py", "promote_model", {"model": model}).state == "success"
    assert champion(tracking, model) == "3"
    assert tracking.version(model, "3").tags["gate.approval"] == "not required"

    monkeypatch.setenv("AIRFLOW_VAR_ML_LIFECYCLE", with_approval(lake))  # a reason is not asked about
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


def test_files_are_arranged_for_the_runtime_that_will_serve_them(
    lake: Path, tracking: TrackingClient, model: str, tmp_path: Path
) -> None:
    version = trained(tracking, model, tmp_path)
    triton = {"data_lake": lake.as_uri(), "serving": {"runtime": "triton-onnx"}}
    settings = parse_settings({"defaults": triton}, model)
    files = judge_candidate(settings, version).files
    event = publish_candidate(settings, version, by="tests", files=files, judged_against=None)
    published = lake / "models" / model / version
    assert event.storage_uri == published.as_uri()
    files = {file.relative_to(published).as_posix() for file in published.rglob("*") if file.is_file()}
    assert files == {f"{model}/1/model.onnx", "model.json", "golden.json", "checksums.json"}


def test_a_damaged_publication_never_becomes_champion(
    lake: Path, tracking: TrackingClient, model: str, tmp_path: Path, run_dag: Any
) -> None:
    trained(tracking, model, tmp_path)
    run_dag("promote_model.py", "promote_model", {"model": model})
    trained(tracking, model, tmp_path, champion="1", gained=20)
    run_dag("promote_model.py", "promote_model", {"model": model})
    (lake / "models" / model / "1" / "model.onnx").write_text("damaged")

    back = run_dag("promote_model.py", "promote_model", {"model": model, "version": "1", "reason": "why not"})

    assert back.state == "failed"
    assert champion(tracking, model) == "2"


def test_a_champion_that_came_meanwhile_makes_a_judgement_stale(
    lake: Path, tracking: TrackingClient, model: str, tmp_path: Path
) -> None:
    for _ in range(3):
        trained(tracking, model, tmp_path)
    tracking.set_alias(model, "champion", "2")
    settings = parse_settings({"defaults": {"data_lake": lake.as_uri()}}, model)
    ruling = Ruling(approved=True, words="approved by ann")

    said = objection(settings, "3", judged_against="1", ruling=ruling)

    assert said == (
        "the judgement is stale: it compared with champion 1, which meanwhile is 2; run promote_model for it again"
    )
    tags = tracking.version(model, "3").tags
    assert (tags["gate"], tags["gate.approval"]) == ("refused", "approved by ann")
    assert objection(settings, "3", judged_against="2", ruling=ruling) is None
    assert objection(settings, "2", judged_against="1", ruling=ruling) is None  # an attempt of its own went so far


def test_marking_the_question_as_success_is_no_approval_and_no_param_takes_it_away(
    lake: Path,
    tracking: TrackingClient,
    model: str,
    tmp_path: Path,
    run_dag: Any,
    states: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AIRFLOW_VAR_ML_LIFECYCLE", with_approval(lake))
    trained(tracking, model, tmp_path)

    marked = run_dag("promote_model.py", "promote_model", {"model": model}, mark_success_pattern="promote.approve")

    assert states(marked)["promote.publish[0]"] == "skipped"
    assert champion(tracking, model) is None
    said = tracking.version(model, "1").tags["gate.approval"]
    assert said == "not approved: the task was marked as success, which names no person"
    for loosened in ({"approval": False}, {"min_accuracy": 0.1}):
        assert run_dag("promote_model.py", "promote_model", {"model": model, **loosened}).state == "failed"
    assert champion(tracking, model) is None


def answer_when_asked(model: str, chosen: str, user: str | None, seen: list[dict[str, Any]]) -> None:
    """Do what the API does when a person answers, or the scheduler when nobody has (`user` None)."""
    from airflow.models.hitl import HITLDetail
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.trigger import handle_event_submit
    from airflow.sdk import timezone
    from airflow.triggers.base import TriggerEvent
    from airflow.utils.session import create_session

    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with create_session() as session:
            asked = session.query(HITLDetail).filter(HITLDetail.subject.contains(model)).one_or_none()
            task = asked and session.get(TaskInstance, asked.ti_id)
            if task and task.state == "awaiting_input":
                seen.append({"body": asked.body, "defaults": asked.defaults, "options": asked.options})
                asked.responded_by = user and {"id": user, "name": user}
                asked.responded_at = timezone.utcnow()
                asked.chosen_options = [chosen]
                event = TriggerEvent(asked.as_resume_event_payload(timedout=user is None))
                handle_event_submit(event, task_instance=task, session=session)
                return
        time.sleep(0.2)


@pytest.mark.parametrize(
    ("chosen", "user", "tag", "state"),
    [
        ("Approve", "ann", "approved by ann", "success"),
        ("Reject", "ann", "rejected by ann", "skipped"),
        ("Reject", None, "rejected by default: no answer within 2 h", "skipped"),
    ],
)
def test_a_person_has_the_last_word(
    lake: Path,
    tracking: TrackingClient,
    model: str,
    tmp_path: Path,
    run_dag: Any,
    states: Any,
    monkeypatch: pytest.MonkeyPatch,
    chosen: str,
    user: str | None,
    tag: str,
    state: str,
) -> None:
    monkeypatch.setenv("AIRFLOW_VAR_ML_LIFECYCLE", with_approval(lake))
    trained(tracking, model, tmp_path)
    seen: list[dict[str, Any]] = []
    person = threading.Thread(target=answer_when_asked, args=(model, chosen, user, seen), daemon=True)
    person.start()

    run = run_dag("promote_model.py", "promote_model", {"model": model})
    person.join(timeout=10)

    assert run.state == "success"
    assert states(run)["promote.approve[0]"] == "success"
    assert states(run)["promote.publish[0]"] == state
    assert tracking.version(model, "1").tags["gate.approval"] == tag
    assert champion(tracking, model) == ("1" if state == "success" else None)
    assert (seen[0]["defaults"], seen[0]["options"]) == (["Reject"], ["Approve", "Reject"])
    assert "| accuracy | 0.9 |" in seen[0]["body"]


@pytest.mark.parametrize(
    ("conf", "said"),
    [
        ({"model": "nobody"}, "model = 'nobody' has no version under the alias challenger"),
        ({"version": "3"}, "version = '3' needs the param model"),
        ({"model": "digits", "reason": "because"}, "reason promotes by hand and needs the params model and version"),
        ({"model": "digits", "version": "1", "min_accuracy": 0.85, "max_loss": 0.1}, "no version '1'"),
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
