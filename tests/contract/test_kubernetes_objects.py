"""Objects: names, versions, subresources, deletion; what the package relies on."""

import pytest

from ml_lifecycle.kubernetes.conditions import Progress, Verdict
from ml_lifecycle.kubernetes.exceptions import (
    AlreadyExistsError,
    ConflictError,
    InvalidError,
    KubernetesError,
    NotFoundError,
)
from ml_lifecycle.kubernetes.resource import CONFIG_MAP, DEPLOYMENT, INFERENCE_SERVICE, LEASE, POD, ResourceKind


def config_map(namespace, name="settings", **metadata):
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace, **metadata},
        "data": {"colour": "red"},
    }


def pod(namespace, name="worker", **spec):
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {"containers": [{"name": "base", "image": "worker:1"}], **spec},
    }


def gone(found):
    return Verdict(Progress.WAITING if found else Progress.MET, "it is there")


def deployment(namespace, replicas=2):
    template = {
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "web", "image": "web:1"}]},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": namespace},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template},
    }


async def test_a_created_object_can_be_read_and_has_an_identity(client, namespace):
    created = await client.create(config_map(namespace))
    read = await client.get(CONFIG_MAP, "settings", namespace)
    assert read == created
    assert read["data"] == {"colour": "red"}
    assert all(read["metadata"][field] for field in ("uid", "resourceVersion", "creationTimestamp"))


async def test_a_second_creation_of_a_name_is_refused(client, namespace):
    await client.create(config_map(namespace))
    with pytest.raises(AlreadyExistsError) as refused:
        await client.create(config_map(namespace))
    assert (refused.value.status, refused.value.reason) == (409, "AlreadyExists")


async def test_an_absent_object_and_an_absent_kind_are_not_found(client, namespace):
    with pytest.raises(NotFoundError) as absent:
        await client.get(CONFIG_MAP, "nothing", namespace)
    assert absent.value.reason == "NotFound"
    assert absent.value.details["name"] == "nothing"
    assert await client.find(CONFIG_MAP, "nothing", namespace) is None
    with pytest.raises(NotFoundError):
        await client.list(ResourceKind("ml-lifecycle.io", "v1", "Nothing", "nothings"), namespace)


async def test_a_namespace_must_exist(client):
    with pytest.raises(NotFoundError, match="namespaces"):
        await client.create(config_map("no-such-namespace"))


async def test_generate_name_makes_distinct_names(client, namespace):
    body = config_map(namespace, generateName="run-")
    del body["metadata"]["name"]
    names = {(await client.create(body))["metadata"]["name"] for _ in range(3)}
    assert len(names) == 3
    assert all(name.startswith("run-") for name in names)


@pytest.mark.parametrize("name", ["Upper", "under_score", "-dash", "dot.", "a" * 254])
async def test_names_kubernetes_would_refuse_are_invalid(client, namespace, name):
    with pytest.raises(InvalidError) as refused:
        await client.create(config_map(namespace, name))
    assert (refused.value.status, refused.value.reason) == (422, "Invalid")


@pytest.mark.parametrize("value", ["manual__2026-01-01T00:00:00+00:00", "a" * 64, "-dash", "two words"])
async def test_label_values_kubernetes_would_refuse_are_invalid(client, namespace, value):
    with pytest.raises(InvalidError):
        await client.create(config_map(namespace, labels={"run": value}))


async def test_a_merge_patch_changes_and_removes(client, namespace):
    await client.create(config_map(namespace))
    patched = await client.merge_patch(CONFIG_MAP, "settings", namespace, {"data": {"size": "10", "colour": None}})
    assert patched["data"] == {"size": "10"}


async def test_a_patch_with_an_old_version_conflicts(client, namespace):
    old = (await client.create(config_map(namespace)))["metadata"]["resourceVersion"]
    await client.merge_patch(CONFIG_MAP, "settings", namespace, {"data": {"size": "10"}})
    patch = {"metadata": {"resourceVersion": old}, "data": {"size": "20"}}
    with pytest.raises(ConflictError) as refused:
        await client.merge_patch(CONFIG_MAP, "settings", namespace, patch)
    assert (refused.value.status, refused.value.reason, refused.value.owners) == (409, "Conflict", {})


