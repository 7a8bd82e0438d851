"""What `promote_model` does to one candidate, across tracking and the data lake; every step may be repeated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ml_lifecycle.assets import CANDIDATE_MODEL, ModelEvent, incoming_models
from ml_lifecycle.data_lake.client import DataLake
from ml_lifecycle.runtimes import RUNTIMES
from ml_lifecycle.settings import Settings
from ml_lifecycle.settings_variable import read_settings
from ml_lifecycle.tracking.approval import Question, Ruling, question
from ml_lifecycle.tracking.client import CHALLENGER, CHAMPION, ModelVersion, TrackingClient, connect
from ml_lifecycle.tracking.evaluation import EVALUATION_FILE, Evaluation
from ml_lifecycle.tracking.exceptions import NoCandidateError, PromotionByHandError
from ml_lifecycle.tracking.gate import AGAINST_CHAMPION, Limits, Outcome, judge

SERVING_ARTIFACT = "serving"


@dataclass(frozen=True)
class Verdict:
    """What the gate said of a candidate; without refusals it may be published, once the question is answered.

    `champion` is the version that held the alias while it was judged.
    """

    evidence: list[str]
    refusals: list[str]
    run_url: str
    champion: str | None
    question: Question | None = None


def candidates(params: Mapping[str, Any], context: Mapping[str, Any]) -> list[dict[str, str]]:
    """The versions to judge, as `{model, version}`: what params name, else what candidate events say."""
    model, version, reason = params["model"], params["version"], params["reason"]
    if reason and not (model and version):
        raise PromotionByHandError("reason promotes by hand and needs the params model and version too")
    if version and not model:
        raise NoCandidateError(f"version = {version!r} needs the param model")
    if model and not version:
        return [{"model": model, "version": _challenger(model)}]
    if model:
        return [{"model": model, "version": version}]
    events = incoming_models(CANDIDATE_MODEL, context)
    if not events:
        raise NoCandidateError("no candidate_model event has arrived; train a model, or give the param model")
    return [{"model": event.model, "version": event.version} for event in events]


def judge_candidate(settings: Settings, version: str, *, reason: str | None = None) -> Verdict:
    """Judge a version and write the evidence on it; with a `reason` a published version passes by hand, unasked."""
    with connect(settings.connections.tracking) as tracking:
        candidate = tracking.version(settings.model, version)
        run_url = tracking.run_url(candidate.run_id)
        holder = tracking.find_alias(settings.model, CHAMPION)
        champion = holder.version if holder else None
        if reason:
            return Verdict([_pass_by_hand(tracking, candidate, reason)], [], run_url, champion)
        if champion == version:
            return Verdict([f"version {version} is champion already"], [], run_url, champion)
        evaluation = Evaluation.from_document(
            tracking.read_json(candidate.run_id, EVALUATION_FILE), run_id=candidate.run_id
        )
        limits = Limits(**settings.gate.model_dump(include={field.name for field in fields(Limits)}))
        judgement = judge(evaluation, limits, champion=champion)
        tracking.log_table(candidate.run_id, "gate", judgement.rows())
        tracking.tag_version(settings.model, version, judgement.tags())
    asked = None
    if judgement.passed and settings.gate.approval.required:
        asked = question(
            settings.gate.approval, judgement, evaluation, model=settings.model, version=version, run_url=run_url
        )
    return Verdict([check.sentence for check in judgement.checks], judgement.refusals, run_url, champion, asked)


def objection(settings: Settings, version: str, *, judged_against: str | None, ruling: Ruling) -> str | None:
    """Why a judged version must not be published after all; the ruling is written on the version in any case."""
    with connect(settings.connections.tracking) as tracking:
        tracking.tag_version(settings.model, version, {"gate.approval": ruling.words})
        if not ruling.approved:
            return ruling.words
        holder = tracking.find_alias(settings.model, CHAMPION)
        champion = holder.version if holder else None
        if champion in (judged_against, version):  # its own: an earlier attempt of this task had set it
            return None
        reason = (
            f"the judgement is stale: it compared with champion {judged_against or 'none'}, which meanwhile is "
            f"{champion or 'none'}; run promote_model for it again"
        )
        refused = str(Outcome.REFUSED)
        tracking.tag_version(
            settings.model, version, {"gate": refused, f"gate.{AGAINST_CHAMPION}": f"{refused}: {reason}"}
        )
        return reason


def publish_candidate(settings: Settings, version: str, *, by: str) -> ModelEvent:
    """Write the serving files, check them, tag the version, and move the alias champion to it."""
    lake = DataLake(settings.data_lake, settings.connections.storage)
    with connect(settings.connections.tracking) as tracking:
        candidate = tracking.version(settings.model, version)
        if candidate.storage_uri:
            storage_uri = candidate.storage_uri
            lake.verify_serving_files(storage_uri)
        else:
            files = tracking.read_artifacts(candidate.run_id, SERVING_ARTIFACT)
            arranged = RUNTIMES[settings.serving.runtime].arranged(settings.model, files)
            storage_uri = lake.write_serving_files(settings.model, version, arranged)
        tracking.tag_version(settings.model, version, {"storage_uri": storage_uri, "promoted_by": by})
        tracking.set_alias(settings.model, CHAMPION, version)
        metrics = tracking.run_metrics(candidate.run_id)
    return ModelEvent(
        model=settings.model,
        version=version,
        run_id=candidate.run_id,
        storage_uri=storage_uri,
        metrics={name: metrics[f"holdout_{name}"] for name in ("accuracy", "loss") if f"holdout_{name}" in metrics},
    )


def _challenger(model: str) -> str:
    with connect(read_settings(model).connections.tracking) as tracking:
        found = tracking.find_alias(model, CHALLENGER)
    if found is None:
        raise NoCandidateError(f"model = {model!r} has no version under the alias challenger; train it first")
    return found.version


def _pass_by_hand(tracking: TrackingClient, candidate: ModelVersion, reason: str) -> str:
    if not candidate.storage_uri:
        raise PromotionByHandError(
            f"version = {candidate.version!r} of {candidate.model!r} was never published; by hand only a version that "
            "once passed the gate can become champion again"
        )
    tracking.tag_version(candidate.model, candidate.version, {"gate": "by hand", "promotion_reason": reason})
    return f"promoted by hand: {reason}"
