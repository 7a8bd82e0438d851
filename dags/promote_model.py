"""Judges a trained version and makes it champion: the gate between training and traffic."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, get_current_context, task, task_group

from ml_lifecycle.assets import CANDIDATE_MODEL, CHAMPION_MODEL, ModelEvent
from ml_lifecycle.params import optional, optional_version
from ml_lifecycle.tracking.links import RUN_URL, MlflowRunLink
from ml_lifecycle.tracking.operators import PromotionApprovalOperator

log = logging.getLogger(__name__)

SETTINGS = {
    "min_accuracy": "gate.min_accuracy",
    "max_loss": "gate.max_loss",
    "max_accuracy_drop": "gate.max_accuracy_drop",
    "confidence": "gate.confidence",
    "min_class_accuracy": "gate.min_class_accuracy",
    "max_model_mb": "gate.max_model_mb",
    "max_latency_ms": "gate.max_latency_ms",
    "max_onnx_difference": "gate.max_onnx_difference",
    "approval": "gate.approval.required",
}

PARAMS = {
    "model": optional("string", "Registered model; null: the models of the candidate events"),
    "version": optional_version("Version to judge; null: the model's challenger"),
    "reason": optional(
        "string", "Promote an earlier, published version by hand, past the gate: say why (a rollback)", minLength=1
    ),
    "min_accuracy": optional("number", "Absolute floor on the hold-out", section="Gate", minimum=0, maximum=1),
    "max_loss": optional("number", "Absolute limit of the loss", section="Gate", exclusiveMinimum=0),
    "max_accuracy_drop": optional(
        "number", "Accuracy it may lose against the champion", section="Gate", minimum=0, maximum=1
    ),
    "confidence": optional(
        "number", "One-sided, that it loses no more", section="Gate", exclusiveMinimum=0.5, exclusiveMaximum=1
    ),
    "min_class_accuracy": optional("number", "Floor within every class", section="Gate", minimum=0, maximum=1),
    "max_model_mb": optional("number", "Size of the ONNX file, megabytes", section="Gate", exclusiveMinimum=0),
    "max_latency_ms": optional(
        "number", "p95 of one image on one CPU thread, milliseconds", section="Gate", exclusiveMinimum=0
    ),
    "max_onnx_difference": optional("number", "Difference of torch and ONNX", section="Gate", exclusiveMinimum=0),
    "approval": optional("boolean", "Ask a person before it becomes champion", section="Gate"),
}

DOC = """
### Promote a model

Compares a candidate with the champion on the same hold-out and makes it champion if it passes every check.

- **Starts** when `candidate_model` is updated, or by hand. Params come first, then the event. **Emits**
  `champion_model`, which starts `roll_out_model`.
- **The gate** wants: accuracy, loss and the difference of torch and ONNX within limits; no class below its floor, size
  and latency within theirs where such are given; and, where there is a champion, `confidence` that the accuracy is not
  more than `max_accuracy_drop` below the champion's. That is decided by the lower end of a score interval for paired
  proportions, so a small hold-out alone can refuse: the refusal then says about how many images would do.
- **A refusal is a normal outcome**: `judge` ends *skipped*, the run succeeds, the version keeps its evidence as tags
  (`gate`, `gate.<check>`) and its MLflow run as the table `gate.json`.
- **Approval**, where `gate.approval.required` or the param `approval` asks for it: `approve` waits for a person under
  *Required Actions*, with the evidence in the form, and takes `gate.approval.default` after
  `gate.approval.timeout_hours`. A rejection skips `publish`; the tag `gate.approval` says who decided.
  Marking `approve` as success is no answer: nothing is published without a person's name, and with
  `gate.approval.by_another` not by the word of who asked for the training or for this run. `airflow dags test` would
  wait for ever: give it a Variable that asks for no approval.
- **Locked**: params may make the gate stricter, not laxer, unless the Variable's list `locked` says otherwise.
- **What is believed**: the evaluation that the job left in the data lake, where MLflow's writers cannot write.
- **Publishing** writes the files that were evaluated, byte for byte, to `models/<name>/<version>/`, keeps their digest,
  and only then moves the alias. Published files never change: rollouts, roll-backs and the model server hold them
  against the digest. If the champion has changed since the judgement, `publish` is skipped.