async def test_a_patch_that_changes_nothing_is_no_write(client, namespace):
    before = await client.create(config_map(namespace))
    after = await client.merge_patch(CONFIG_MAP, "settings", namespace, {"data": {"colour": "red"}})
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


async def test_status_and_spec_are_written_apart(client, namespace):
    created = await client.create({**deployment(namespace), "status": {"replicas": 7}})
    assert created["metadata"]["generation"] == 1
    assert created.get("status", {}).get("replicas") is None
    status = {"status": {"replicas": 2, "readyReplicas": 1}, "spec": {"replicas": 9}}
    written = await client.merge_patch(DEPLOYMENT, "web", namespace, status, subresource="status")
    assert (written["spec"]["replicas"], written["status"]["readyReplicas"]) == (2, 1)
    assert written["metadata"]["generation"] == 1
    patch = {"spec": {"replicas": 3}, "status": {"readyReplicas": 8}}
    written = await client.merge_patch(DEPLOYMENT, "web", namespace, patch)
    assert written["spec"]["replicas"] == 3
    assert written["status"].get("readyReplicas") != 8  # where there are controllers they have written it meanwhile
    assert written["metadata"]["generation"] == 2


async def test_labels_do_not_count_as_a_new_generation(client, namespace):
    await client.create(deployment(namespace))
    patched = await client.merge_patch(DEPLOYMENT, "web", namespace, {"metadata": {"labels": {"a": "b"}}})
    assert patched["metadata"]["generation"] == 1


async def test_the_scale_subresource_sets_replicas_only(client, namespace):
    before = await client.create(deployment(namespace))
    scale = await client.merge_patch(DEPLOYMENT, "web", namespace, {"spec": {"replicas": 5}}, subresource="scale")
    assert (scale["kind"], scale["spec"]["replicas"]) == ("Scale", 5)
    after = await client.get(DEPLOYMENT, "web", namespace)
    assert after["spec"] == {**before["spec"], "replicas": 5}
    assert after["metadata"]["generation"] == 2


async def test_a_wrong_type_is_refused(client, namespace):
    with pytest.raises(KubernetesError):
        await client.create(deployment(namespace, replicas="many"))


async def test_selectors_choose_by_labels_and_fields(client, namespace):
    await client.create(config_map(namespace, "one", labels={"track": "stable", "tier": "web"}))
    await client.create(config_map(namespace, "two", labels={"track": "canary"}))
    await client.create(config_map(namespace, "three"))

    async def names(labels=None, fields=None):
        found = await client.list(CONFIG_MAP, namespace, labels, fields)
        # A cluster's own controller adds one to every namespace.
        return {item["metadata"]["name"] for item in found} - {"kube-root-ca.crt"}

    assert await names() == {"one", "two", "three"}
    assert await names("track=stable") == {"one"}
    assert await names("track!=stable") == {"two", "three"}
    assert await names("track in (stable, canary),tier") == {"one"}
    assert await names("track notin (stable),!tier") == {"two", "three"}
    assert await names("!track") == {"three"}
    assert await names(fields="metadata.name=two") == {"two"}
    assert await names("track", "metadata.name!=two") == {"one"}


async def test_list_items_say_what_they_are(client, namespace):
    await client.create(config_map(namespace))
    found = await client.list(CONFIG_MAP, namespace, field_selector="metadata.name=settings")
    assert [(item["apiVersion"], item["kind"]) for item in found] == [("v1", "ConfigMap")]


async def test_events_are_found_by_the_object_they_are_about(client, namespace):
    for about in ("worker", "other"):
        await client.create(
            {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"name": f"{about}.1", "namespace": namespace},
                "involvedObject": {"kind": "Pod", "name": about, "namespace": namespace},
                "reason": "Started",
                "type": "Normal",
            }
        )
    kind = ResourceKind("", "v1", "Event", "events")
    found = await client.list(kind, namespace, field_selector="involvedObject.name=worker")
    assert [event["metadata"]["name"] for event in found] == ["worker.1"]


