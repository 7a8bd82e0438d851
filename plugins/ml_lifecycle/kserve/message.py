"""What people are told of a rollout: what happened, why, the figures, and what to do next. Pure."""

from __future__ import annotations

import html
import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Report = Mapping[str, Any]


@dataclass(frozen=True)
class Links:
    """Pages to look at: the Airflow run and the version's MLflow run; empty where there is none."""

    airflow: str = ""
    tracking: str = ""


@dataclass(frozen=True)
class Message:
    """Plain text; `text` is both parts, `html` the body for what shows nothing else."""

    subject: str
    body: str

    @property
    def text(self) -> str:
        """Subject and body."""
        return f"{self.subject}\n\n{self.body}"

    @property
    def html(self) -> str:
        """The body, its lines kept."""
        return f"<pre>{html.escape(self.body)}</pre>"


HAPPENED = {
    "promoted": "{model} version {version} was promoted and serves all traffic",
    "rolled_back": "{model} version {version} was rolled back; {stable}",
    "frozen": "{model} version {version} is frozen at {percent} % of the traffic; nobody watches it any more",
    "not_opened": "{model} version {version} was not rolled out; what served before still does",
    "not_closed": "{model} version {version}: its rollout could not be closed; look at it now",
    "waiting": "{model} version {version} waits for a person at {percent} % of the traffic",
}


def write(report: Report, links: Links) -> Message:
    """The message on a rollout's report.

    `outcome` is that of the report, `not_closed` where there is none for `close` did not get through, or `waiting`
    where the rollout goes on once a person has answered.
    """
    steps = report.get("steps") or ()
    stable = report.get("stable_version")
    happened = HAPPENED[report["outcome"]].format(
        model=report["model"],
        version=report["version"],
        percent=steps[-1]["percent"] if steps else 0,
        stable=f"version {stable} serves all traffic" if stable else "nothing serves now",
    )
    parts = [
        happened + ".",
        f"Why: {report['reason']}",
        "\n".join(_figures(report)),
        "\n".join(_callers(report)),
        "Next:\n" + "\n".join(f"- {step}" for step in _next(report, links)),
    ]
    return Message(happened.partition(";")[0], "\n\n".join(part for part in parts if part) + "\n")


def _figures(report: Report) -> Iterator[str]:
    for step in report.get("steps") or ():
        looks = "1 look" if step["looks"] == 1 else f"{step['looks']} looks"
        if warmup := step.get("warmup_looks"):
            looks += f" after {warmup} of warm-up"
        sides = ", ".join(f"{side} {_side(step[side])}" for side in ("canary", "stable"))
        yield f"{step['percent']:>3} %, {looks}: {sides}"
    if "seconds" in report:
        yield f"It took {report['seconds']:.0f} s."


def _callers(report: Report) -> Iterator[str]:
    if report.get("url"):
        yield f"Callers ask {report['url']}."
    if report.get("in_cluster", "") not in ("", report.get("url")):
        yield f"Callers within the cluster ask {report['in_cluster']}."


def _side(side: Mapping[str, Any]) -> str:
    requests, errors = side["requests"], side["errors"]
    share = f" ({errors / requests:.2%})" if requests else ""
    return f"{errors} of {requests} requests failed{share}"


def _next(report: Report, links: Links) -> Iterator[str]:
    model, version, stable = report["model"], report["version"], report.get("stable_version")
    again = _command("roll_out_model", model=model, version=version)
    drop = _command("roll_out_model", model=model, version=stable)
    back = _command("roll_back_model", model=model, version=stable)
    match report["outcome"]:
        case "promoted" if stable not in (None, version):
            yield f"nothing; to go back at once: {back}"
        case "promoted":
            yield "nothing"
        case "rolled_back":
            yield f"mend what the reason names, then train again: {_command('train_model', model=model)}"
            yield f"if something else was the cause, try this version again: {again}"
        case "frozen":
            yield f"to begin it again from the first step: {again}"
            yield f"to give it up: {drop}"
        case "not_opened":
            yield f"mend what the log of the task open names, then: {again}"
        case "not_closed":
            yield "mend what the log of the task close names, then clear that task: it goes on where it stopped"
        case "waiting":
            yield f"to let it go on: {_command('steer_rollout', model=model, action='approve')}"
            yield f"to end it: {_command('steer_rollout', model=model, action='roll_back', reason='…')}"
    yield from _left(report)
    if links.airflow:
        yield f"the Airflow run: {links.airflow}"
    if links.tracking:
        picture = f", picture rollout/version-{version}.svg" if report.get("looks") else ""
        yield f"the MLflow run{picture}: {links.tracking}"


def _left(report: Report) -> Iterator[str]:
    if labels := report.get("labels_appeared"):
        yield f"somebody has labelled the service meanwhile, which makes a new revision: {', '.join(labels)}"
    for name in report.get("left_behind") or ():
        yield f"remove what KServe left behind: kubectl -n {report['namespace']} delete hpa {name}"


def _command(dag: str, **conf: object) -> str:
    return f"airflow dags trigger {dag} --conf {shlex.quote(json.dumps(conf))}"
