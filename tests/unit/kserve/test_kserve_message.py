"""What people are told: the outcome, the reason, the figures, and a next step that can be copied."""

import json
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_lifecycle.kserve.message import HAPPENED, Links, Message, write

STEP = {
    "percent": 25,
    "looks": 3,
    "canary": {"requests": 575, "errors": 60, "p95_ms": 6.0},
    "stable": {"requests": 2925, "errors": 148, "p95_ms": None},
    "verdict": "roll_back",
    "reason": "errors",
}
REPORT = {
    "model": "digits",
    "version": "2",
    "stable_version": "1",
    "outcome": "rolled_back",
    "reason": "errors: 60 of 575 canary requests failed (10.43%), 5.06% on the stable side",
    "steps": [STEP],
    "looks": [{}],
    "seconds": 92.4,
}
LINKS = Links("http://airflow/dags/roll_out_model/runs/r1", "http://mlflow/#/experiments/1/runs/abc")


def commands(message: Message) -> list[tuple[str, dict]]:
    """The DAG and the conf of each command in the body, as a shell would read them."""
    found = []
    for line in message.body.splitlines():
        _, begun, rest = line.partition("airflow dags trigger ")
        if begun:
            dag, _, conf = shlex.split(rest)
            found.append((dag, json.loads(conf)))
    return found


def test_a_roll_back_says_what_serves_why_the_figures_and_what_to_do():
    message = write(REPORT, LINKS)
    assert message.subject == "digits version 2 was rolled back"
    assert "version 1 serves all traffic." in message.body
    assert "Why: errors: 60 of 575 canary requests failed" in message.body
    assert " 25 %, 3 looks: canary 60 of 575 requests failed (10.43%), stable 148 of 2925" in message.body
    assert "It took 92 s." in message.body
    assert commands(message) == [
        ("train_model", {"model": "digits"}),
        ("roll_out_model", {"model": "digits", "version": "2"}),
    ]
    assert LINKS.airflow in message.body
    assert "picture rollout/version-2.svg: http://mlflow" in message.body


def test_looks_of_the_warm_up_are_told_beside_those_that_count():
    message = write({**REPORT, "steps": [{**STEP, "warmup_looks": 2}]}, LINKS)
    assert " 25 %, 3 looks after 2 of warm-up: canary 60 of 575" in message.body


@pytest.mark.parametrize(
    ("changes", "subject", "wanted"),
    [
        ({"outcome": "promoted"}, "was promoted and serves all traffic", [("roll_back_model", "1")]),
        ({"outcome": "promoted", "stable_version": None}, "was promoted", []),
        ({"outcome": "promoted", "stable_version": "2"}, "was promoted", []),
        ({"outcome": "frozen"}, "is frozen at 25 % of the traffic", [("roll_out_model", "2"), ("roll_out_model", "1")]),
        (
            {"outcome": "waiting"},
            "waits for a person at 25 % of the traffic",
            [("steer_rollout", "approve"), ("steer_rollout", "roll_back")],
        ),
    ],
)
def test_each_outcome_has_its_next_step(changes, subject, wanted):
    message = write({**REPORT, **changes}, LINKS)
    assert subject in message.subject
    assert [(dag, conf.get("version") or conf["action"]) for dag, conf in commands(message)] == wanted


@pytest.mark.parametrize("outcome", ["not_opened", "not_closed"])
def test_what_has_no_report_is_told_as_well(outcome):
    bare = {"model": "digits", "version": "2", "outcome": outcome, "reason": "refused"}
    message = write(bare, Links())
    assert "Why: refused" in message.body
    assert f"log of the task {outcome.removeprefix('not_').removesuffix('d').removesuffix('e')}" in message.body
    assert "http" not in message.body


def test_a_first_version_that_failed_leaves_nothing_serving():
    assert "nothing serves now" in write({**REPORT, "stable_version": None}, Links()).body


@given(st.sampled_from(sorted(HAPPENED)), st.text(), st.text(min_size=1).filter(lambda name: name.isprintable()))
def test_subjects_are_one_line_and_html_shows_every_sign(outcome, reason, model):
    message = write({**REPORT, "outcome": outcome, "reason": reason, "model": model}, LINKS)
    assert "\n" not in message.subject
    assert message.text == f"{message.subject}\n\n{message.body}"
    inside = message.html.removeprefix("<pre>").removesuffix("</pre>")
    assert "<" not in inside
    assert ">" not in inside


def test_callers_are_told_both_addresses_where_there_are_two():
    outside = {"url": "http://digits.example.com", "in_cluster": "the Service of Gateway g, with Host: digits"}
    body = write({**REPORT, **outside}, Links()).body
    assert "Callers ask http://digits.example.com." in body
    assert "Callers within the cluster ask the Service of Gateway g, with Host: digits." in body
    same = {**outside, "in_cluster": outside["url"]}
    assert "within the cluster" not in write({**REPORT, **same}, Links()).body
