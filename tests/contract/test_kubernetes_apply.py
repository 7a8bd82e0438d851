"""Server-side apply: who owns what, and what happens to it."""

import pytest

from ml_lifecycle.kubernetes.exceptions import ConflictError, InvalidError
from ml_lifecycle.kubernetes.resource import CONFIG_MAP, DEPLOYMENT, INFERENCE_SERVICE

ROLLOUT = "ml-lifecycle-rollout"
SCALER = "ml-lifecycle-scaler"


def config_map(namespace, **data):
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "settings", "namespace": namespace},
        "data": data,
    }


def inference_service(namespace, labels=None, **predictor):
    return {
        "apiVersion": INFERENCE_SERVICE.api_version,
        "kind": INFERENCE_SERVICE.kind,
        "metadata": {"name": "digits", "namespace": namespace, **({"labels": labels} if labels else {})},
        "spec": {"predictor": predictor},
    }


def model(uri="s3://lake/models/digits/1", **more):
    return {"modelFormat": {"name": "onnx"}, "runtime": "ours", "storageUri": uri, **more}


def owned(manifest, manager):
    return next(
        (entry for entry in manifest["metadata"]["managedFields"] if entry["manager"] == manager), {"fieldsV1": {}}
    )


async def test_apply_creates_and_records_the_owner(client, namespace):
    applied = await client.apply(config_map(namespace, colour="red"), field_manager=ROLLOUT)
    entry = owned(applied, ROLLOUT)
    assert (entry["operation"], entry["apiVersion"], entry["fieldsType"]) == ("Apply", "v1", "FieldsV1")
    assert entry["fieldsV1"] == {"f:data": {"f:colour": {}}}


async def test_applying_the_same_again_is_no_write(client, namespace):
    first = await client.apply(config_map(namespace, colour="red"), field_manager=ROLLOUT)
    second = await client.apply(config_map(namespace, colour="red"), field_manager=ROLLOUT)
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


async def test_what_is_no_longer_applied_is_removed(client, namespace):
    await client.apply(config_map(namespace, colour="red", size="1"), field_manager=ROLLOUT)
    applied = await client.apply(config_map(namespace, size="1"), field_manager=ROLLOUT)
    assert applied["data"] == {"size": "1"}


async def test_what_others_own_stays(client, namespace):
    await client.apply(config_map(namespace, colour="red"), field_manager=ROLLOUT)
    await client.apply(config_map(namespace, size="1"), field_manager=SCALER)
    applied = await client.apply(config_map(namespace, shape="round"), field_manager=ROLLOUT)
    assert applied["data"] == {"size": "1", "shape": "round"}


async def test_a_conflict_names_the_owner_and_the_field(client, namespace):
    await client.apply(config_map(namespace, colour="red"), field_manager=ROLLOUT)
    with pytest.raises(ConflictError, match=ROLLOUT) as refused:
        await client.apply(config_map(namespace, colour="blue"), field_manager=SCALER)
    assert list(refused.value.owners) == [".data.colour"]
    assert ROLLOUT in refused.value.owners[".data.colour"]
    assert (await client.get(CONFIG_MAP, "settings", namespace))["data"] == {"colour": "red"}


async def test_force_takes_a_field_over(client, namespace):
    await client.apply(config_map(namespace, colour="red", size="1"), field_manager=ROLLOUT)
    applied = await client.apply(config_map(namespace, colour="blue"), field_manager=SCALER, force=True)
    assert applied["data"] == {"colour": "blue", "size": "1"}
    assert owned(applied, ROLLOUT)["fieldsV1"] == {"f:data": {"f:size": {}}}
    # The former owner may leave it out without removing it ...
    applied = await client.apply(config_map(namespace, size="1"), field_manager=ROLLOUT)
    assert applied["data"] == {"colour": "blue", "size": "1"}
    # ... and conflicts if it does not.
    with pytest.raises(ConflictError, match=SCALER):
        await client.apply(config_map(namespace, colour="red", size="1"), field_manager=ROLLOUT)


async def test_equal_values_are_shared_and_survive_one_owner(client, namespace):
    await client.apply(config_map(namespace, colour="red"), field_manager=ROLLOUT)
    await client.apply(config_map(namespace, colour="red"), field_manager=SCALER)
    applied = await client.apply(config_map(namespace, size="1"), field_manager=ROLLOUT)
    assert applied["data"] == {"colour": "red", "size": "1"}
    applied = await client.apply(config_map(namespace, shape="round"), field_manager=SCALER)
    assert applied["data"] == {"shape": "round", "size": "1"}


async def test_a_patch_takes_ownership_and_apply_conflicts_with_it(client, namespace):
    await client.apply(config_map(namespace, colour="red"), field_manager=ROLLOUT)
    patched = await client.merge_patch(
        CONFIG_MAP, "settings", namespace, {"data": {"colour": "blue"}}, field_manager="somebody"
    )
    assert owned(patched, "somebody")["operation"] == "Update"
    with pytest.raises(ConflictError, match="somebody"):
        await client.apply(config_map(namespace, colour="red"), field_manager=ROLLOUT)


