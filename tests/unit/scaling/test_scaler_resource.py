from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from ml_lifecycle.resources import resource
from ml_lifecycle.scaling.exceptions import InvalidScalerError
from ml_lifecycle.scaling.resource import ScalerSpec, parse_scaler, parse_spec
from tests.unit.scaling.scaler_objects import SPEC, inference_service_target, manifest, spec


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"minReplicas": 11}, "minReplicas 11 must not exceed maxReplicas 10"),
        ({"metric": {}}, "spec.metric: give either query"),
        ({"metric": {"query": "up", "preset": "requests_per_second"}}, "not both"),
        ({"metric": {"query": "up", "source": "istio"}}, "source 'istio' says who counts for a preset"),
        ({"metric": {"preset": "requests_per_second"}}, "InferenceService, and targetRef is a Deployment"),
        ({"capacityPerReplica": 0}, r"spec.capacityPerReplica = 0: .*greater than 0"),
        ({"quantile": 1.5}, r"spec.quantile = 1.5: .*less than or equal to 0.999"),
        ({"quantile": 0.9, "sloViolationPercent": 1}, "steers it: give one"),
        ({"mode": "automatic"}, r"spec.mode = 'automatic': .*'auto', 'dryRun', 'reactiveOnly' or 'off'"),
        ({"minReplica": 2}, "spec.minReplica: unknown field"),
        ({"behavior": {"scaleDown": {"maxPercent": 101}}}, r"spec.behavior.scaleDown.maxPercent = 101"),
        ({"capacityPerReplica": float("nan")}, r"spec.capacityPerReplica = nan"),
    ],
)
def test_refuses_with_field_and_value(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidScalerError, match=says):
        spec(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "../kube-system/deployment"},
        {"kind": "../../namespaces/kube-system/deployment"},
        {"kind": "Deployment/x"},
        {"kind": "Deployment?x=y"},
        {"kind": "Deployment#"},
        {"kind": "%2e%2e"},
        {"kind": ".."},
        {"kind": "Deployment\n"},
        {"kind": ""},
        {"kind": "deployment"},
        {"kind": 5},
        {"apiVersion": "apps/v1/namespaces/kube-system"},
        {"apiVersion": "../v1"},
        {"apiVersion": "apps/../v1"},
        {"apiVersion": "apps"},
        {"apiVersion": "apps/v1?x"},
        {"apiVersion": "a..b/v1"},
        {"apiVersion": "%2e%2e/v1"},
        {"apiVersion": "apps/v1\n"},
        {"name": "../x"},
        {"name": ".."},
        {"name": "a..b"},
        {"name": "a/b"},
        {"name": "a%2fb"},
        {"name": "web\n"},
        {"apiVersion": "v1", "kind": "Namespace", "name": "kube-system"},
    ],
    ids=repr,
)
def test_a_target_can_only_be_an_object_of_the_scalers_own_namespace(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidScalerError, match=r"spec\.targetRef"):
        spec(targetRef={**SPEC["targetRef"], **changes})


@pytest.mark.parametrize("api_version", ["v1", "apps/v1", "argoproj.io/v1alpha1", "leaderworkerset.x-k8s.io/v1beta2"])
def test_what_has_a_scale_subresource_may_be_a_target(api_version: str) -> None:
    target = {"apiVersion": api_version, "kind": "Rollout", "name": "my.web-1"}
    assert spec(targetRef=target).target_ref.api_version == api_version


@pytest.mark.parametrize("odd", [None, "text", 5, [], [1], {"metric": None}, {"targetRef": []}])
def test_an_odd_spec_is_an_invalid_scaler(odd: Any) -> None:
    scaler = parse_scaler({**manifest(), "spec": odd})
    assert scaler.spec is None
    assert scaler.invalid.startswith("spec")


@pytest.mark.parametrize(
    "status",
    [
        "text",
        5,
        [],
        {"conditions": None},
        {"conditions": [None, 5, {"type": "Ready"}, {"type": "Ready", "status": "True", "lastTransitionTime": None}]},
        {"scalingPeriod": "Up"},
        {"scalingPeriod": {"direction": "Up", "startTime": None, "replicas": 3}},
        {"scalingPeriod": {"direction": "Up", "startTime": "2026-11-21T12:00:00", "replicas": 3}},
        {"scalingPeriod": {"direction": "Up", "startTime": "2026-11-21T12:00:00Z", "replicas": 10**30}},
        {"lastScaleTime": None},
        {"lastScaleTime": 5},
        {"measuredTime": "yesterday"},
        {"capacityPerReplica": "much"},
        {"capacityPerReplica": -5},
        {"desiredReplicas": "three"},
        {"desiredReplicas": -3},
        {"desiredReplicas": 10**30},
        {"forecast": 5},
        {"forecast": {"peak": "high"}},
        {"target": "web"},
    ],
    ids=repr,
)
def test_what_cannot_be_read_of_a_status_is_forgotten(status: Any) -> None:
    scaler = parse_scaler(manifest(status=status))
    assert scaler.status == {}
    assert scaler.spec is not None


def test_what_can_be_read_of_a_status_is_remembered() -> None:
    condition = {
        "type": "Ready",
        "status": "True",
        "reason": "LoadRises",
        "message": "",
        "observedGeneration": 3,
        "lastTransitionTime": "2026-11-21T12:00:00Z",
    }
    period = {"direction": "Down", "startTime": "2026-11-21T12:00:00Z", "replicas": 3}
    status = {"load": 5.5, "desiredReplicas": 4, "scalingPeriod": period, "conditions": [condition]}
    assert parse_scaler(manifest(status={**status, "older": 1})).status == status