async def test_deletion_says_whether_there_was_anything(client, namespace):
    await client.create(config_map(namespace))
    assert await client.delete(CONFIG_MAP, "settings", namespace) is True
    assert await client.delete(CONFIG_MAP, "settings", namespace) is False


async def test_deletion_of_another_version_conflicts(client, namespace):
    created = await client.create(config_map(namespace))
    await client.merge_patch(CONFIG_MAP, "settings", namespace, {"data": {"size": "1"}})
    with pytest.raises(ConflictError):
        await client.delete(CONFIG_MAP, "settings", namespace, resource_version=created["metadata"]["resourceVersion"])


async def test_finalizers_hold_an_object_until_the_last_is_removed(client, namespace):
    await client.create(config_map(namespace, finalizers=["ml-lifecycle.io/contract"]))
    assert await client.delete(CONFIG_MAP, "settings", namespace)
    leaving = await client.get(CONFIG_MAP, "settings", namespace)
    assert leaving["metadata"]["deletionTimestamp"]
    await client.merge_patch(CONFIG_MAP, "settings", namespace, {"metadata": {"finalizers": None}})
    assert await client.find(CONFIG_MAP, "settings", namespace) is None


async def test_a_pod_starts_pending_and_is_deleted_at_once_while_no_node_has_it(client, namespace):
    body = pod(namespace, schedulerName="nobody", terminationGracePeriodSeconds=1)
    created = await client.create(body)
    assert created["status"]["phase"] == "Pending"
    assert created["spec"]["restartPolicy"] == "Always"
    await client.delete(POD, "worker", namespace)
    left = await client.find(POD, "worker", namespace)
    # Where there are nodes, something may bind a pod whatever scheduler it names; then it goes with its grace.
    assert left is None or left["spec"].get("nodeName")
    await client.wait(POD, "worker", namespace, gone, timeout_seconds=60, poll_seconds=0.2)


async def test_a_pod_on_a_node_is_deleted_with_grace(client, namespace):
    await client.create(pod(namespace, nodeName="no-such-node", terminationGracePeriodSeconds=60))
    await client.delete(POD, "worker", namespace, grace_period_seconds=20)
    leaving = await client.get(POD, "worker", namespace)
    assert leaving["metadata"]["deletionGracePeriodSeconds"] == 20
    await client.delete(POD, "worker", namespace, grace_period_seconds=0)
    assert await client.find(POD, "worker", namespace) is None


async def test_a_lease_must_last(client, namespace):
    spec = {"holderIdentity": "me", "leaseDurationSeconds": 0}
    body = {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": {"name": "l", "namespace": namespace}}
    with pytest.raises(InvalidError):
        await client.create({**body, "spec": spec})
    created = await client.create({**body, "spec": spec | {"leaseDurationSeconds": 1}})
    cleared = await client.merge_patch(LEASE, "l", namespace, {"spec": {"holderIdentity": None}})
    assert "holderIdentity" in created["spec"]
    assert "holderIdentity" not in cleared["spec"]


async def test_custom_objects_are_pruned_and_checked(client, namespace, kserve):
    model = {"modelFormat": {"name": "onnx"}, "storageUri": "s3://lake/models/digits/1"}
    body = {
        "apiVersion": INFERENCE_SERVICE.api_version,
        "kind": INFERENCE_SERVICE.kind,
        "metadata": {"name": "digits", "namespace": namespace},
        "spec": {"predictor": {"minReplicas": 1, "unheardOf": True, "model": model}},
    }
    created = await client.create(body)
    assert created["spec"]["predictor"]["minReplicas"] == 1
    assert "unheardOf" not in created["spec"]["predictor"]
    assert created["metadata"]["generation"] == 1
    with pytest.raises(InvalidError, match="minReplicas"):
        await client.merge_patch(
            INFERENCE_SERVICE, "digits", namespace, {"spec": {"predictor": {"minReplicas": "one"}}}
        )
    # Not one without a model: KServe's defaulter panics over it.
    body["spec"]["predictor"]["minReplicas"] = "one"
    body["metadata"]["name"] = "other"
    with pytest.raises(InvalidError, match="minReplicas"):
        await client.create(body)
