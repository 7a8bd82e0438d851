"""Why pods are missing: what the cluster says on the revision, the pod and its Events goes into the reason."""

from ml_lifecycle.kserve.missing_pods import unready, why
from tests.unit.kserve.kserve_status import pod

QUOTA = 'pods "digits" is forbidden: exceeded quota: gpus'
NO_GPU = "0/5 nodes are available: 5 Insufficient nvidia.com/gpu."


def owner(**condition):
    return {"metadata": {"name": "r"}, "status": {"conditions": [condition]}}


def test_a_quota_stands_on_the_deployment_or_the_revision():
    failed = owner(type="ReplicaFailure", status="True", reason="FailedCreate", message=QUOTA)
    assert why(failed, [], []) == f"ReplicaFailure True (FailedCreate): {QUOTA}"
    revision = owner(type="ResourcesAvailable", status="False", reason="FailedCreate", message=QUOTA)
    assert QUOTA in why(revision, [], [])
    assert not why(owner(type="Available", status="True", reason="Minimum", message="fine"), [], [])
    assert not why(None, [], [])


def test_a_pod_that_no_node_takes_says_why():
    pending = {
        "metadata": {"name": "p"},
        "status": {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "message": NO_GPU}]},
    }
    assert why(None, [pod(), pending], []) == f"pod p is not scheduled: {NO_GPU}"


def test_a_container_that_is_not_ready_is_named():
    proxied = pod(ready=False)
    proxied["status"]["containerStatuses"] = [
        {"name": "kserve-container", "ready": True, "state": {"running": {}}},
        {"name": "queue-proxy", "ready": False, "state": {"running": {}}},
    ]
    assert why(None, [proxied], []) == "pod pod, container queue-proxy runs and is not ready"
    waiting = pod(ready=False, state={"waiting": {"reason": "ContainerCreating"}})
    assert why(None, [waiting], []) == "pod pod, container kserve-container ContainerCreating"


def test_the_last_warning_is_told_before_what_is_usual():
    events = [
        {
            "type": "Warning",
            "reason": "FailedMount",
            "message": "no such volume",
            "lastTimestamp": "2026-01-01T00:00:00Z",
        },
        {"type": "Warning", "reason": "Unhealthy", "message": "503", "lastTimestamp": "2026-01-01T00:00:09Z"},
        {"type": "Normal", "reason": "Pulled", "message": "pulled", "lastTimestamp": "2026-01-01T00:00:10Z"},
    ]
    assert why(None, [], events) == "last Event Unhealthy: 503"


def test_pods_on_their_way_out_count_for_nothing_and_the_reason_is_bounded():
    leaving = pod(ready=False, name="old")
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert unready([leaving, pod()]) == []
    assert len(why(None, [], [{"reason": "Odd", "message": "x" * 10_000}])) <= 600
