import pytest

from local.kubernetes.rules import UnsupportedRuleError, broken_rules, evaluate
from local.kubernetes.schema import prune, unknown_fields, validate, with_defaults

SCHEMA = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "required": ["metric"],
            "properties": {
                "metric": {"type": "string", "enum": ["rps", "load"]},
                "replicas": {"type": "integer", "minimum": 1, "maximum": 9, "default": 1},
                "quantile": {"type": "number", "exclusiveMinimum": True, "minimum": 0},
                "port": {"x-kubernetes-int-or-string": True},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                "steps": {"type": "array", "maxItems": 2, "items": {"type": "object", "properties": {"a": {}}}},
                "at": {"type": "string", "format": "date-time"},
                "limits": {"type": "object", "default": {}, "properties": {"pods": {"type": "integer", "default": 4}}},
            },
        }
    },
}


def problems(**spec):
    return [path for path, _, _ in validate({"spec": {"metric": "rps", **spec}}, SCHEMA)]


def test_unknown_fields_are_pruned_and_named():
    body = {"apiVersion": "v1", "metadata": {"x": 1}, "spec": {"nope": 1, "free": {"any": 1}, "steps": [{"b": 1}]}}
    assert prune(body, SCHEMA) == {
        "apiVersion": "v1",
        "metadata": {"x": 1},
        "spec": {"free": {"any": 1}, "steps": [{}]},
    }
    assert unknown_fields(body, SCHEMA) == ["spec.nope", "spec.steps[0].b"]


def test_defaults_fill_what_is_absent_and_go_into_defaults():
    assert with_defaults({"spec": {"metric": "rps"}}, SCHEMA)["spec"] == {
        "metric": "rps",
        "replicas": 1,
        "limits": {"pods": 4},
    }
    assert with_defaults({"spec": {"replicas": 3, "limits": {"pods": 1}}}, SCHEMA)["spec"]["limits"] == {"pods": 1}


def test_what_fits_has_no_problems():
    fitting = {"replicas": 3, "quantile": 0.5, "port": "http", "labels": {"a": "b"}, "steps": [{}, {}]}
    assert problems(**fitting, at="2026-01-01T00:00:00.000000Z") == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("metric", "other"),
        ("replicas", 0),
        ("replicas", 10),
        ("replicas", "3"),
        ("replicas", True),
        ("replicas", 1.5),
        ("quantile", 0),
        ("port", 1.5),
        ("at", "yesterday"),
        ("at", "2026-01-01T00:00:00"),
        ("steps", [{}, {}, {}]),
        ("steps", {}),
    ],
)
def test_what_does_not_fit_is_named(field, value):
    assert problems(**{field: value}) == [f"spec.{field}"]


def test_problems_inside_lists_and_maps_are_named():
    assert problems(steps=[{}, 3], labels={"a": 1}) == ["spec.steps[1]", "spec.labels.a"]
    assert [path for path, kind, _ in validate({"spec": {}}, SCHEMA) if kind == "Required value"] == ["spec.metric"]


@pytest.mark.parametrize(
    ("rule", "value", "holds"),
    [
        ("self.low <= self.high", {"low": 1, "high": 2}, True),
        ("self.low <= self.high", {"low": 3, "high": 2}, False),
        ("!has(self.low) || self.low < 2", {}, True),
        ("has(self.query) != has(self.preset)", {"query": "x"}, True),
        ("has(self.query) != has(self.preset)", {"query": "x", "preset": "y"}, False),
        ("!has(self.preset) || self.kind == 'Service'", {"preset": 1, "kind": "Other"}, False),
        ("self.low <= (has(self.high) ? self.high : 100)", {"low": 50}, True),
        ("self.low <= (has(self.high) ? self.high : 100)", {"low": 50, "high": 10}, False),
        ("size(self.name) < 5 && !(self.name in ['no'])", {"name": "yes"}, True),
        ("self.name.matches('^[a-z]+$')", {"name": "A"}, False),
    ],
)
def test_rules_hold_or_not(rule, value, holds):
    assert evaluate(rule, value) is holds
    broken = list(broken_rules(value, {"x-kubernetes-validations": [{"rule": rule, "message": "broken"}]}))
    assert broken == ([] if holds else ["broken"])


def test_a_rule_beyond_the_subset_is_taken_as_kept():
    rule = "self.items.all(x, x > 1)"
    with pytest.raises(UnsupportedRuleError):
        evaluate(rule, {"items": [1]})
    assert list(broken_rules({"items": [1]}, {"x-kubernetes-validations": [{"rule": rule}]})) == []
