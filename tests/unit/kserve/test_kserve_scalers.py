"""Whose the replicas of a service are: a MLScaler's that writes, else the settings'."""

import pytest

from ml_lifecycle.kserve.scalers import owns_replicas


def scaler(name="digits", kind="InferenceService", mode="auto", **status):
    conditions = [{"type": key, **value} for key, value in status.items()]
    spec = {"targetRef": {"kind": kind, "name": name}, **({"mode": mode} if mode else {})}
    return {"metadata": {"name": "scaler"}, "spec": spec, "status": {"conditions": conditions}}


@pytest.mark.parametrize("mode", ["auto", "reactiveOnly", None])
def test_one_that_writes_owns_them(mode):
    assert owns_replicas("digits", [scaler("others"), scaler(mode=mode), scaler(kind="Deployment")])


@pytest.mark.parametrize(
    "found",
    [
        [],
        [scaler("others")],
        [scaler(kind="Deployment")],
        [scaler(mode="dryRun")],
        [scaler(mode="off")],
        [scaler(mode="Auto")],
        [scaler(), scaler(mode="reactiveOnly")],
        [scaler(Ready={"status": "False", "reason": "InvalidSpec"})],
        [scaler(Ready={"status": "False", "reason": "Conflict"}, Conflict={"status": "True"})],
        [{"metadata": {"name": "empty"}}],
        [{**scaler(), "metadata": {"name": "going", "deletionTimestamp": "2026-01-01T00:00:00Z"}}],
    ],
)
def test_others_do_not(found):
    assert not owns_replicas("digits", found)


def test_one_that_only_watches_is_in_nobodys_way():
    assert owns_replicas("digits", [scaler(mode="dryRun"), scaler()])
