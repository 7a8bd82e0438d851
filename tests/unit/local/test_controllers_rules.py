"""The controllers' pure rules: templates, replicas, volumes, conditions and statuses."""

import copy
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.kubernetes.controllers.conditions import Condition, all_of, render
from local.kubernetes.controllers.exceptions import ImageUnknownError, InvalidServiceError, VolumeUnsupportedError
from local.kubernetes.controllers.model_status import model_status
from local.kubernetes.controllers.pod import find_image
from local.kubernetes.controllers.pod_status import Container, Running, Terminated, Waiting, phase_of
from local.kubernetes.controllers.replicas import (
    Replica,
    plan,
    reachable_revisions,
    rolling_bounds,
    wanted_replicas,
)
from local.kubernetes.controllers.serving import revision_template, select_runtime, template_hash
from local.kubernetes.controllers.storage_initializer import initialize
from local.kubernetes.controllers.volumes import (
    command_of,
    environment_of,
    expand,
    mounts_of,
    prepare_volumes,
    rewrite,
)

# Revision templates

RUNTIME = {
    "metadata": {"name": "server"},
    "spec": {
        "supportedModelFormats": [{"name": "onnx", "version": "1", "autoSelect": True}],
        "containers": [
            {"name": "kserve-container", "image": "server:1", "args": ["--model_name={{.Name}}", "{{ .Name }}"]}
        ],
    },
}
SERVICE = {
    "metadata": {"name": "digits", "namespace": "models", "labels": {"a": "b"}, "annotations": {"c": "d"}},
    "spec": {
        "predictor": {
            "minReplicas": 1,
            "maxReplicas": 3,
            "canaryTrafficPercent": 10,
            "model": {"modelFormat": {"name": "onnx"}, "storageUri": "file:///models/1"},
        }
    },
}


def changed(**changes):
    service = copy.deepcopy(SERVICE)
    for path, value in changes.items():
        *parents, last = path.split("__")
        inner = service
        for parent in parents:
            inner = inner[parent]
        inner[last] = value
    return service


def digest(service, runtime=RUNTIME):
    return template_hash(revision_template(service, runtime))


@pytest.mark.parametrize(
    "change",
    [
        {"spec__predictor__model__storageUri": "file:///models/2"},
        {"spec__predictor__model__env": [{"name": "A", "value": "1"}]},
        {"spec__predictor__minReplicas": 2},
        {"spec__predictor__maxReplicas": 4},
        {"spec__predictor__scaleTarget": 10},
        {"spec__predictor__serviceAccountName": "storage"},
        {"metadata__labels": {"a": "c"}},
        {"metadata__annotations": {"serving.kserve.io/enable-tag-routing": "true"}},
    ],
)
def test_what_makes_a_new_revision(change):
    assert digest(changed(**change)) != digest(SERVICE)


@pytest.mark.parametrize(
    "change",
    [
        {"spec__predictor__canaryTrafficPercent": 50},
        {"metadata__generation": 7},
        {"metadata__annotations": {"c": "d", "kubectl.kubernetes.io/last-applied-configuration": "{}"}},
        {"spec__predictor__model__storageUri": "file:///models/1"},  # trap 10 (772)
    ],
)
def test_what_makes_no_new_revision(change):
    assert digest(changed(**change)) == digest(SERVICE)


def test_another_runtime_makes_a_new_revision():
    runtime = copy.deepcopy(RUNTIME)
    runtime["spec"]["containers"][0]["image"] = "server:2"
    assert digest(SERVICE, runtime) != digest(SERVICE)


def test_the_template():
    template = revision_template(SERVICE, RUNTIME)
    serving = template["spec"]["containers"][0]
    assert serving["args"] == ["--model_name=digits", "digits"]
    assert serving["volumeMounts"][0]["mountPath"] == "/mnt/models"
    assert template["spec"]["initContainers"][0]["args"] == ["file:///models/1", "/mnt/models"]
    annotations = template["metadata"]["annotations"]
    assert annotations["autoscaling.knative.dev/min-scale"] == "1"
    assert annotations["autoscaling.knative.dev/max-scale"] == "3"
    without = copy.deepcopy(SERVICE)
    del without["spec"]["predictor"]["minReplicas"], without["spec"]["predictor"]["maxReplicas"]
    annotations = revision_template(without, RUNTIME)["metadata"]["annotations"]
    assert annotations["autoscaling.knative.dev/min-scale"] == "1"
    assert "autoscaling.knative.dev/max-scale" not in annotations


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"spec__predictor__model__runtime": "other"}, "RuntimeNotRecognized"),
        ({"spec__predictor__model__modelFormat": {"name": "sklearn"}}, "NoSupportingRuntime"),
        ({"spec__predictor__model__modelFormat": {"name": "onnx", "version": "2"}}, "NoSupportingRuntime"),
        ({"spec__predictor": {"sklearn": {}}}, "InvalidPredictorSpec"),
    ],
)
def test_specs_without_a_runtime(change, reason):
    with pytest.raises(InvalidServiceError) as error:
        select_runtime(changed(**change), [RUNTIME])
    assert error.value.reason == reason


