from __future__ import annotations

import json
import traceback
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ml_lifecycle.exceptions import SettingsError
from ml_lifecycle.settings import Settings, parse_settings, places

LAKE = {"data_lake": "s3://bucket/prefix/"}


def parsed(model: str = "digits", overrides: dict[str, Any] | None = None, **defaults: Any) -> Settings:
    return parse_settings({"defaults": LAKE | defaults}, model, overrides)


def test_later_layers_win_and_deep_sections_merge() -> None:
    variable = {
        "defaults": {**LAKE, "training": {"epochs": 3, "seed": 7}},
        "models": {"digits": {"training": {"epochs": 4}}, "other": {"training": {"seed": 9}}},
    }

    found = parse_settings(json.dumps(variable), "digits", {"training.batch_size": 8, "training.epochs": None})

    assert (found.training.epochs, found.training.seed, found.training.batch_size) == (4, 7, 8)
    assert found.data_lake == "s3://bucket/prefix"
    assert found.dataset_name == "digits"


@pytest.mark.parametrize(
    ("notifier", "said"),
    [
        ({"notifier": "mail"}, "rollout.notifiers.0.notifier = 'mail'"),
        (
            {"notifier": "a.B", "to": "x"},
            "rollout.notifiers.0.to: unknown setting; allowed here are arguments, n",
        ),
        ({"notifier": "a.B", "arguments": {"api_token": "s3cr3t"}}, "'api_token' would put a secret into settings"),
    ],
)
def test_a_notifier_is_a_class_path_and_arguments_without_a_secret(notifier: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as raised:
        parsed(rollout={"notifiers": [notifier]})
    assert said in str(raised.value)
    assert "s3cr3t" not in str(raised.value)


def test_overrides_do_not_change_the_variable() -> None:
    variable = {"defaults": LAKE | {"training": {"epochs": 3}}}
    parse_settings(variable, "digits", {"training.epochs": 9})

    assert variable["defaults"]["training"] == {"epochs": 3}


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("rollout.steps", [10, 25, 50], "must be percents that rise strictly and end in 100"),
        ("rollout.steps", [10, 50, 25, 100], "rise strictly"),
        ("rollout.steps", [10, 10, 100], "rise strictly"),
        ("rollout.steps", [], "end in 100"),
        ("rollout.steps", [-5, 100], "rise strictly"),
        ("rollout.steps", [50, 100, 150], "percents"),
        ("serving.min_replicas", 9, "min_replicas 9 must not exceed max_replicas 5"),
        ("serving.min_replicas", 0, "greater than or equal to 1"),
        ("serving.namespace", "Models!", "pattern"),
        ("serving.runtime", "torchserve", "'ml-lifecycle', 'triton-onnx'"),
        ("serving.cpu", "half", "pattern"),
        ("serving.cpu", "0m", "pattern"),
        ("serving.memory", "512mb", "pattern"),
        ("serving.cpu_limit", "0.4", "cpu_limit '0.4' must not be below cpu '500m'"),
        ("serving.memory_limit", "500M", "memory_limit '500M' must not be below memory '512Mi'"),
        ("serving.scale_target", 0, "greater than or equal to 1"),
        ("serving.container_concurrency", -1, "greater than or equal to 0"),
        ("serving.logger_url", "broker:80", "pattern"),
        ("serving.smoke_test_latency_ms", 0, "greater than 0"),
        ("cluster.compute_max_hosts", 1, "compute_max_hosts 1 must not be below compute_hosts 2"),
        ("cluster.image_version", "2.1", "Python 3.8"),
        ("dataset.name", "../secrets", "letters, digits"),
        ("dataset.holdout", 1.0, "less than 1"),
        ("dataset.channels", 4, "1 or 3"),
        ("gate.min_accuracy", 97, "less than or equal to 1"),
        ("training.fraction", 0, "greater than 0"),
        ("training.epochs", 0, "greater than or equal to 1"),
        ("rollout.on_deadline", "pray", "'roll_back' or 'freeze'"),
        ("data_lake", "http://bucket", "must be s3://bucket/prefix or file:///folder"),
        ("data_lake", "file:///a//lake", "must not hold empty folders"),
        ("data_lake", "file:///a/../lake", "must not hold empty folders"),
        ("data_lake", "s3://bucket//prefix", "must not hold empty folders"),
        ("data_lake", "file:///a/my%20lake", "must not hold '%': the URI is plain text, never decoded"),
        ("data_lake", "file:///a/my lake [v2]", "must not hold '[' ']'"),
        ("data_lake", "file:///a/c#projects/lake", "must not hold '#'"),
        ("data_lake", "s3://bucket/a?b", "must not hold '?'"),
        ("data_lake", "s3://bucket/a,b", "must not hold ','"),
        ("data_lake", "s3://bucket/my prefix", "must not hold a space"),
    ],
)
def test_bad_input_is_refused_with_field_value_and_what_is_allowed(path: str, value: Any, said: str) -> None:
    with pytest.raises(SettingsError) as raised:
        parsed(overrides={path: value}, cluster={"compute_hosts": 2})

    message = str(raised.value)
    assert said in message
    assert path.split(".")[-1] in message
    assert str(value).strip("[]") in message


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"deployment_mode": "Knative", "scale_metric": "cpu"}, r"'cpu' must be one of \['concurrency', 'rps'\]"),
        ({"deployment_mode": "Standard", "scale_metric": "rps"}, r"'rps' must be one of \['cpu', 'memory'\]"),
        ({"deployment_mode": "Knative", "autoscaler": "hpa"}, "autoscaler 'hpa' is for Standard mode"),
        ({"autoscaler": "keda", "scale_metric": "cpu"}, "'cpu' is refused by KServe with autoscaler 'keda'"),
        ({"scale_metric": "cpu", "scale_target": 101}, "scale_target 101 must be 1 to 100"),
        ({"deployment_mode": "Standard", "scale_target": 101}, "scale_target 101 must be 1 to 100"),
        ({"tolerations": [{"operator": "Exists", "value": "v", "key": "k"}]}, "value 'v' must not be given"),
        ({"node_selector": {"a b": "c"}}, r"node_selector.* = 'a b'"),
        ({"tolerations": [{"value": "v"}]}, "without a key the operator must be 'Exists'"),
        ({"tolerations": [{"key": "k", "toleration_seconds": 3}]}, "needs effect 'NoExecute'"),
        ({"tolerations": [{"keys": "k"}]}, r"tolerations\.0\.keys: unknown setting; allowed here are .*operator"),
    ],
)
def test_what_kserve_or_kubernetes_would_refuse_is_refused_at_once(given: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        parsed(serving=given)


@pytest.mark.parametrize("name", ["Digits", "1digits", "digits-", "di_gits", "a" * 41, "", "digits/../x", "модель"])
def test_names_that_kubernetes_or_yandex_would_refuse(name: str) -> None:
    with pytest.raises(SettingsError, match="at most 40 lower-case letters, digits and hyphens"):
        parsed(name)


@given(st.from_regex(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", fullmatch=True))
def test_every_allowed_name_makes_allowed_names_elsewhere(name: str) -> None:
    from ml_lifecycle.dataproc.cluster import cluster_name
    from ml_lifecycle.dataproc.names import LABEL_VALUE, RESOURCE_NAME

    assert parsed(name).model == name
    assert RESOURCE_NAME.fullmatch(cluster_name(name, "train_model", "manual__2026-01-01T00:00:00+00:00"))
    assert LABEL_VALUE.fullmatch(name)


def test_unknown_keys_are_refused_with_those_allowed() -> None:
    with pytest.raises(SettingsError, match=r"training.epoch: unknown setting; allowed here are .*epochs"):
        parsed(overrides={"training.epoch": 3})
    with pytest.raises(SettingsError, match="unknown key 'model'; allowed are"):
        parse_settings({"defaults": LAKE, "model": {}}, "digits")


@pytest.mark.parametrize(("variable", "said"), [("{", "is not JSON"), ("[]", "must be a JSON object, not list")])
def test_a_broken_variable_is_named(variable: str, said: str) -> None:
    with pytest.raises(SettingsError, match=f"Variable ml_lifecycle {said}"):
        parse_settings(variable, "digits")


COUNTS = {"kind": "counts", "name": "sold", "events": 'sum(sold{s="$side"})', "total": 'sum(seen{s="$side"})'}
GAUGE = {"kind": "gauge", "name": "score", "value": 'avg(score{pod=~"$pods"})', "tolerance": 0.1}


def test_metrics_of_ones_own_are_taken() -> None:
    found = parsed(overrides={"rollout.own_metrics": [COUNTS, {**GAUGE, "harm": "fewer"}]}).rollout.own_metrics

    assert [(metric.name, metric.kind, metric.harm) for metric in found] == [
        ("sold", "counts", "more"),
        ("score", "gauge", "fewer"),
    ]


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ([{**COUNTS, "total": "sum(seen)"}], "must name the side it asks for by $side or $pods"),
        (
            [{**COUNTS, "events": "sum(sold{r='$revision',s='$side'})"}],
            "unknown placeholder $revision; allowed are $side",
        ),
        ([{**COUNTS, "evnts": "x"}], "evnts: unknown setting; allowed here are events, floor, harm, kind"),
        ([{**GAUGE, "margin": 2}], "allowed here are harm, kind, name, tolerance, value"),
        ([{**COUNTS, "kind": "histogram"}], "'counts', 'gauge'"),
        ([{"name": "sold"}], "kind is missing: say 'counts' or 'gauge'"),
        ([{**GAUGE, "name": "errors"}], "name 'errors' is taken"),
        ([{**GAUGE, "tolerance": 0}], "greater than 0"),
        ([GAUGE, {**COUNTS, "name": "score"}], "own_metrics name 'score' twice"),
        ([{**COUNTS, "harm": "fewer", "floor": 0.1}], "floor 0.1 has no meaning where fewer events are harm"),
        ([{**GAUGE, "name": f"score{number}"} for number in range(9)], "at most 8"),
    ],
)
def test_bad_metrics_of_ones_own_are_refused(metrics: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(SettingsError) as raised:
        parsed(overrides={"rollout.own_metrics": metrics})

    assert said in str(raised.value)
    assert "rollout" in str(raised.value)


def test_servers_that_count_no_errors_need_queries_for_them() -> None:
    with pytest.raises(SettingsError, match=r"metrics 'kserve' needs errors.*rollout\.errors\.events"):
        parsed(overrides={"rollout.metrics": "kserve"})
    errors = {"events": 'sum(failed{p=~"$pods"})', "total": 'sum(all{p=~"$pods"})'}
    assert parsed(rollout={"metrics": "kserve", "errors": errors}).rollout.errors is not None


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(SettingsError) as raised:
        parsed(overrides={"training.epochs": 0, "gate.min_accuracy": 2})

    assert "training.epochs = 0" in str(raised.value)
    assert "gate.min_accuracy = 2" in str(raised.value)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        parsed().training.epochs = 9  # type: ignore[misc]


@given(st.lists(st.integers(-20, 120), max_size=6))
def test_steps_are_taken_exactly_when_they_rise_to_100(steps: list[int]) -> None:
    good = bool(steps) and steps == sorted(set(steps)) and steps[0] > 0 and steps[-1] == 100
    if good:
        assert parsed(overrides={"rollout.steps": steps}).rollout.steps == tuple(steps)
    else:
        with pytest.raises(SettingsError, match=r"rollout\.steps"):
            parsed(overrides={"rollout.steps": steps})


def test_every_place_of_every_model_is_swept_once() -> None:
    variable = {
        "defaults": {"cluster": {"folder_id": "common"}},
        "models": {
            "a": {"cluster": {"folder_id": "own"}},
            "b": {"training": {"epochs": "broken"}},
            "c": {"cluster": {"folder_id": None}, "connections": {"yandex": "other", "kubernetes": "far"}},
        },
    }

    assert places(variable) == {
        "clouds": [("other", ""), ("yandexcloud_default", "common"), ("yandexcloud_default", "own")],
        "kubernetes": [("far", "models"), ("kubernetes_default", "models")],
    }
    assert places({}) == {"clouds": [("yandexcloud_default", "")], "kubernetes": [("kubernetes_default", "models")]}


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([10, {"percent": 25, "aproval": True}, 100], "unknown setting; allowed here are approval, dwell_seconds"),
        ([{"percent": 10, "until": "6am"}, 100], "must be a time of day in UTC as in 06:30"),
        ([{"percent": 10, "until": "2026-12-01T06:30"}, 100], "or a moment with its zone"),
        ([50, 10, 100], "must be percents that rise strictly"),
        (["ten", 100], "valid integer"),
    ],
)
def test_a_step_that_is_not_understood_is_refused_with_what_is_allowed(steps, words):
    with pytest.raises(SettingsError, match=words):
        parse_settings({"defaults": {"data_lake": "file:///lake"}}, "digits", {"rollout.steps": steps})


