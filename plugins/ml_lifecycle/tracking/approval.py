"""A person's word between the gate and the alias: what is asked, and what an answer means. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import TypedDict

from ml_lifecycle.settings import Approval
from ml_lifecycle.tracking.evaluation import Contestant, Evaluation
from ml_lifecycle.tracking.gate import CLASS_ACCURACY, Check, Judgement

APPROVE = "Approve"
REJECT = "Reject"
_SHOWN_CLASSES = 10


class Question(TypedDict):
    """What the form shows, how long it waits, what silence counts as, and whose answer counts for nothing."""

    subject: str
    body: str
    timeout_hours: float
    default: str
    barred: list[str]


class Answer(TypedDict):
    """What was chosen; `by` is None where the time ran out."""

    chosen: str
    by: str | None


@dataclass(frozen=True)
class Ruling:
    """Whether a candidate may be published, and the tag that says why."""

    approved: bool
    words: str


def question(
    approval: Approval,
    judgement: Judgement,
    evaluation: Evaluation,
    *,
    model: str,
    version: str,
    run_url: str,
    askers: Collection[str] = (),
) -> Question:
    """Ask whether this candidate may become champion; the evidence is Markdown.

    `askers` asked for its training or its promotion: where settings say so they are not the ones to answer.
    """
    champion = evaluation.champion
    default = APPROVE if approval.default == "approve" else REJECT
    rivals = ["", "challenger", *([f"champion, version {champion.version}"] if champion else [])]
    what = f"**{model} version {version}** passed the gate on {evaluation.holdout_images} held-out images"
    barred = sorted({name for name in askers if name}) if approval.by_another else []
    others = f" Not by {', '.join(barred)}, who asked for it." if barred else ""
    choice = f"*{APPROVE}*: it becomes champion and its rollout begins. *{REJECT}*: nothing changes."
    body = [
        f"{what}: [MLflow run]({run_url})",
        "",
        *_table(["check", "value", "interval", "limit", "outcome", ""], map(_check_row, _shown(judgement))),
        "",
        *_table(rivals, _comparison(evaluation.challenger, champion)),
        "",
        f"{choice} Without an answer within {approval.timeout_hours:g} h: *{default}*.{others}",
    ]
    return Question(
        subject=f"May {model} version {version} become champion?",
        body="\n".join(body),
        timeout_hours=approval.timeout_hours,
        default=default,
        barred=barred,
    )


def rule(asked: Question | None, answer: Answer | None) -> Ruling:
    """What the answer means; `asked` is None where no answer is needed.

    Without an answer the asking task was marked as success, which leaves no name: that is no approval.
    """
    if asked is None:
        return Ruling(approved=True, words="not required")
    if answer is None:
        return Ruling(approved=False, words="not approved: the task was marked as success, which names no person")
    approved = answer["chosen"] == APPROVE
    if approved and answer["by"] in asked.get("barred", ()):
        words = f"not approved: {answer['by']} asked for it; clear the task approve, and let another person answer"
        return Ruling(approved=False, words=words)
    verb = "approved" if approved else "rejected"
    if answer["by"] is None:
        return Ruling(approved, f"{verb} by default: no answer within {asked['timeout_hours']:g} h")
    return Ruling(approved, f"{verb} by {answer['by']}")


def _shown(judgement: Judgement) -> Iterator[Check]:
    """All checks, but of the classes those alone that are closest to their floors."""
    classes = [check for check in judgement.checks if check.name == CLASS_ACCURACY]
    closest = sorted(classes, key=lambda check: check.headroom)[:_SHOWN_CLASSES]
    return (check for check in judgement.checks if check.name != CLASS_ACCURACY or check in closest)


def _check_row(check: Check) -> list[str]:
    interval = f"{check.interval[0]:.4g} … {check.interval[1]:.4g}" if check.interval else ""
    name = f"{check.name} of {check.subject!r}" if check.subject else check.name
    value = "unknown" if check.value is None else f"{check.value:.4g}"
    return [name, value, interval, f"{check.relation} {check.limit:.4g}", str(check.outcome), check.note]


def _comparison(challenger: Contestant, champion: Contestant | None) -> Iterator[list[str]]:
    rivals = [challenger] if champion is None else [challenger, champion]
    yield ["accuracy", *(f"{rival.accuracy:.4f}" for rival in rivals)]
    yield ["loss", *(f"{rival.loss:.4f}" for rival in rivals)]
    yield ["calibration error", *(f"{rival.calibration_error:.4f}" for rival in rivals)]
    yield ["p95 of one image on one CPU thread", *(f"{rival.latency_ms:.2f} ms" for rival in rivals)]
    yield ["ONNX file", *(f"{rival.model_bytes / 1e6:.2f} MB" for rival in rivals)]


def _table(header: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    yield _row(header)
    yield _row(["---"] * len(header))
    yield from map(_row, rows)


def _row(cells: list[str]) -> str:
    escaped = (cell.replace("|", "\\|").replace("\n", " ") for cell in cells)
    return f"| {' | '.join(escaped)} |"