def test_missing_fields_are_named_at_once() -> None:
    with pytest.raises(InvalidScalerError) as error:
        parse_spec({})
    for field in ("targetRef", "maxReplicas", "metric"):
        assert f"spec.{field}: required" in str(error.value)


def test_an_invalid_object_is_still_a_scaler() -> None:
    scaler = parse_scaler(manifest(maxReplicas=0))
    assert scaler.spec is None
    assert "spec.maxReplicas = 0" in scaler.invalid


def test_the_horizon_holds_lead_time_tick_and_the_age_of_the_metric() -> None:
    assert spec().horizon_steps(5) == 3 + 1
    assert spec().horizon_steps(60) == 3 + 12
    preset = spec(targetRef=inference_service_target(), metric={"preset": "requests_per_second"})
    assert preset.horizon_steps(5) == 3 + 1 + 2


def test_the_quantile_follows_from_the_slo() -> None:
    assert spec().covered == 0.95
    assert spec(quantile=0.9).covered == 0.9
    assert spec(sloViolationPercent=0.5).covered == pytest.approx(0.995)


def test_the_plural_of_an_unknown_kind_is_regular() -> None:
    kinds = {"Rollout": "rollouts", "Proxy": "proxies", "Mesh": "meshes", "Relay": "relays"}
    for kind, plural in kinds.items():
        target = spec(targetRef={"apiVersion": "example.com/v1", "kind": kind, "name": "x"}).target_ref
        assert target.resource_kind.plural == plural


def test_the_schema_of_the_crd_says_what_the_code_says() -> None:
    """Every field, default and limit stands in both places."""
    crd = yaml.safe_load(resource("k8s_templates/mlscaler_crd.yaml").read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    _same(ScalerSpec, schema)
    full = parse_spec({key: value for key, value in SPEC.items() if key in schema["required"]})
    written = full.model_dump(by_alias=True)
    for name, field in schema["properties"].items():
        if "default" in field and field["type"] != "object":
            assert written[name] == field["default"], name


def _same(model: type[BaseModel], schema: dict[str, Any]) -> None:
    ours = model.model_json_schema(by_alias=True)
    definitions = ours.get("$defs", {})
    assert set(ours["properties"]) == set(schema["properties"])
    assert set(ours.get("required", [])) == set(schema.get("required", []))
    for name, theirs in schema["properties"].items():
        mine = ours["properties"][name]
        if "anyOf" in mine:
            mine = {**mine, **mine["anyOf"][0]}
        reference = mine.get("$ref") or (mine.get("allOf") or [{}])[0].get("$ref")
        if reference:
            _same_definition(definitions[reference.rpartition("/")[2]], theirs, definitions)
            continue
        _same_limits(name, mine, theirs)


def _same_definition(mine: dict[str, Any], theirs: dict[str, Any], definitions: dict[str, Any]) -> None:
    assert set(mine["properties"]) == set(theirs["properties"])
    for name, field in theirs["properties"].items():
        inner = mine["properties"][name]
        reference = inner.get("$ref")
        if reference:
            _same_definition(definitions[reference.rpartition("/")[2]], field, definitions)
        else:
            _same_limits(name, {**inner, **(inner.get("anyOf") or [{}])[0]}, field)


def _same_limits(name: str, mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    lowest = (mine.get("minimum", mine.get("exclusiveMinimum")), "exclusiveMinimum" in mine)
    highest = (mine.get("maximum", mine.get("exclusiveMaximum")), "exclusiveMaximum" in mine)
    assert lowest == (theirs.get("minimum"), theirs.get("exclusiveMinimum", False)), name
    assert highest == (theirs.get("maximum"), theirs.get("exclusiveMaximum", False)), name
    for key in ("minLength", "maxLength", "pattern"):
        assert mine.get(key) == theirs.get(key), f"{name} {key}"
    allowed = mine.get("enum") or ([mine["const"]] if "const" in mine else None)
    assert allowed == theirs.get("enum"), name


def test_the_template_renders_a_valid_scaler() -> None:
    from jinja2 import StrictUndefined, Template

    text = Template(resource("k8s_templates/mlscaler.yaml").read_text(), undefined=StrictUndefined).render(
        name="digits", namespace="models", capacity_per_replica=25, mode="off"
    )
    document = yaml.safe_load(text)
    assert parse_spec(document["spec"]).mode == "off"


def test_the_template_leaves_out_what_is_measured() -> None:
    from jinja2 import StrictUndefined, Template

    text = Template(resource("k8s_templates/mlscaler.yaml").read_text(), undefined=StrictUndefined).render(
        name="digits", namespace="models", slo_violation_percent=0.5
    )
    written = parse_spec(yaml.safe_load(text)["spec"])
    assert written.measures
    assert written.covered == pytest.approx(0.995)


def test_the_role_allows_no_wildcard_and_no_secrets() -> None:
    text = resource("k8s_templates/scaler_role.yaml").read_text()
    text = re.sub(r"{{ *(\w+) \| tojson *}}", "x", text)
    role = next(iter(yaml.safe_load_all(text)))
    for rule in role["rules"]:
        assert "*" not in rule["resources"] + rule["verbs"] + rule["apiGroups"]
        assert "secrets" not in rule["resources"]
        assert set(rule["verbs"]) <= {"get", "list", "patch"}
