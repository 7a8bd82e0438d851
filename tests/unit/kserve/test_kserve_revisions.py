"""What a new revision's status and pods say; the traps are those of KServe's issues."""

import pytest

from ml_lifecycle.kserve.revisions import crashed, is_standard, read, readiness
from tests.unit.kserve.kserve_status import BAD, GOOD, pod, seen, service


def new(**fields):
    return seen(**{"created": BAD, "ready": BAD, **fields})


def test_a_revision_is_ready_when_created_ready_loaded_and_its_pod_ready():
    loaded = {"transitionStatus": "UpToDate", "states": {"targetModelState": "Loaded"}}
    assert readiness(new(model_status=loaded), [pod()], before=GOOD).ready


@pytest.mark.parametrize(
    ("service", "pods", "reason"),
    [
        (seen(), [], "has not created"),
        (new(ready=GOOD), [pod()], "is not ready yet"),
        (new(model_status={"states": {"targetModelState": "Loading"}}), [pod()], "is Loading"),
        (new(), [], "no pod is ready"),
        (new(), [pod(ready=False)], "no pod is ready"),
    ],
)
def test_anything_less_is_waited_for(service, pods, reason):
    found = readiness(service, pods, before=GOOD)
    assert not found.ready
    assert not found.failed
    assert reason in found.reason


@pytest.mark.parametrize(
    ("status", "annotation", "standard"),
    [("Standard", None, True), ("RawDeployment", None, True), (None, "RawDeployment", True), ("Knative", None, False)],
)
def test_trap_8_the_mode_is_known_before_anything_is_split_4074(status, annotation, standard):
    document = service(created=BAD, ready=BAD, **({"deploymentMode": status} if status else {}))
    document["metadata"]["annotations"] = {"serving.kserve.io/deploymentMode": annotation} if annotation else {}
    assert (read(document).standard, is_standard(document)) == (standard, standard)


def test_trap_4_ready_while_pods_crash_1474():
    """The service says Ready and even names the revision ready, while its pod restarts again and again."""
    ready = [{"type": "Ready", "status": "True"}]
    last = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
    crashing = pod(ready=False, restartCount=3, lastState=last)
    found = readiness(new(conditions=ready), [crashing], before=GOOD)
    assert found.failed
    assert "restarted 3 times (OOMKilled, exit code 137)" in found.reason


@pytest.mark.parametrize("reason", ["ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError"])
def test_trap_4_a_pod_that_cannot_start_fails_the_revision(reason):
    waiting = pod(ready=False, state={"waiting": {"reason": reason, "message": "no such image"}})
    found = readiness(new(ready=GOOD), [waiting], before=GOOD)
    assert found.failed
    assert reason in found.reason


def test_trap_5_ready_that_flaps_to_unknown_is_waited_for_5443():
    unknown = [{"type": "Ready", "status": "Unknown"}, {"type": "PredictorReady", "status": "False"}]
    assert not readiness(new(ready=GOOD, conditions=unknown), [pod(ready=False)], before=GOOD).failed


@pytest.mark.parametrize("status", [{}, {"status": None}, {"status": {}}, {"status": {"components": {}}}])
def test_trap_6_a_service_without_status_is_tolerated_4454(status):
    found = read({"spec": {"predictor": {}}, **status})
    assert (found.latest_created, found.traffic, found.mode) == ("", (), "")
    assert not readiness(found, [], before="").failed


FAILED = {"reason": "ModelLoadFailed", "message": "broken", "modelRevisionName": GOOD}


@pytest.mark.parametrize(
    "model_status",
    [
        {"transitionStatus": "UpToDate", "states": {"targetModelState": "Loaded"}, "lastFailureInfo": FAILED},
        {"transitionStatus": "InProgress", "states": {"targetModelState": "Loading"}, "lastFailureInfo": FAILED},
        {"transitionStatus": "BlockedByFailedLoad", "lastFailureInfo": FAILED},
    ],
)
def test_trap_11_stale_failure_info_fails_nothing_2962(model_status):
    assert not readiness(new(ready=GOOD, model_status=model_status), [], before=GOOD).failed


def test_a_load_that_failed_fails_the_revision_with_its_reason():
    blocked = {"transitionStatus": "BlockedByFailedLoad", "lastFailureInfo": FAILED | {"modelRevisionName": BAD}}
    found = readiness(new(ready=GOOD, model_status=blocked), [], before=GOOD)
    assert found.failed
    assert "ModelLoadFailed: broken" in found.reason


def test_the_tag_url_is_the_revisions_own():
    status = read(
        {
            "spec": {"predictor": {}},
            "status": {
                "components": {
                    "predictor": {
                        "traffic": [
                            {"revisionName": BAD, "percent": 0, "tag": "latest", "url": "http://latest"},
                            {"revisionName": GOOD, "percent": 100, "tag": "prev", "url": "http://prev"},
                        ]
                    }
                }
            },
        }
    )
    assert (status.tag_url(BAD), status.tag_url(GOOD), status.tag_url("other")) == ("http://latest", "http://prev", "")


def test_a_revision_has_crashed_when_none_of_its_pods_serves():
    broken = pod(ready=False, name="a", restartCount=2, lastState={"terminated": {"reason": "Error", "exitCode": 1}})
    assert "pod a, container kserve-container: restarted 2 times" in crashed([broken])
    assert crashed([broken, pod(name="b")]) == ""
    assert crashed([pod(ready=False)]) == crashed([]) == ""


def test_a_revision_that_is_not_ready_leaves_the_one_before_twice_in_the_traffic():
    """As KServe says it: latest with 0 % and prev with 100 % are the same revision, and the model has no copies."""
    document = service(uri="file:///lake/models/digits/2", percent=0, created=BAD, ready=GOOD)
    document["status"]["components"]["predictor"]["traffic"] = [
        {"latestRevision": True, "percent": 0, "revisionName": GOOD, "tag": "latest", "url": "http://latest"},
        {"latestRevision": False, "percent": 100, "revisionName": GOOD, "tag": "prev", "url": "http://prev"},
    ]
    document["status"]["modelStatus"] = {
        "transitionStatus": "InProgress",
        "states": {"activeModelState": "Loaded", "targetModelState": "Pending"},
        "copies": {"failedCopies": 0},
    }
    found = read(document)
    assert (found.percent(GOOD), found.percent(BAD), found.tag_url(BAD)) == (100, 0, "")
    waits = readiness(found, [pod(ready=False)], before=GOOD)
    assert (waits.ready, waits.failed, waits.reason) == (False, False, f"revision {BAD} is not ready yet")
