"""The operators around the triggers: what they defer to, what they make of events, what they refuse."""

import asyncio
import json
import shutil

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException, TaskDeferred

from ml_lifecycle import deferral
from ml_lifecycle.data_lake.client import DataLake
from ml_lifecycle.data_lake.published import keep_promotion
from ml_lifecycle.kserve.exceptions import RolloutError, RolloutRefusedError, RolloutStuckError
from ml_lifecycle.kserve.operators import (
    CanaryOperator,
    CloseRolloutOperator,
    OpenRolloutOperator,
    RollBackOperator,
    SweepRolloutsOperator,
    close_rollout,
    open_rollout,
    sweep_rollouts,
)
from ml_lifecycle.kserve.request import RolloutRequest
from ml_lifecycle.kserve.smoke_test import SmokeTestOperator, arguments
from ml_lifecycle.kserve.triggers import CloseTrigger
from ml_lifecycle.settings import parse_settings
from tests.unit.kserve.kserve_status import GOOD


class Run:
    dag_id, run_id = "roll_out_model", "manual"


class Try:
    try_number = 1


CONTEXT = {"dag_run": Run(), "ti": Try()}


@pytest.fixture
def rollout(tmp_path):
    lake = f"file://{tmp_path}"
    settings = parse_settings({"defaults": {"data_lake": lake}}, "digits", {"serving.ingress": "http://127.0.0.1:8081"})
    return RolloutRequest.of(settings, version="2").to_json()


def test_whom_to_tell_travels_neither_between_tasks_nor_on_the_lease():
    notifiers = [{"notifier": "a.B", "arguments": {"to": "team@example.org"}}]
    defaults = {"data_lake": "file:///lake", "rollout": {"notifiers": notifiers, "floor": 0.5}}
    request = RolloutRequest.of(parse_settings({"defaults": defaults}, "digits"), version="2")
    assert "example.org" not in json.dumps(request.to_json())
    assert request.rollout.floor == 0.5


def test_a_request_survives_json(rollout):
    request = RolloutRequest.model_validate(rollout)
    assert request.to_json() == rollout
    assert (request.plan.canary_steps, request.lease_seconds) == ((10, 25, 50), 600)
    assert request.limits.margin == 1.5