- **Rollback of a promotion**: `model`, `version` (published before) and `reason`. Whoever gives a reason is not asked
  for approval.
"""

with DAG(
    "promote_model",
    schedule=[CANDIDATE_MODEL],
    catchup=False,
    max_active_runs=8,  # one may wait for a person for a day
    params=PARAMS,
    default_args={
        "owner": "ml-platform",
        "retries": 1,
        "retry_delay": timedelta(seconds=15),
        "execution_timeout": timedelta(minutes=15),
    },
    tags=["ml-lifecycle", "promotion"],
    description="Judges candidates against the champion and publishes what passes",
    doc_md=DOC,
) as dag:

    @task(inlets=[CANDIDATE_MODEL])
    def find_candidates(params: dict[str, Any]) -> list[dict[str, Any]]:
        """The versions to judge: the one that params name, else the newest of each model that has an event."""
        from ml_lifecycle.params import refusing
        from ml_lifecycle.tracking.promotion import candidates

        with refusing():
            return candidates(params, get_current_context())

    @task(map_index_template="{{ mapped_model }}")
    def judge(candidate: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
        """Judge a candidate by the gate; a refusal skips its publication."""
        from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException

        from ml_lifecycle.params import overrides, refusing
        from ml_lifecycle.settings_variable import read_settings
        from ml_lifecycle.tracking.promotion import judge_candidate

        context = get_current_context()
        context["mapped_model"] = candidate["model"]  # type: ignore[typeddict-unknown-key]
        if reason := candidate.get("odd"):
            raise AirflowFailException(reason)
        with refusing():
            settings = read_settings(candidate["model"], overrides(params, SETTINGS))
            asker = getattr(context["dag_run"], "triggering_user_name", None) or ""
            verdict = judge_candidate(settings, candidate["version"], asker=asker, reason=params["reason"])
        context["ti"].xcom_push(RUN_URL, verdict.run_url)
        for line in verdict.evidence:
            log.info("%s", line)
        if verdict.refusals:
            raise AirflowSkipException(
                f"{candidate['model']} version {candidate['version']} is refused: {'; '.join(verdict.refusals)}"
            )
        judged = {"champion": verdict.champion, "files": verdict.files, "question": verdict.question}
        return {**candidate, **judged}

    # One at a time over all runs: no other promotion comes between the look at the champion and the alias.
    @task(outlets=[CHAMPION_MODEL], map_index_template="{{ mapped_model }}", max_active_tis_per_dag=1)
    def publish(judged: dict[str, Any], answer: dict[str, Any] | None) -> dict[str, Any]:
        """Write the serving files, move the alias, and tell roll_out_model; not after a rejection."""
        from airflow.providers.common.compat.sdk import AirflowSkipException

        from ml_lifecycle.params import refusing
        from ml_lifecycle.settings_variable import read_settings
        from ml_lifecycle.tracking.approval import rule
        from ml_lifecycle.tracking.promotion import objection, publish_candidate

        context = get_current_context()
        context["mapped_model"] = judged["model"]  # type: ignore[typeddict-unknown-key]
        by = f"{context['dag_run'].dag_id} {context['dag_run'].run_id}"
        ruling = rule(judged["question"], answer)
        log.info("approval: %s", ruling.words)
        with refusing():
            settings = read_settings(judged["model"])
            reason = objection(settings, judged["version"], judged_against=judged["champion"], ruling=ruling)
            if reason:
                raise AirflowSkipException(f"{judged['model']} version {judged['version']} is not published: {reason}")
            event: ModelEvent = publish_candidate(
                settings, judged["version"], by=by, files=judged["files"], judged_against=judged["champion"]
            )
        log.info("%s version %s is champion; serving files at %s", event.model, event.version, event.storage_uri)
        context["outlet_events"][CHAMPION_MODEL].extra = event.model_dump()
        return event.model_dump()

    @task_group
    def promote(candidate: dict[str, Any]) -> None:
        """One candidate."""
        judged = judge(candidate)
        judged.operator.operator_extra_links = (MlflowRunLink(),)
        approve = PromotionApprovalOperator(
            task_id="approve", candidate=judged, map_index_template="{{ mapped_model }}"
        )
        publish(judged, approve.output)

    promote.expand(candidate=find_candidates())