def test_steps_may_be_percents_or_say_more():
    steps = [{"percent": 0, "until": "06:30"}, 10, {"percent": 50, "approval": True}, 100]
    found = parse_settings({"defaults": {"data_lake": "file:///lake"}}, "digits", {"rollout.steps": steps})
    assert [step if isinstance(step, int) else step.percent for step in found.rollout.steps] == [0, 10, 50, 100]


LOCKABLE = {
    "gate": {"min_accuracy": 0.8, "max_latency_ms": 20, "approval": {"required": True}},
    "cost": {"limit": 100},
    "serving": {"namespace": "models", "image": "registry/serving:1"},
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("gate.min_accuracy", 0.79),
        ("gate.max_accuracy_drop", 1),
        ("gate.max_latency_ms", 21),
        ("gate.approval.required", False),
        ("gate.approval.default", "approve"),
        ("gate.class_floors", {"cat": 0.1}),
        ("gate", {"min_accuracy": 0}),
        ("cost.limit", 1e9),
        ("serving.namespace", "kube-system"),
        ("serving.image", "attacker/serving:1"),
    ],
)
def test_a_param_cannot_loosen_what_is_locked_from_the_beginning(path: str, value: Any) -> None:
    settled = LOCKABLE | {"gate": LOCKABLE["gate"] | {"class_floors": {"cat": 0.9}}}
    with pytest.raises(SettingsError, match=r"it is locked at .*take '(gate|cost|serving.*)' out of its list `locked`"):
        parsed(overrides={path: value}, **settled)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("gate.min_accuracy", 0.9),
        ("gate.max_latency_ms", 10),
        ("gate.max_model_mb", 5),  # no limit before
        ("gate.approval.required", True),
        ("cost.limit", 99),
        ("serving.namespace", "models"),
        ("serving.min_replicas", 2),
    ],
)
def test_a_param_may_tighten_or_repeat_what_is_locked(path: str, value: Any) -> None:
    parsed(overrides={path: value}, **LOCKABLE)