async def test_apply_to_the_scale_of_another_owner_conflicts(client, namespace):
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    body = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": namespace},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "template": template},
    }
    await client.apply(body, field_manager=ROLLOUT)
    await client.merge_patch(
        DEPLOYMENT, "web", namespace, {"spec": {"replicas": 4}}, subresource="scale", field_manager=SCALER
    )
    with pytest.raises(ConflictError, match=SCALER):
        await client.apply(body, field_manager=ROLLOUT)
    del body["spec"]["replicas"]
    applied = await client.apply(body, field_manager=ROLLOUT)
    assert applied["spec"]["replicas"] == 4


async def test_containers_environment_and_ports_merge_by_key(client, namespace):
    def pod(container):
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "p", "namespace": namespace},
            "spec": {"schedulerName": "nobody", "containers": [{"name": "base", **container}]},
        }

    await client.apply(
        pod({"image": "a:1", "ports": [{"containerPort": 8080}], "env": [{"name": "A", "value": "1"}]}),
        field_manager=ROLLOUT,
    )
    # The image of a running pod may change, its environment may not: only ownership is looked at here.
    applied = await client.apply(pod({"image": "a:1"}), field_manager=SCALER)
    container = applied["spec"]["containers"][0]
    assert container["env"] == [{"name": "A", "value": "1"}]
    assert container["ports"] == [{"containerPort": 8080, "protocol": "TCP"}]
    fields = owned(applied, SCALER)["fieldsV1"]["f:spec"]["f:containers"]
    assert fields == {'k:{"name":"base"}': {".": {}, "f:name": {}, "f:image": {}}}


async def test_the_rollout_leaves_replicas_to_the_scaler(client, namespace, kserve):
    await client.apply(inference_service(namespace, minReplicas=1, model=model()), field_manager=ROLLOUT)
    await client.apply(inference_service(namespace, minReplicas=3), field_manager=SCALER, force=True)
    applied = await client.apply(
        inference_service(namespace, canaryTrafficPercent=10, model=model("s3://lake/models/digits/2")),
        field_manager=ROLLOUT,
    )
    predictor = applied["spec"]["predictor"]
    assert (predictor["minReplicas"], predictor["canaryTrafficPercent"]) == (3, 10)
    assert predictor["model"]["storageUri"].endswith("/2")
    # Leaving the percent out removes it: that promotes the canary.
    applied = await client.apply(
        inference_service(namespace, model=model("s3://lake/models/digits/2")), field_manager=ROLLOUT
    )
    assert "canaryTrafficPercent" not in applied["spec"]["predictor"]
    assert applied["spec"]["predictor"]["minReplicas"] == 3


async def test_the_environment_of_a_model_merges_by_name_and_other_lists_are_one_value(client, namespace, kserve):
    first = inference_service(namespace, model=model(env=[{"name": "A", "value": "1"}], args=["--a"]))
    await client.apply(first, field_manager=ROLLOUT)
    applied = await client.apply(
        inference_service(namespace, model=model(env=[{"name": "B", "value": "2"}])), field_manager=SCALER
    )
    assert sorted(item["name"] for item in applied["spec"]["predictor"]["model"]["env"]) == ["A", "B"]
    with pytest.raises(ConflictError, match="args"):
        await client.apply(inference_service(namespace, model=model(args=["--b"])), field_manager=SCALER)
    applied = await client.apply(inference_service(namespace, model=model()), field_manager=ROLLOUT)
    assert [item["name"] for item in applied["spec"]["predictor"]["model"]["env"]] == ["B"]
    assert "args" not in applied["spec"]["predictor"]["model"]


async def test_status_is_nobodys_who_applies_the_spec(client, namespace, kserve):
    await client.apply(inference_service(namespace, model=model()), field_manager=ROLLOUT)
    status = {"status": {"url": "http://digits"}}
    await client.merge_patch(
        INFERENCE_SERVICE, "digits", namespace, status, subresource="status", field_manager="kserve"
    )
    applied = await client.apply(
        {**inference_service(namespace, model=model()), "status": {"url": "http://other"}}, field_manager=ROLLOUT
    )
    assert applied["status"]["url"] == "http://digits"
    assert applied["metadata"]["generation"] == 1
    assert owned(applied, "kserve")["subresource"] == "status"


async def test_applying_a_field_that_the_schema_does_not_name_is_refused(client, namespace, kserve):
    with pytest.raises(InvalidError, match="unheardOf"):
        await client.apply(inference_service(namespace, unheardOf=True, model=model()), field_manager=ROLLOUT)


async def test_apply_needs_a_manager(client, namespace):
    with pytest.raises(InvalidError, match="fieldManager"):
        await client.apply(config_map(namespace), field_manager="")
