"""What `promote_model` does to one candidate, across tracking and the data lake; every step may be repeated."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ml_lifecycle.assets import CANDIDATE_MODEL, ModelEvent, incoming_models
from ml_lifecycle.data_lake.client import DataLake
from ml_lifecycle.data_lake.published import keep_promotion, kept_evaluation, published
from ml_lifecycle.runtimes import RUNTIMES
from ml_lifecycle.settings import Settings
from ml_lifecycle.settings_variable import read_settings
from ml_lifecycle.tracking.approval import Question, Ruling, question
from ml_lifecycle.tracking.client import CHALLENGER, CHAMPION, ModelVersion, TrackingClient, connect
from ml_lifecycle.tracking.evaluation import EVALUATION_FILE, Evaluation
from ml_lifecycle.tracking.exceptions import (
    EvaluationUnprovenError,
    NoCandidateError,
    NotJudgedError,
    PromotionByHandError,
    PromotionOvertakenError,
)
from ml_lifecycle.tracking.gate import AGAINST_CHAMPION, Limits, Outcome, judge

SERVING_ARTIFACT = "serving"
# Tags of versions that became champion, and what they say where there was none before.
IN_PLACE_OF, NOBODY = "champion.in_place_of", "nobody"


@dataclass(frozen=True)
class Verdict:
    """What the gate said of a candidate; without refusals it may be published, once the question is answered.

    `champion` is the version that held the alias while it was judged, `files` the sha256 of each serving file that was
    scored; None for a version that must have been published before.
    """

    evidence: list[str]
    refusals: list[str]
    run_url: str
    champion: str | None
    files: Mapping[str, str] | None = None
    question: Question | None = None


def candidates(params: Mapping[str, Any], context: Mapping[str, Any]) -> list[dict[str, str]]:
    """The versions to judge, as `{model, version}`: what params name, else what candidate events say.

    An event that names none has `odd`, why: it ends on itself, and the others are judged.
    """
    model, version, reason = params["model"], params["version"], params["reason"]
    if reason and not (model and version):
        raise PromotionByHandError("reason promotes by hand and needs the params model and version too")
    if version and not model:
        raise NoCandidateError(f"version = {version!r} needs the param model")
    if model and not version:
        return [{"model": model, "version": _challenger(model)}]
    if model:
        return [{"model": model, "version": version}]
    events, odd = incoming_models(CANDIDATE_MODEL, context)
    if not events and not odd:
        raise NoCandidateError("no candidate_model event has arrived; train a model, or give the param model")
    named = [{"model": event.model, "version": event.version} for event in events]
    return named + [{"model": "unknown", "version": "", "odd": reason} for reason in odd]


def judge_candidate(settings: Settings, version: str, *, asker: str = "", reason: str | None = None) -> Verdict:
    """Judge a version and write the evidence on it; with a `reason` a published version passes by hand, unasked.

    `asker` is who asked for its promotion, empty where nobody did.
    """
    lake = DataLake(settings.data_lake, settings.connections.storage)
    with connect(settings.connections.tracking) as tracking:
        candidate = tracking.version(settings.model, version)
        run_url = tracking.run_url(candidate.run_id)
        holder = tracking.find_alias(settings.model, CHAMPION)
        champion = holder.version if holder else None
        if reason:
            published(lake, settings.model, version)
            return Verdict([_pass_by_hand(tracking, candidate, reason)], [], run_url, champion)
        if champion == version:
            return Verdict([f"version {version} is champion already"], [], run_url, champion)
        evaluation, trainer = _evaluated(settings, lake, tracking, candidate)
        limits = Limits(**settings.gate.model_dump(include={field.name for field in fields(Limits)}))
        judgement = judge(evaluation, limits, champion=champion)
        tracking.log_table(candidate.run_id, "gate", judgement.rows())
        tracking.tag_version(settings.model, version, judgement.tags())
    asked = None
    if judgement.passed and settings.gate.approval.required:
        asked = question(
            settings.gate.approval,
            judgement,
            evaluation,
            model=settings.model,
            version=version,
            run_url=run_url,
            askers=(trainer, asker),
        )
    evidence = [check.sentence for check in judgement.checks]
    return Verdict(evidence, judgement.refusals, run_url, champion, evaluation.files, asked)


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


def publish_candidate(
    settings: Settings, version: str, *, by: str, files: Mapping[str, str] | None, judged_against: str | None
) -> ModelEvent:
    """Write the serving files that were judged, keep their digest, and move the alias champion to the version.

    `files` and `judged_against` as the verdict has them. NotJudgedError where the run holds other files now,
    PromotionOvertakenError where another version became champion meanwhile.
    """
    lake = DataLake(settings.data_lake, settings.connections.storage)
    with connect(settings.connections.tracking) as tracking:
        candidate = tracking.version(settings.model, version)
        if files is not None:
            found = tracking.read_artifacts(candidate.run_id, SERVING_ARTIFACT)
            _check_judged(candidate.run_id, found, files)
            arranged = RUNTIMES[settings.serving.runtime].arranged(settings.model, found)
            lake.write_serving_files(settings.model, version, arranged)
        digest = keep_promotion(lake, settings.model, version, by=by)
        # For people: whoever may write to MLflow may change tags, so nothing reads these.
        storage_uri = lake.layout.serving_files(settings.model, version)
        told = {"storage_uri": storage_uri, "digest": digest, "promoted_by": by}
        tracking.tag_version(settings.model, version, told)
        _crown(tracking, settings.model, version, judged_against)
        metrics = tracking.run_metrics(candidate.run_id)
    return ModelEvent(
        model=settings.model,
        version=version,
        run_id=candidate.run_id,
        storage_uri=storage_uri,
        metrics={name: metrics[f"holdout_{name}"] for name in ("accuracy", "loss") if f"holdout_{name}" in metrics},
    )


def _evaluated(
    settings: Settings, lake: DataLake, tracking: TrackingClient, candidate: ModelVersion
) -> tuple[Evaluation, str]:
    """What the evaluate job found of a candidate, and who asked for its training, empty where nobody did."""
    model, run_id = settings.model, candidate.run_id
    kept = kept_evaluation(lake, run_id) if run_id else None
    if kept is not None:
        document, trainer = kept.get("evaluation"), str(kept.get("asked_by") or "")
    elif settings.gate.evaluations == "mlflow":
        document, trainer = tracking.read_json(run_id, EVALUATION_FILE), ""
        if isinstance(document, Mapping) and "serving_files" not in document:  # of a job that is not ours
            document = {**document, "serving_files": _digests(tracking.read_artifacts(run_id, SERVING_ARTIFACT))}
    else:
        raise EvaluationUnprovenError(model, candidate.version, run_id)
    return Evaluation.from_document(document if isinstance(document, Mapping) else {}, run_id, model), trainer


def _digests(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def _check_judged(run_id: str, found: Mapping[str, bytes], judged: Mapping[str, str]) -> None:
    """NotJudgedError unless these are the files that were evaluated, all of them and no others."""
    if other := _digests(found).items() ^ judged.items():
        raise NotJudgedError(run_id, sorted({name for name, _ in other}))


def _crown(tracking: TrackingClient, model: str, version: str, judged_against: str | None) -> None:
    """Move the alias champion to the version, and look again: MLflow has no way to move it only from what was seen.

    A try that hung between its look and its move would put a stale version over one that came meanwhile. That one has
    written down whose place it took; so the alias goes back to it.
    """
    holder = tracking.find_alias(model, CHAMPION)
    if holder is not None and holder.version == version:
        return
    if holder is not None and holder.version != judged_against:
        raise PromotionOvertakenError(model, version, holder.version)
    rivals = _in_place_of(tracking, model, version, judged_against)
    tracking.set_alias(model, CHAMPION, version)
    came = _in_place_of(tracking, model, version, judged_against) - rivals
    holder = tracking.find_alias(model, CHAMPION)
    if came and holder is not None and holder.version == version:
        tracking.set_alias(model, CHAMPION, max(came, key=int))
    if came or holder is None or holder.version != version:
        raise PromotionOvertakenError(
            model, version, max(came, key=int) if came else holder.version if holder else "none"
        )
    tracking.tag_version(model, version, {IN_PLACE_OF: judged_against or NOBODY})


def _in_place_of(tracking: TrackingClient, model: str, version: str, judged_against: str | None) -> set[str]:
    """The other versions that have become champion in the place of `judged_against`."""
    return tracking.versions_tagged(model, IN_PLACE_OF, judged_against or NOBODY) - {version}


def _challenger(model: str) -> str:
    with connect(read_settings(model).connections.tracking) as tracking:
        found = tracking.find_alias(model, CHALLENGER)
    if found is None:
        raise NoCandidateError(f"model = {model!r} has no version under the alias challenger; train it first")
    return found.version


def _pass_by_hand(tracking: TrackingClient, candidate: ModelVersion, reason: str) -> str:
    tracking.tag_version(candidate.model, candidate.version, {"gate": "by hand", "promotion_reason": reason})
    return f"promoted by hand: {reason}"
