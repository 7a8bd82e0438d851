import asyncio
from datetime import UTC, datetime

import pytest

from local.kubernetes.store import Store
from ml_lifecycle.kubernetes.exceptions import (
    AlreadyExistsError,
    ConflictError,
    ExpiredError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
)
from ml_lifecycle.kubernetes.resource import CONFIG_MAP, EVENT, INFERENCE_SERVICE, NAMESPACE, POD, ResourceKind

NOW = datetime(2026, 1, 1, tzinfo=UTC)
THING = ResourceKind("example.com", "v1", "Thing", "things")


@pytest.fixture
def store():
    made = Store(clock=lambda: NOW)
    made.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "models"}})
    return made


def config_map(name, owners=(), **metadata):
    references = [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"]}
        for owner in owners
    ]
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "models", "ownerReferences": references, **metadata},
    }


def definition(version="v1", **schema):
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {"kind": "Thing", "plural": "things"},
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": schema}}},
                }
            ],
        },
    }


def thing(**spec):
    return {
        "apiVersion": "example.com/v1",
        "kind": "Thing",
        "metadata": {"name": "t", "namespace": "models"},
        "spec": spec,
    }


def test_objects_are_copies_both_ways(store):
    body = config_map("a", labels={"k": "v"})
    stored = store.create(body)
    body["metadata"]["labels"]["k"] = "changed"
    stored["metadata"]["labels"]["k"] = "changed"
    assert store.get(CONFIG_MAP, "a", "models")["metadata"]["labels"] == {"k": "v"}


def test_versions_rise_with_every_write(store):
    first = store.create(config_map("a"))
    second = store.create(config_map("b"))
    assert int(first["metadata"]["resourceVersion"]) < int(second["metadata"]["resourceVersion"]) == int(store.version)


def test_an_update_needs_the_present_version(store):
    old = store.create(config_map("a"))
    store.update({**old, "data": {"x": "1"}})
    with pytest.raises(ConflictError):
        store.update({**old, "data": {"x": "2"}})


def test_owned_objects_go_with_their_last_owner(store):
    first, second = store.create(config_map("first")), store.create(config_map("second"))
    store.create(config_map("of-both", [first, second]))
    child = store.create(config_map("of-first", [first]))
    store.create(config_map("grandchild", [child]))
    store.delete(CONFIG_MAP, "first", "models")
    assert {item["metadata"]["name"] for item in store.list(CONFIG_MAP)} == {"second", "of-both"}
    store.delete(CONFIG_MAP, "second", "models", orphan=True)
    assert [item["metadata"]["name"] for item in store.list(CONFIG_MAP)] == ["of-both"]


def test_a_namespace_goes_when_it_is_empty(store):
    store.create(config_map("a"))
    store.create(config_map("held", finalizers=["example.com/hold"]))
    store.delete(NAMESPACE, "models")
    assert store.get(NAMESPACE, "models")["status"] == {"phase": "Terminating"}
    with pytest.raises(ForbiddenError):
        store.create(config_map("late"))
    store.merge_patch(CONFIG_MAP, "held", "models", {"metadata": {"finalizers": []}})
    assert store.find(NAMESPACE, "models") is None
    assert store.list(CONFIG_MAP) == []


def test_a_running_pod_waits_for_its_node(store):
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "models"},
        "spec": {"nodeName": "laptop", "containers": [{"name": "c"}]},
    }
    store.create(body)
    assert store.delete(POD, "p", "models")
    leaving = store.get(POD, "p", "models")
    assert leaving["metadata"]["deletionTimestamp"] == "2026-01-01T00:00:30Z"
    version = leaving["metadata"]["resourceVersion"]
    assert store.delete(POD, "p", "models")
    assert store.get(POD, "p", "models")["metadata"]["resourceVersion"] == version
    store.delete(POD, "p", "models", grace_period_seconds=0)
    assert store.find(POD, "p", "models") is None
    store.create(body)
    store.update_status(POD, "p", "models", {"phase": "Succeeded"})
    store.delete(POD, "p", "models")
    assert store.find(POD, "p", "models") is None


def test_status_is_written_apart(store):
    store.create(
        {
            **config_map("x"),
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "spec": {"predictor": {}},
        }
    )
    written = store.update_status(INFERENCE_SERVICE, "x", "models", {"url": "http://x"})
    assert (written["status"]["url"], written["metadata"]["generation"]) == ("http://x", 1)
    assert store.update_status(INFERENCE_SERVICE, "x", "models", {"url": "http://x"}) == written


def test_too_large_a_config_map_is_refused(store):
    with pytest.raises(InvalidError, match="Too long"):
        store.create({**config_map("a"), "data": {"x": "y" * (1024 * 1024 + 1)}})


def test_events_are_about_an_object(store):
    store.record_event(store.create(config_map("a")), "Failed", "it broke", type_="Warning")
    (event,) = store.list(EVENT, "models", field_selector="involvedObject.name=a,involvedObject.kind=ConfigMap")
    assert (event["reason"], event["message"], event["type"]) == ("Failed", "it broke", "Warning")


def test_a_definition_adds_a_kind_and_takes_it_away(store):
    with pytest.raises(NotFoundError):
        store.list(THING)
    store.create(definition(type="object", properties={"size": {"type": "integer", "default": 2, "maximum": 3}}))
    assert store.create(thing(other=1))["spec"] == {"size": 2}
    with pytest.raises(AlreadyExistsError):
        store.create(thing())
    with pytest.raises(InvalidError, match=r"spec\.size"):
        store.merge_patch(THING, "t", "models", {"spec": {"size": 4}})
    store.delete(
        ResourceKind("apiextensions.k8s.io", "v1", "", "customresourcedefinitions", False), "things.example.com"
    )
    with pytest.raises(NotFoundError):
        store.list(THING)


def test_a_changed_definition_holds_at_once(store):
    store.create(definition(type="object", properties={"size": {"type": "integer"}}))
    store.apply(
        definition(type="object", properties={"size": {"type": "integer"}, "colour": {"type": "string"}}),
        field_manager="kubectl",
        force=True,
    )
    assert store.create(thing(colour="red"))["spec"] == {"colour": "red"}


async def test_subscriptions_begin_with_what_exists_and_go_on(store):
    store.create(config_map("a"))
    changes = store.subscribe(CONFIG_MAP, "models")
    store.merge_patch(CONFIG_MAP, "a", "models", {"data": {"x": "y"}})
    await asyncio.to_thread(store.delete, CONFIG_MAP, "a", "models")
    seen = [(await anext(changes))[0] for _ in range(3)]
    assert seen == ["ADDED", "MODIFIED", "DELETED"]
    changes.close()
    assert [change async for change in changes] == []


async def test_what_is_forgotten_is_expired():
    store = Store(history=3)
    version = store.version
    for number in range(4):
        store.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"n{number}"}})
    with pytest.raises(ExpiredError):
        store.subscribe(CONFIG_MAP, resource_version=version)
    with pytest.raises(ExpiredError):
        store.subscribe(CONFIG_MAP, resource_version="9999")
    store.subscribe(CONFIG_MAP, resource_version=str(int(store.version) - 3)).close()
