"""Judges a trained version and makes it champion: the gate between training and traffic."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, get_current_context, task, task_group

from ml_lifecycle.assets import CANDIDATE_MODEL, CHAMPION_MODEL, ModelEvent
from ml_lifecycle.params import optional
from ml_lifecycle.tracking.links import RUN_URL, MlflowRunLink

log = logging.getLogger(__name__)

SETTINGS = {
    "min_accuracy": "gate.min_accuracy",
    "max_loss": "gate.max_loss",
    "max_accuracy_drop": "gate.max_accuracy_drop",
    "max_onnx_difference": "gate.max_onnx_difference",
}

PARAMS = {
    "model": optional("string", "Registered model; null: the models of the candidate events"),
    "version": optional("string", "Version to judge; null: the model's challenger", pattern="^[0-9]+$"),
    "reason": optional(
        "string", "Promote an earlier, published version by hand, past the gate: say why (a rollback)", minLength=1
    ),
    "min_accuracy": optional("number", "Absolute floor on the hold-out", section="Gate", minimum=0, maximum=1),
    "max_loss": optional("number", "Absolute limit of the loss", section="Gate", exclusiveMinimum=0),
    "max_accuracy_drop": optional("number", "Accuracy it may lose against the champion", section="Gate", minimum=0),
    "max_onnx_difference": optional("number", "Difference of torch and ONNX", section="Gate", exclusiveMinimum=0),
}

DOC = """
### Promote a model

Compares a candidate with the champion on the same hold-out and makes it champion if it passes every check.

- **Starts** when `candidate_model` is updated, or by hand. Params come first, then the event. **Emits**
  `champion_model`, which starts `roll_out_model`.
- **A refusal is a normal outcome**: `judge` ends *skipped*, the run succeeds, the version keeps its evidence as tags
  (`gate`, `gate.<check>`) and its MLflow run as the table `gate.json`.
- **Publishing** writes the serving files to `models/<name>/<version>/`, checks their hashes, and only then moves the
  alias. Published files never change.
- **Rollback of a promotion**: `model`, `version` (published before) and `reason`.
"""

with DAG(
    "promote_model",
    schedule=[CANDIDATE_MODEL],
    catchup=False,
    max_active_runs=1,  # two promotions at once could both have beaten the same champion
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
        from airflow.providers.common.compat.sdk import AirflowSkipException

        from ml_lifecycle.params import overrides, refusing
        from ml_lifecycle.settings_variable import read_settings
        from ml_lifecycle.tracking.promotion import judge_candidate

        context = get_current_context()
        context["mapped_model"] = candidate["model"]  # type: ignore[typeddict-unknown-key]
        with refusing():
            settings = read_settings(candidate["model"], overrides(params, SETTINGS))
            verdict = judge_candidate(settings, candidate["version"], reason=params["reason"])
        context["ti"].xcom_push(RUN_URL, verdict.run_url)
        for line in verdict.evidence:
            log.info("%s", line)
        if verdict.refusals:
            raise AirflowSkipException(
                f"{candidate['model']} version {candidate['version']} is refused: {'; '.join(verdict.refusals)}"
            )
        return candidate

    @task(outlets=[CHAMPION_MODEL], map_index_template="{{ mapped_model }}")
    def publish(candidate: dict[str, Any]) -> dict[str, Any]:
        """Write the serving files, move the alias, and tell roll_out_model."""
        from ml_lifecycle.params import refusing
        from ml_lifecycle.settings_variable import read_settings
        from ml_lifecycle.tracking.promotion import publish_candidate

        context = get_current_context()
        context["mapped_model"] = candidate["model"]  # type: ignore[typeddict-unknown-key]
        by = f"{context['dag_run'].dag_id} {context['dag_run'].run_id}"
        with refusing():
            event: ModelEvent = publish_candidate(read_settings(candidate["model"]), candidate["version"], by=by)
        log.info("%s version %s is champion; serving files at %s", event.model, event.version, event.storage_uri)
        context["outlet_events"][CHAMPION_MODEL].extra = event.model_dump()
        return event.model_dump()

    @task_group
    def promote(candidate: dict[str, Any]) -> None:
        """One candidate."""
        judged = judge(candidate)
        judged.operator.operator_extra_links = (MlflowRunLink(),)
        publish(judged)

    promote.expand(candidate=find_candidates())