def test_a_named_runtime_must_support_the_format():
    service = changed(spec__predictor__model__runtime="server")
    assert select_runtime(service, [RUNTIME]) is RUNTIME
    service["spec"]["predictor"]["model"]["modelFormat"]["name"] = "sklearn"
    with pytest.raises(InvalidServiceError, match="'server' does not support model format 'sklearn'"):
        select_runtime(service, [RUNTIME])


# Replicas


@given(
    start=st.lists(st.tuples(st.booleans(), st.booleans()), max_size=8),
    desired=st.integers(0, 6),
    bounds=st.sampled_from([(1, 0), (0, 1), (2, 1)]),
)
def test_a_rollout_ends_at_the_desired_pods_and_keeps_its_bounds(start, desired, bounds):
    surge, unavailable = bounds
    names = itertools.count()
    pods = [Replica(f"p{next(names)}", current, ready, "") for current, ready in start]
    for _ in range(40):
        step = plan(desired, pods, surge=surge, unavailable=unavailable)
        ready_before = sum(pod.ready for pod in pods)
        assert len(pods) + step.create <= max(len(pods), desired + surge)
        pods = [pod for pod in pods if pod.name not in step.delete]
        assert sum(pod.ready for pod in pods) >= min(ready_before, desired - unavailable)
        pods += [Replica(f"p{next(names)}", current=True, ready=False, created="") for _ in range(step.create)]
        # The oldest new pod becomes ready.
        late = next((pod for pod in pods if not pod.ready), None)
        pods = [Replica(pod.name, pod.current, pod.ready or pod is late, "") for pod in pods]
    assert len(pods) == desired
    assert all(pod.current for pod in pods)


def test_unready_and_young_pods_go_first():
    pods = [
        Replica("old", current=True, ready=True, created="2026-01-01T00:00:00Z"),
        Replica("young", current=True, ready=True, created="2026-01-02T00:00:00Z"),
        Replica("unready", current=True, ready=False, created="2026-01-01T00:00:00Z"),
    ]
    assert plan(2, pods, surge=1, unavailable=0).delete == ("unready",)
    assert set(plan(1, pods, surge=1, unavailable=0).delete) == {"unready", "young"}


@pytest.mark.parametrize(
    ("strategy", "desired", "bounds"),
    [
        (None, 4, (1, 1)),
        (None, 2, (1, 0)),
        ({"type": "Recreate"}, 3, (0, 3)),
        ({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}, 3, (1, 0)),
        ({"rollingUpdate": {"maxSurge": "50%", "maxUnavailable": 2}}, 3, (2, 2)),
    ],
)
def test_rolling_bounds(strategy, desired, bounds):
    assert rolling_bounds({"spec": {"strategy": strategy}}, desired) == bounds


@pytest.mark.parametrize(
    ("annotations", "reachable", "wanted"),
    [
        ({}, True, 1),
        ({"autoscaling.knative.dev/min-scale": "0"}, True, 1),
        ({"autoscaling.knative.dev/min-scale": "3"}, True, 3),
        ({"autoscaling.knative.dev/min-scale": "9", "autoscaling.knative.dev/max-scale": "4"}, True, 4),
        ({"autoscaling.knative.dev/min-scale": "many"}, True, 1),
        ({"autoscaling.knative.dev/min-scale": "3"}, False, 0),
    ],
)
def test_wanted_replicas(annotations, reachable, wanted):
    assert wanted_replicas(annotations, reachable=reachable) == wanted


def test_latest_routed_and_tagged_revisions_are_reachable():
    traffic = [
        {"revisionName": "r3", "percent": 0},
        {"revisionName": "r2", "percent": 100},
        {"revisionName": "r1", "percent": 0, "tag": "prev"},
    ]
    predictor = {"latestCreatedRevision": "r5", "latestReadyRevision": "r4", "traffic": traffic}
    service = {"status": {"components": {"predictor": predictor}}}
    assert reachable_revisions(service) == {"r1", "r2", "r4", "r5"}
    assert reachable_revisions({}) == frozenset()


