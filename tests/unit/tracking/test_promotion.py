"""What is published is what was judged: against a real MLflow store, of which whoever trains may write every part."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ml_lifecycle.data_lake.client import DataLake
from ml_lifecycle.data_lake.exceptions import NotPublishedError, ServingFilesChangedError
from ml_lifecycle.data_lake.published import keep_evaluation, published
from ml_lifecycle.settings import Settings, parse_settings
from ml_lifecycle.tracking import promotion
from ml_lifecycle.tracking.client import CHAMPION, TrackingClient
from ml_lifecycle.tracking.exceptions import (
    EvaluationUnprovenError,
    EvaluationUnreadableError,
    NotJudgedError,
    PromotionOvertakenError,
)
from ml_lifecycle.tracking.promotion import Verdict, judge_candidate, publish_candidate

pytestmark = pytest.mark.slow  # a database

FILES = {"model.onnx": b"weights", "model.json": b"{}", "golden.json": b'{"cases": []}'}
numbers = itertools.count()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TrackingClient:
    folder = tmp_path_factory.mktemp("mlflow")
    client = TrackingClient(f"sqlite:///{folder}/mlflow.db")
    client._client.create_experiment("tests", artifact_location=(folder / "artifacts").as_uri())
    return client


@pytest.fixture
def tracking(store: TrackingClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> TrackingClient:
    @contextmanager
    def connect(_: str) -> Iterator[TrackingClient]:
        yield store

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(promotion, "connect", connect)
    return store


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return parse_settings({"defaults": {"data_lake": (tmp_path / "lake").as_uri()}}, f"judged-{next(numbers)}")


@pytest.fixture
def lake(settings: Settings) -> DataLake:
    return DataLake(settings.data_lake)


def evaluation(of: str, files: dict[str, bytes], **changes: Any) -> dict[str, Any]:
    return {
        "model": of,
        "accuracy": 0.99,
        "loss": 0.1,
        "calibration_error": 0.02,
        "model_bytes": 1000,
        "latency_ms": {"p50": 1.0, "p95": 2.0},
        "per_class": {"a": 0.99, "b": 0.99},
        "per_class_images": {"a": 200, "b": 200},
        "holdout_images": 400,
        "onnx_difference": 1e-6,
        "champion": None,
        "serving_files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        **changes,
    }


def upload(tracking: TrackingClient, run_id: str, files: dict[str, bytes], folder: Path) -> None:
    scratch = folder / f"artifacts-{next(numbers)}"
    scratch.mkdir()
    for name, content in files.items():
        (scratch / name).write_bytes(content)
    tracking._client.log_artifacts(run_id, str(scratch), "serving")


@pytest.fixture
def trained(tracking: TrackingClient, settings: Settings, lake: DataLake, tmp_path: Path) -> Any:
    """`trained(kept=…)` makes a version as train_model does; what MLflow has of its evaluation counts for nothing."""

    def make(*, kept: bool = True, files: dict[str, bytes] = FILES, **changes: Any) -> str:
        run = tracking.start_run("tests", dag_id="t", dag_run_id=str(next(numbers)), name="t", tags={}).run_id
        found = evaluation(settings.model, files, **changes)
        tracking._client.log_dict(run, found, "evaluation.json")
        upload(tracking, run, files, tmp_path)
        if kept:
            keep_evaluation(lake, run, found, asked_by="trainer")
        return tracking.register_version(settings.model, run_id=run, source="file:///nowhere", tags={}).version

    return make


def publish(settings: Settings, version: str, verdict: Verdict) -> Any:
    return publish_candidate(settings, version, by="run", files=verdict.files, judged_against=verdict.champion)


def champion(tracking: TrackingClient, settings: Settings) -> str | None:
    found = tracking.find_alias(settings.model, CHAMPION)
    return found and found.version


def test_what_was_judged_is_published_with_its_digest(
    tracking: TrackingClient, settings: Settings, lake: DataLake, trained: Any
) -> None:
    version = trained()
    event = publish(settings, version, judge_candidate(settings, version))

    assert event.storage_uri == f"{settings.data_lake}/models/{settings.model}/{version}"
    assert lake.read_bytes(f"{event.storage_uri}/model.onnx") == b"weights"
    assert tracking.version(settings.model, version).tags["digest"] == published(lake, settings.model, version)
    assert champion(tracking, settings) == version


def test_a_tag_that_anybody_may_write_decides_nothing(
    tracking: TrackingClient, settings: Settings, lake: DataLake, trained: Any, tmp_path: Path
) -> None:
    elsewhere = DataLake((tmp_path / "elsewhere").as_uri()).write_serving_files("evil", "1", {"model.onnx": b"evil"})
    version = trained()
    for tag in ("storage_uri", "digest"):
        tracking.tag_version(settings.model, version, {tag: elsewhere})

    event = publish(settings, version, judge_candidate(settings, version))

    assert event.storage_uri == f"{settings.data_lake}/models/{settings.model}/{version}"
    assert lake.read_bytes(f"{event.storage_uri}/model.onnx") == b"weights"
    other = trained()  # nor does it make a version one that was once promoted
    tracking.tag_version(settings.model, other, {"storage_uri": elsewhere})
    with pytest.raises(NotPublishedError):
        judge_candidate(settings, other, reason="I say so")


def test_an_evaluation_that_stands_on_mlflow_alone_proves_nothing(
    tracking: TrackingClient, settings: Settings, trained: Any
) -> None:
    version = trained(kept=False)
    with pytest.raises(EvaluationUnprovenError, match=r"gate\.evaluations"):
        judge_candidate(settings, version)

    trusting = parse_settings(
        {"defaults": {"data_lake": settings.data_lake, "gate": {"evaluations": "mlflow"}}}, settings.model
    )
    publish(trusting, version, judge_candidate(trusting, version))
    assert champion(tracking, settings) == version


def test_a_version_that_others_bring_is_what_it_was_when_it_was_judged(
    tracking: TrackingClient, settings: Settings, trained: Any, tmp_path: Path
) -> None:
    version = trained(kept=False)
    run = tracking.version(settings.model, version).run_id
    foreign = {key: value for key, value in evaluation(settings.model, FILES).items() if key != "serving_files"}
    tracking._client.log_dict(run, foreign, "evaluation.json")
    trusting = parse_settings(
        {"defaults": {"data_lake": settings.data_lake, "gate": {"evaluations": "mlflow"}}}, settings.model
    )
    verdict = judge_candidate(trusting, version)
    upload(tracking, run, {"model.onnx": b"another"}, tmp_path)
    with pytest.raises(NotJudgedError, match=r"model\.onnx"):
        publish(trusting, version, verdict)


@pytest.mark.parametrize(
    "changed", [{"model.onnx": b"another"}, {"golden.json": b"{}"}, {"more.bin": b"a file that nobody evaluated"}]
)
def test_files_that_were_changed_on_mlflow_are_not_published(
    tracking: TrackingClient,
    settings: Settings,
    lake: DataLake,
    trained: Any,
    tmp_path: Path,
    changed: dict[str, bytes],
) -> None:
    version = trained()
    verdict = judge_candidate(settings, version)
    upload(tracking, tracking.version(settings.model, version).run_id, changed, tmp_path)

    with pytest.raises(NotJudgedError, match=next(iter(changed)).replace(".", r"\.")):
        publish(settings, version, verdict)

    assert champion(tracking, settings) is None
    assert not lake.exists(lake.layout.serving_files(settings.model, version))


def test_a_better_evaluation_written_on_mlflow_changes_no_judgement(
    tracking: TrackingClient, settings: Settings, trained: Any
) -> None:
    version = trained(accuracy=0.1)
    run = tracking.version(settings.model, version).run_id
    tracking._client.log_dict(run, evaluation(settings.model, FILES), "evaluation.json")
    assert any("accuracy 0.1 is not" in refusal for refusal in judge_candidate(settings, version).refusals)


@pytest.mark.parametrize(
    "changes", [{"model": "another"}, {"accuracy": "much"}, {"serving_files": None}, {"per_class": 7}]
)
def test_an_evaluation_of_another_model_or_form_is_refused(
    settings: Settings, trained: Any, changes: dict[str, Any]
) -> None:
    with pytest.raises(EvaluationUnreadableError):
        judge_candidate(settings, trained(**changes))


def test_files_that_changed_in_the_data_lake_never_become_champion_again(
    tracking: TrackingClient, settings: Settings, lake: DataLake, trained: Any
) -> None:
    first = trained()
    publish(settings, first, judge_candidate(settings, first))
    tracking.delete_alias(settings.model, CHAMPION)
    uri = lake.layout.serving_files(settings.model, first)
    lake.write_bytes(f"{uri}/model.onnx", b"another")
    forged = {**lake.read_json(f"{uri}/checksums.json"), "model.onnx": hashlib.sha256(b"another").hexdigest()}
    lake.write_bytes(f"{uri}/checksums.json", json.dumps(forged).encode())

    with pytest.raises(ServingFilesChangedError):
        judge_candidate(settings, first, reason="it was good")
    assert champion(tracking, settings) is None


def test_who_trained_it_may_not_approve_it(settings: Settings, trained: Any) -> None:
    gate = {"approval": {"required": True, "by_another": True}}
    asking = parse_settings({"defaults": {"data_lake": settings.data_lake, "gate": gate}}, settings.model)
    asked = judge_candidate(asking, trained(), asker="promoter").question
    assert asked is not None
    assert asked["barred"] == ["promoter", "trainer"]


def test_a_champion_that_comes_before_the_alias_moves_stays(
    tracking: TrackingClient, settings: Settings, trained: Any
) -> None:
    first, late = trained(), trained()
    verdict = judge_candidate(settings, late)
    publish(settings, first, judge_candidate(settings, first))
    with pytest.raises(PromotionOvertakenError, match=f"version {first} became it meanwhile"):
        publish(settings, late, verdict)
    assert champion(tracking, settings) == first


def test_a_try_that_hung_before_the_alias_moved_gives_it_back(
    tracking: TrackingClient, settings: Settings, trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, late = trained(), trained()
    verdicts = {version: judge_candidate(settings, version) for version in (first, late)}
    move = tracking.set_alias

    def hang(model: str, alias: str, version: str) -> None:
        monkeypatch.setattr(tracking, "set_alias", move)
        publish(settings, first, verdicts[first])  # another try, as after the first one's machine stood still
        move(model, alias, version)

    monkeypatch.setattr(tracking, "set_alias", hang)
    with pytest.raises(PromotionOvertakenError, match=f"version {first} became it meanwhile"):
        publish(settings, late, verdicts[late])
    assert champion(tracking, settings) == first


def test_publishing_may_be_repeated(tracking: TrackingClient, settings: Settings, trained: Any) -> None:
    version = trained()
    verdict = judge_candidate(settings, version)
    assert publish(settings, version, verdict) == publish(settings, version, verdict)
    assert champion(tracking, settings) == version
