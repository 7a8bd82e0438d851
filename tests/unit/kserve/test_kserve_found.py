"""What is there when a rollout opens: what is not ready, unreadable or empty is told apart from absent."""

import pytest

from ml_lifecycle.kserve.found import Absent, NeverServed, Serving, Unknown, found
from ml_lifecycle.kserve.revisions import read
from tests.unit.kserve import standard_status
from tests.unit.kserve.kserve_status import BAD, GOOD, seen, service

NOT_READY = {"type": "PredictorReady", "status": "False", "reason": "MinimumReplicasUnavailable"}
FAILED = {"created": GOOD, "ready": "", "rolled_out": "", "traffic": {}, "conditions": [NOT_READY]}


def revision(**status):
    return {"metadata": {"name": GOOD}, "status": status}


def test_nothing_is_absent_and_what_serves_serves():
    assert found(None, (), served_before=True) == Absent()
    assert isinstance(found(seen(), (), served_before=False), Serving)
    assert isinstance(found(standard_status.seen(), (), served_before=False), Serving)


@pytest.mark.parametrize("status", [{}, None])
@pytest.mark.parametrize("mode", ["Knative", "Standard"])
def test_an_empty_status_says_nothing(status, mode):
    document = service()
    document["status"] = status
    document["metadata"]["annotations"] = {"serving.kserve.io/deploymentMode": mode}
    there = found(read(document), (), served_before=False)
    assert isinstance(there, Unknown)
    assert not there.told


def test_only_what_was_never_ready_has_never_served():
    assert isinstance(found(seen(**FAILED), [revision(conditions=[])], served_before=False), NeverServed)


@pytest.mark.parametrize(
    ("fields", "owned", "lease"),
    [
        ({"ready": GOOD}, [], False),
        ({"url": "http://digits.example.com"}, [], False),
        ({"traffic": {GOOD: 100}}, [], False),
        ({}, [revision(conditions=[{"type": "Ready", "status": "True"}])], False),
        ({}, [revision(readyReplicas=1)], False),
        ({}, [], True),
    ],
)
def test_any_sign_that_it_served_keeps_it_from_being_a_first_version(fields, owned, lease):
    there = found(seen(**{**FAILED, **fields}), owned, served_before=lease)
    assert isinstance(there, Unknown)
    assert "PredictorReady False (MinimumReplicasUnavailable)" in there.reason


def test_a_drained_node_in_standard_mode_is_a_wait():
    there = found(standard_status.seen(ready=False), (), served_before=False)
    assert isinstance(there, Unknown)
    assert there.told


def test_a_revision_that_came_and_is_not_ready_is_waited_for():
    there = found(seen(created=BAD), (), served_before=False)
    assert isinstance(there, Unknown)
    assert BAD in there.reason
