"""The package's own kind, as the API server serves it."""

import pytest

from ml_lifecycle.kubernetes.exceptions import InvalidError
from ml_lifecycle.kubernetes.resource import MLSCALER

pytestmark = pytest.mark.usefixtures("mlscaler")


def scaler(namespace, **spec):
    target = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "name": "digits"}
    return {
        "apiVersion": MLSCALER.api_version,
        "kind": MLSCALER.kind,
        "metadata": {"name": "digits", "namespace": namespace},
        "spec": {
            "targetRef": target,
            "maxReplicas": 5,
            "metric": {"preset": "requests_per_second"},
            "capacityPerReplica": 20,
            **spec,
        },
    }


async def test_defaults_are_filled_in_and_owned_by_nobody(client, namespace):
    applied = await client.apply(scaler(namespace), field_manager="somebody")
    assert applied["spec"]["minReplicas"] == 1
    assert applied["spec"]["mode"] == "auto"
    assert applied["spec"]["behavior"]["scaleUp"]["periodSeconds"] > 0
    (entry,) = applied["metadata"]["managedFields"]
    assert "f:minReplicas" not in entry["fieldsV1"]["f:spec"]


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"minReplicas": 6}, "minReplicas"),
        ({"maxReplicas": 0}, "maxReplicas"),
        ({"capacityPerReplica": 0}, "capacityPerReplica"),
        ({"mode": "sometimes"}, "mode"),
        ({"quantile": 0.9, "sloViolationPercent": 1}, "sloViolationPercent"),
        ({"forecastModel": "prophet"}, "forecastModel"),
        ({"metric": {}}, "query"),
        ({"metric": {"preset": "requests_per_second", "query": "up"}}, "query"),
        ({"metric": {"query": "up", "source": "istio"}}, "source"),
        ({"metric": {"preset": "requests_per_second", "source": "nginx"}}, "source"),
    ],
)
async def test_what_cannot_be_is_refused(client, namespace, spec, field):
    with pytest.raises(InvalidError, match=field):
        await client.create(scaler(namespace, **spec))


async def test_status_is_written_apart(client, namespace):
    created = await client.create(scaler(namespace))
    status = {"status": {"observedGeneration": 1, "desiredReplicas": 3}}
    written = await client.merge_patch(MLSCALER, "digits", namespace, status, subresource="status")
    assert written["status"]["desiredReplicas"] == 3
    assert written["spec"] == created["spec"]
    assert written["metadata"]["generation"] == 1
    with pytest.raises(InvalidError):
        await client.merge_patch(
            MLSCALER, "digits", namespace, {"status": {"desiredReplicas": "three"}}, subresource="status"
        )


async def test_conditions_are_owned_one_by_one(client, namespace):
    await client.create(scaler(namespace))
    for manager, type_ in (("one", "Ready"), ("two", "Paused")):
        condition = {
            "type": type_,
            "status": "True",
            "reason": "Because",
            "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        body = {
            "apiVersion": MLSCALER.api_version,
            "kind": MLSCALER.kind,
            "metadata": {"name": "digits", "namespace": namespace},
            "status": {"conditions": [condition]},
        }
        applied = await client.apply(body, field_manager=manager, subresource="status")
    assert [item["type"] for item in applied["status"]["conditions"]] == ["Ready", "Paused"]