def test_closing_that_is_not_over_soon_defers_to_a_trigger_that_survives_its_serialisation(rollout, monkeypatch):
    async def silence(trigger):
        await asyncio.sleep(60)

    monkeypatch.setattr(deferral, "first_event", silence)
    monkeypatch.setattr(close_rollout, "PATIENCE_SECONDS", 0.05)
    operator = CloseRolloutOperator(task_id="close", rollout=rollout, deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(CONTEXT)
    path, given = deferred.value.trigger.serialize()
    assert path == "ml_lifecycle.kserve.triggers.CloseTrigger"
    assert given["holder"] == "roll_out_model/manual"
    assert CloseTrigger(**given).serialize() == (path, given)
    assert deferred.value.method_name == "resume"


def test_closing_that_is_over_soon_is_not_deferred(rollout, monkeypatch):
    async def absent(trigger):
        return {"status": "absent"}

    monkeypatch.setattr(deferral, "first_event", absent)
    report = CloseRolloutOperator(task_id="close", rollout=rollout, deferrable=True).execute(CONTEXT)
    assert report["outcome"] == "not_opened"


def test_without_the_triggerer_the_same_trigger_runs_in_the_task(rollout, monkeypatch):
    async def first_event(trigger):
        return {"status": "absent", "trigger": type(trigger)}

    monkeypatch.setattr(deferral, "first_event", first_event)
    report = CloseRolloutOperator(task_id="close", rollout=rollout, deferrable=False).execute(CONTEXT)
    assert report["outcome"] == "not_opened"


def test_missing_serving_files_are_refused_by_name(rollout, tmp_path):
    publish(rollout, tmp_path, model_onnx="onnx")
    with pytest.raises(AirflowFailException, match=r"version 2 of 'digits' has no model\.json, golden\.json in file:"):
        OpenRolloutOperator(task_id="open", rollout=rollout).execute(CONTEXT)


def test_a_decision_other_than_promoted_fails_without_a_retry(rollout):
    operator = CanaryOperator(task_id="canary", rollout=rollout)
    promoted = {"status": "decided", "decision": "promoted", "reason": "clean"}
    assert operator.resume(CONTEXT, promoted) == {"decision": "promoted", "reason": "clean"}
    with pytest.raises(AirflowFailException, match="rolled_back: errors"):
        operator.resume(CONTEXT, {"status": "decided", "decision": "rolled_back", "reason": "errors"})


def test_only_what_may_pass_is_tried_again(rollout):
    operator = OpenRolloutOperator(task_id="open", rollout=rollout)
    with pytest.raises(AirflowFailException, match="never ready"):
        operator.resume(CONTEXT, {"status": "failed", "reason": "never ready"})
    with pytest.raises(RolloutError, match="no answer"):
        operator.resume(CONTEXT, {"status": "failed", "reason": "no answer", "transient": True})


def test_a_teardown_that_failed_is_tried_again(rollout):
    with pytest.raises(RolloutError, match="stuck"):
        CloseRolloutOperator(task_id="close", rollout=rollout).resume(CONTEXT, {"status": "failed", "reason": "stuck"})


def test_the_smoke_test_asks_the_revision_by_way_of_the_ingress(rollout):
    revision = {"revision": GOOD, "url": "http://latest-digits-predictor-models.localhost"}
    operator = SmokeTestOperator(task_id="smoke_test", rollout=rollout, revision=revision)
    operator._configure()
    assert operator.arguments == [
        *("--url", revision["url"], "--model", "digits", "--golden", "/golden/golden.json"),
        *("--protocol", "v2", "--cases", "images", "--connect", "http://127.0.0.1:8081"),
    ]
    assert (operator.namespace, operator.image) == ("models", "ml-lifecycle/serving:1.0.0")
    assert operator.volumes[0].config_map.name == "digits-golden-2"


def test_the_smoke_test_of_another_runtime_runs_in_our_image(rollout):
    rollout["serving"] |= {"runtime": "sklearn", "smoke_test_latency_ms": 250, "ingress": None}
    operator = SmokeTestOperator(task_id="smoke_test", rollout=rollout, revision={"revision": GOOD, "url": "http://x"})
    operator._configure()
    assert operator.image == "ml-lifecycle/serving:1.0.0"
    assert operator.arguments[6:] == ["--protocol", "v1", "--cases", "requests", "--latency-budget", "0.25"]


def publish(rollout, tmp_path, **files):
    """What promote_model leaves of a version: files named with `_` for the dot and `__` for the slash."""
    lake = DataLake(f"file://{tmp_path}")
    shutil.rmtree(tmp_path / "models", ignore_errors=True)
    named = {name.replace("__", "/").replace("_", "."): content.encode() for name, content in files.items()}
    lake.write_serving_files("digits", "2", named)


def opening(rollout, monkeypatch):
    """What `open` takes along as golden cases."""
    taken = []

    async def opening(_, golden, __):
        taken.append(json.loads(golden))
        raise RolloutRefusedError("far enough")

    monkeypatch.setattr(open_rollout, "_open", opening)
    with pytest.raises(AirflowFailException, match="far enough"):
        OpenRolloutOperator(task_id="open", rollout=rollout).execute(CONTEXT)
    return taken[0]


def test_a_version_that_others_bring_may_have_no_golden_cases(rollout, tmp_path, monkeypatch):
    rollout["serving"]["runtime"] = "sklearn"
    publish(rollout, tmp_path, model_pkl="estimator")
    assert opening(rollout, monkeypatch) == {"cases": []}
    publish(rollout, tmp_path, model_pkl="estimator", golden_json='{"cases": [{"request": {}, "response": {}}]}')
    assert opening(rollout, monkeypatch) == {"cases": [{"request": {}, "response": {}}]}


def test_triton_is_asked_by_what_the_preprocessing_makes_of_golden_images(rollout, tmp_path, monkeypatch):
    rollout["serving"]["runtime"] = "triton-onnx"
    described = '{"preprocessing": {"image_size": 8}}'
    publish(rollout, tmp_path, digits__1__model_onnx="onnx", golden_json='{"cases": []}', model_json=described)
    assert opening(rollout, monkeypatch)["model"] == {"preprocessing": {"image_size": 8}}


def test_a_version_made_for_another_runtime_is_refused_with_what_it_lacks(rollout, tmp_path):
    rollout["serving"]["runtime"] = "triton-onnx"
    publish(rollout, tmp_path, model_onnx="{}", model_json="{}", golden_json="{}")
    with pytest.raises(AirflowFailException, match=r"has no digits/1/model\.onnx in .*runtime = 'triton-onnx' needs"):
        OpenRolloutOperator(task_id="open", rollout=rollout).execute(CONTEXT)


def test_without_an_ingress_the_address_must_resolve(rollout):
    rollout["serving"]["ingress"] = None
    assert "--connect" not in arguments(RolloutRequest.model_validate(rollout), "http://x")


@pytest.mark.parametrize(
    ("swept", "left", "ends"),
    [
        ([], [], AirflowSkipException),
        ([], ["digits: stuck"], RolloutStuckError),
        ([{"model": "digits"}], ["letters: stuck"], None),
    ],
)
def test_a_sweep_never_loses_the_report_of_what_it_closed(monkeypatch, swept, left, ends):
    async def sweep(*_, **__):
        return swept, left

    monkeypatch.setattr(sweep_rollouts, "_sweep", sweep)
    operator = SweepRolloutsOperator(task_id="sweep_rollouts")
    if ends is None:
        assert operator.execute(CONTEXT) == swept
    else:
        with pytest.raises(ends):
            operator.execute(CONTEXT)


def test_a_dry_sweep_says_what_it_would_close(monkeypatch):
    async def sweep(*_, **__):
        return [{"model": "digits"}], []

    monkeypatch.setattr(sweep_rollouts, "_sweep", sweep)
    with pytest.raises(AirflowSkipException, match="would close digits"):
        SweepRolloutsOperator(task_id="sweep_rollouts", dry_run="True").execute(CONTEXT)


class TestFilesOfAVersion:
    """What `open` and `roll_back` read before anything is changed."""

    @pytest.fixture
    def lake(self, tmp_path):
        lake = DataLake(f"file://{tmp_path}")
        files = {"model.onnx": b"judged", "model.json": b"{}", "golden.json": b'{"cases": []}'}
        lake.write_serving_files("digits", "2", files)
        return lake

    def test_what_was_promoted_is_opened_with_its_digest(self, rollout, lake, tmp_path):
        digest = keep_promotion(lake, "digits", "2", by="run")
        request, golden = open_rollout.verified(RolloutRequest.model_validate(rollout))
        assert (request.digest, json.loads(golden)) == (digest, {"cases": []})
        assert request.storage_uri == f"file://{tmp_path}/models/digits/2"

    def test_changed_files_are_refused(self, rollout, lake, tmp_path):
        keep_promotion(lake, "digits", "2", by="run")
        (tmp_path / "models/digits/2/model.onnx").write_bytes(b"another")
        for operator in (OpenRolloutOperator, RollBackOperator):
            told = {"reason": "so"} if operator is RollBackOperator else {}
            with pytest.raises(AirflowFailException, match="is not what was promoted"):
                operator(task_id="task", rollout=rollout, **told).execute(CONTEXT)
