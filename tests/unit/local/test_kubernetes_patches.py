import pytest

from local.kubernetes.patches import json_patch, merge_patch, strategic_merge_patch
from local.kubernetes.selectors import field_predicate, label_predicate
from ml_lifecycle.kubernetes.exceptions import InvalidError

KEYED = {
    "properties": {
        "items": {
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object"},
        }
    }
}


def test_merge_patch_merges_removes_and_replaces_lists():
    target = {"a": {"b": 1, "c": 2}, "l": [1, 2]}
    assert merge_patch(target, {"a": {"b": None, "d": 3}, "l": [3]}) == {"a": {"c": 2, "d": 3}, "l": [3]}
    assert target == {"a": {"b": 1, "c": 2}, "l": [1, 2]}
    assert merge_patch({"a": 1}, {"a": {"b": None}}) == {"a": {}}


def test_strategic_merge_patch_merges_items_by_their_key():
    target = {"items": [{"name": "a", "x": 1}, {"name": "b"}], "labels": {"k": "v"}}
    patch = {"items": [{"name": "a", "y": 2}, {"name": "b", "$patch": "delete"}, {"name": "c"}], "labels": {"l": "w"}}
    assert strategic_merge_patch(target, patch, KEYED) == {
        "items": [{"name": "a", "x": 1, "y": 2}, {"name": "c"}],
        "labels": {"k": "v", "l": "w"},
    }
    assert strategic_merge_patch({"labels": {"k": "v"}}, {"labels": {"$patch": "replace", "a": "b"}}, None) == {
        "labels": {"a": "b"}
    }


def test_json_patch_follows_pointers():
    target = {"a": {"b/c": [1, 2]}, "d": 1}
    operations = [
        {"op": "test", "path": "/d", "value": 1},
        {"op": "add", "path": "/a/b~1c/-", "value": 3},
        {"op": "replace", "path": "/a/b~1c/0", "value": 0},
        {"op": "remove", "path": "/d"},
    ]
    assert json_patch(target, operations) == {"a": {"b/c": [0, 2, 3]}}


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "remove", "path": "/x"},
        {"op": "replace", "path": "/x", "value": 1},
        {"op": "test", "path": "/d", "value": 2},
        {"op": "add", "path": "/x/y", "value": 1},
    ],
)
def test_json_patch_refuses_what_does_not_fit(operation):
    with pytest.raises(InvalidError):
        json_patch({"d": 1}, [operation])


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ("", True),
        ("app=web", True),
        ("app==web,tier!=db", True),
        ("app!=web", False),
        ("absent!=x", True),
        ("app in (api, web)", True),
        ("app notin (web)", False),
        ("absent notin (web)", True),
        ("app,!absent", True),
        ("!app", False),
        ("empty=", True),
        ("example.com/part-of=it", True),
        ("app=other,example.com/part-of=it", False),
    ],
)
def test_label_selectors(selector, matches):
    labels = {"app": "web", "empty": "", "example.com/part-of": "it"}
    assert label_predicate(selector)({"metadata": {"labels": labels}}) is matches


@pytest.mark.parametrize("selector", ["a in b", "=x", "a=b c"])
def test_malformed_selectors_are_refused(selector):
    with pytest.raises(InvalidError):
        label_predicate(selector)


def test_field_selectors():
    pod = {"metadata": {"name": "p"}, "status": {"phase": "Running"}}
    assert field_predicate("metadata.name=p,status.phase!=Failed")(pod)
    assert not field_predicate("status.phase==Failed")(pod)
    assert field_predicate("spec.nodeName=")(pod)
    with pytest.raises(InvalidError):
        field_predicate("metadata.name")