# Volumes, variables, commands


def test_mount_paths_are_rewritten_where_they_are_whole(tmp_path):
    mounts = {"/mnt/models": tmp_path / "m", "/golden": tmp_path / "g"}
    assert rewrite("--model_dir=/mnt/models", mounts) == f"--model_dir={tmp_path}/m"
    assert rewrite("/golden/golden.json", mounts) == f"{tmp_path}/g/golden.json"
    assert rewrite("open('/mnt/models/model.onnx')", mounts) == f"open('{tmp_path}/m/model.onnx')"
    for other in ("/mnt/models-2", "/mnt/models.old", "x/golden", "/goldenrod"):
        assert rewrite(other, mounts) == other


def test_variables_expand_like_kubernetes_does():
    assert expand("$(A)/$(B)/$$", {"A": "1"}) == "1/$(B)/$$"


def pod_with(**spec):
    return {"metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"run": "7"}}, "spec": spec}


def test_volumes_and_variables(tmp_path):
    objects = {
        ("ConfigMap", "c"): {"data": {"a": "1"}, "binaryData": {"b": "Mg=="}},
        ("Secret", "s"): {"data": {"k": "Mw=="}},
    }

    def find(kind, name):
        return objects.get((kind, name))

    pod = pod_with(
        volumes=[
            {"name": "c", "configMap": {"name": "c", "items": [{"key": "a", "path": "deep/a.txt"}]}},
            {"name": "s", "secret": {"secretName": "s"}},
            {"name": "e", "emptyDir": {}},
        ]
    )
    folders = prepare_volumes(pod, tmp_path, find)
    assert (folders["c"] / "deep" / "a.txt").read_text() == "1"
    assert not (folders["c"] / "b").exists()
    assert (folders["s"] / "k").read_text() == "3"
    container = {
        "name": "base",
        "volumeMounts": [{"name": "e", "mountPath": "/data/"}],
        "envFrom": [{"configMapRef": {"name": "c"}, "prefix": "C_"}],
        "env": [
            {"name": "A", "value": "$(C_a)"},
            {"name": "B", "value": "/data/x"},
            {"name": "C", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            {"name": "D", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['run']"}}},
        ],
    }
    mounts = mounts_of(container, folders)
    variables = environment_of(container, pod, mounts, find)
    expected = {"C_a": "1", "C_b": "2", "A": "1", "B": f"{folders['e']}/x", "C": "3", "D": "7"}
    assert variables == expected


@pytest.mark.parametrize(
    ("volume", "message"),
    [({"nfs": {}}, "of kind nfs"), ({"configMap": {"name": "absent"}}, "ConfigMap 'absent' does not exist")],
)
def test_volumes_that_cannot_be_made(tmp_path, volume, message):
    with pytest.raises(VolumeUnsupportedError, match=message):
        prepare_volumes(pod_with(volumes=[{"name": "v", **volume}]), tmp_path, lambda *_: None)


@pytest.mark.parametrize(
    ("container", "command"),
    [
        ({"args": ["--a"]}, ["/venv/python", "-m", "serving", "--a"]),
        ({"command": ["python", "-m", "serving.smoke_test"]}, ["/venv/python", "-m", "serving.smoke_test"]),
        ({"command": ["sh", "-c"], "args": ["ls"]}, ["sh", "-c", "ls"]),
    ],
)
def test_a_pods_command_takes_the_entrypoints_place(container, command):
    assert command_of(container, {"entrypoint": ["/venv/python", "-m", "serving"]}, {}, {}) == command


def test_unknown_images_are_refused_by_name():
    assert find_image("a:latest", {"a": {"entrypoint": ["x"]}}) == {"entrypoint": ["x"]}
    with pytest.raises(ImageUnknownError, match=r"'b:1' has no local command: known are a"):
        find_image("b:1", {"a": {}})


def test_the_storage_initializer(tmp_path):
    (tmp_path / "a model" / "deep").mkdir(parents=True)
    (tmp_path / "a model" / "deep" / "x").write_text("1")
    (tmp_path / "to").mkdir()
    initialize(f"file://{tmp_path}/a model", tmp_path / "to")
    assert (tmp_path / "to" / "deep" / "x").read_text() == "1"
    for uri in ("s3://bucket/x", "file://host/x", "file:///absent"):
        with pytest.raises(SystemExit, match="storageUri"):
            initialize(uri, tmp_path / "to")


# Conditions and statuses


def test_a_transition_time_moves_only_with_the_status():
    first = render([Condition("Ready", "False", "Starting")], (), 0)
    second = render([Condition("Ready", "False", "Waiting")], first, 10)
    third = render([Condition("Ready", "True")], second, 20)
    times = [item[0]["lastTransitionTime"] for item in (first, second, third)]
    assert times == ["1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "1970-01-01T00:00:20Z"]
    assert second[0]["reason"] == "Waiting"
    assert "reason" not in third[0]


@pytest.mark.parametrize(
    ("statuses", "summary"), [("True True", "True"), ("True Unknown", "Unknown"), ("Unknown False", "False")]
)
def test_a_summary_is_as_bad_as_its_worst_part(statuses, summary):
    assert all_of("Ready", [Condition("Part", status) for status in statuses.split()]).status == summary


WAITING, RUNNING = Waiting("ContainerCreating"), Running(0)
GOOD, BAD = Terminated(0, 0, 1), Terminated(3, 0, 1)


@pytest.mark.parametrize(
    ("init", "states", "policy", "phase"),
    [
        ([], [WAITING], "Always", "Pending"),
        ([], [RUNNING], "Always", "Running"),
        ([], [RUNNING, WAITING], "Always", "Running"),
        ([], [GOOD], "Never", "Succeeded"),
        ([], [BAD], "Never", "Failed"),
        ([], [GOOD, BAD], "Never", "Failed"),
        ([], [GOOD, RUNNING], "Never", "Running"),
        ([], [GOOD], "Always", "Running"),
        ([], [GOOD], "OnFailure", "Succeeded"),
        ([], [BAD], "OnFailure", "Running"),
        ([BAD], [WAITING], "Never", "Failed"),
        ([BAD], [WAITING], "Always", "Pending"),
    ],
)
def test_phases(init, states, policy, phase):
    def containers(items):
        return [Container("c", "image", state) for state in items]

    assert phase_of(containers(init), containers(states), policy) == phase


def model_pod(*, init=None, serving=None, ready=False):
    status = {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]}
    if init:
        status["initContainerStatuses"] = [{"name": "storage-initializer", **init}]
    if serving:
        status["containerStatuses"] = [{"name": "kserve-container", **serving}]
    return {"metadata": {"name": "p"}, "status": status}


CRASHED = {
    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
    "lastState": {"terminated": {"exitCode": 3, "message": "broken", "reason": "Error"}},
}


@pytest.mark.parametrize(
    ("pods", "ready", "failed", "state", "transition"),
    [
        ([], False, False, "Pending", "InProgress"),
        ([], False, True, "FailedToLoad", "BlockedByFailedLoad"),
        ([model_pod(init={"state": {"running": {}}})], False, False, "Loading", "InProgress"),
        ([model_pod(init=CRASHED)], False, False, "FailedToLoad", "BlockedByFailedLoad"),
        ([model_pod(serving={"state": {"running": {}}})], False, False, "Pending", "InProgress"),
        ([model_pod(serving=CRASHED)], False, False, "FailedToLoad", "BlockedByFailedLoad"),
        ([model_pod(serving={"state": {"running": {}}}, ready=True)], True, False, "Loaded", "UpToDate"),
    ],
)
def test_model_status(pods, ready, failed, state, transition):
    status = model_status({}, pods, ready=ready, latest_is_ready=True, failed=failed)
    assert status["states"]["targetModelState"] == state
    assert status["transitionStatus"] == transition


def test_a_failed_model_beside_an_active_one():
    loaded = model_status({}, [model_pod(ready=True)], ready=True, latest_is_ready=True, failed=False)
    assert loaded["copies"]["totalCopies"] == 1
    blocked = model_status(loaded, [model_pod(serving=CRASHED)], ready=False, latest_is_ready=False, failed=True)
    assert blocked["states"] == {"activeModelState": "Loaded", "targetModelState": "FailedToLoad"}
    assert blocked["lastFailureInfo"] == {"reason": "ModelLoadFailed", "message": "broken", "exitCode": 3}
    # Trap 11 (2962): the failure stays when all is well again.
    again = model_status(blocked, [model_pod(ready=True)], ready=True, latest_is_ready=True, failed=False)
    assert again["transitionStatus"] == "UpToDate"
    assert again["lastFailureInfo"] == blocked["lastFailureInfo"]