def test_the_variable_says_what_is_locked() -> None:
    variable: dict[str, Any] = {"defaults": LAKE | LOCKABLE}
    asked = {"gate.min_accuracy": 0.1}
    assert parse_settings(variable | {"locked": []}, "digits", asked).gate.min_accuracy == 0.1
    assert parse_settings(variable | {"locked": ["gate.approval"]}, "digits", asked).gate.min_accuracy == 0.1
    with pytest.raises(SettingsError, match=r"training\.epochs = 9: it is locked at 5, and a run may not change it"):
        parse_settings(variable | {"locked": ["training"]}, "digits", {"training.epochs": 9})


@pytest.mark.parametrize(
    ("locked", "said"),
    [
        (["gate.aproval"], "locked names 'gate.aproval': no setting 'aproval'; known are .*'approval'"),
        ("gate", "locked must be a list"),
    ],
)
def test_a_lock_that_locks_nothing_is_refused(locked: Any, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        parse_settings({"defaults": LAKE, "locked": locked}, "digits", {"training.epochs": 9})


def test_a_refusal_shows_no_secret_anywhere_in_its_traceback() -> None:
    secret = "s3cr3t-of-the-webhook"
    notifier = {"notifier": "a.B", "arguments": {"password": secret, "deep": {"token": secret}}, "pass_phrase": secret}
    with pytest.raises(SettingsError) as raised:
        parsed(rollout={"notifiers": [notifier]}, experimnt=secret, serving={"imagee": {"a": [secret]}})
    assert secret not in "".join(traceback.format_exception(raised.value))


def test_another_person_cannot_be_nobody() -> None:
    with pytest.raises(SettingsError, match="without another person's word"):
        parsed(gate={"approval": {"required": True, "by_another": True, "default": "approve"}})


SECRETS = {
    "rollout": {"notifiers": [{"notifier": "a.B", "arguments": {"config": {"headers": {"Authorization": "s3cr3t"}}}}]},
    "cluster": {"spark_properties": {"spark.hadoop.fs.s3a.secret.key": "s3cr3t"}},
    "serving": {"logger_url": "http://user:s3cr3t@broker"},
    "training": {"initial_state": "https://user:s3cr3t@host/state.pt"},
    "experiment": "postgresql://u:s3cr3t@h/db",
}


@pytest.mark.parametrize("section", SECRETS)
def test_a_secret_anywhere_in_settings_is_refused_and_not_shown(section: str) -> None:
    with pytest.raises(SettingsError, match=r"secret|password in a URL") as raised:
        parsed(**{section: SECRETS[section]})
    assert "s3cr3t" not in "".join(traceback.format_exception(raised.value))


def test_a_webhook_in_a_notifier_is_a_secret_wherever_it_lies() -> None:
    hook = "https://hooks.slack.com/services/T0000000/B0000000/abcdefghijklmnop"
    with pytest.raises(SettingsError, match="would put a secret into settings") as raised:
        parsed(rollout={"notifiers": [{"notifier": "a.B", "arguments": {"to": [{"deep": hook}]}}]})
    assert "abcdefghijklmnop" not in "".join(traceback.format_exception(raised.value))


def test_label_matchers_of_queries_are_no_secrets() -> None:
    counts = {"events": 'sum(x{pod=~"$pods",token="bad"})', "total": 'sum(y{pod=~"$pods"})'}
    parsed(rollout={"errors": counts})


def test_a_bad_value_that_is_a_secret_is_not_repeated() -> None:
    with pytest.raises(SettingsError) as raised:
        parsed(serving={"namespace": "ghp_" + "a1B2" * 10, "image": "x"}, training={"epochs": "password=s3cr3t"})
    assert "a1B2" not in str(raised.value)
    assert "s3cr3t" not in str(raised.value)
