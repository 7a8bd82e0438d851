"""What KubernetesPodOperator and its trigger ask of the API, by the provider's hooks; the test plays the kubelet."""

import asyncio
import threading
import time
from datetime import UTC, datetime

import pytest

from local.kubernetes.logs import log_path
from local.kubernetes.stand_in import KubernetesStandIn
from ml_lifecycle.kubernetes.resource import EVENT, POD

pod_manager = pytest.importorskip("airflow.providers.cncf.kubernetes.utils.pod_manager")

LABELS = {"dag_id": "roll_out_model", "task_id": "smoke_test", "already_checked": "False"}


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    with KubernetesStandIn(tmp_path_factory.mktemp("kubernetes")) as started:
        yield started


@pytest.fixture
def manager(stand_in):
    import kubernetes.client
    import kubernetes.config

    api = kubernetes.config.new_client_from_config(str(stand_in.kubeconfig))
    return pod_manager.PodManager(kube_client=kubernetes.client.CoreV1Api(api))


@pytest.fixture
def pod(stand_in):
    import kubernetes.client as k8s

    stand_in.store.delete(POD, "smoke", "models", grace_period_seconds=0)
    for event in stand_in.store.list(EVENT):
        stand_in.store.delete(EVENT, event["metadata"]["name"], "models")
    return k8s.V1Pod(
        api_version="v1",
        kind="Pod",
        metadata=k8s.V1ObjectMeta(name="smoke", namespace="models", labels=LABELS),
        spec=k8s.V1PodSpec(restart_policy="Never", containers=[k8s.V1Container(name="base", image="serving:1")]),
    )


def wait_for_watch(stand_in):
    while not stand_in.faults.count("GET", "/events$"):
        time.sleep(0.05)


def run(stand_in, lines=("one", "two"), exit_code=0):
    """The pod's life, as a kubelet reports it."""
    store = stand_in.store
    placed = store.merge_patch(POD, "smoke", "models", {"spec": {"nodeName": "laptop"}})
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    store.record_event(placed, "Started", "Started container base", component="kubelet")
    container = {"name": "base", "image": "serving:1", "imageID": "", "ready": True, "restartCount": 0}
    state = {"running": {"startedAt": now}}
    store.update_status(
        POD, "smoke", "models", {"phase": "Running", "containerStatuses": [{**container, "state": state}]}
    )
    path = log_path(stand_in.state, placed, "base")
    path.parent.mkdir(parents=True, exist_ok=True)
    for line in lines:
        with path.open("a") as log:
            log.write(f"{datetime.now(UTC).isoformat().replace('+00:00', 'Z')} {line}\n")
    state = {"terminated": {"exitCode": exit_code, "startedAt": now, "finishedAt": now, "reason": "Completed"}}
    phase = "Failed" if exit_code else "Succeeded"
    store.update_status(POD, "smoke", "models", {"phase": phase, "containerStatuses": [{**container, "state": state}]})


def test_a_pod_is_created_found_followed_patched_and_deleted(stand_in, manager, pod):
    created = manager.create_pod(pod)
    assert created.status.phase == "Pending"
    found = manager._client.list_namespaced_pod(
        "models", label_selector="dag_id=roll_out_model,task_id=smoke_test,already_checked!=True"
    )
    assert [item.metadata.name for item in found.items] == ["smoke"]
    kubelet = threading.Timer(0.3, run, [stand_in])
    kubelet.start()
    while manager.read_pod(created).status.phase == "Pending":
        time.sleep(0.05)
    followed = manager.read_pod_logs(created, container_name="base", timestamps=True, follow=True)
    lines = [raw.decode().split(" ", 1)[1].strip() for raw in followed if raw]
    kubelet.join()
    assert lines == ["one", "two"]
    assert manager.read_pod(created).status.phase == "Succeeded"
    events = manager.read_pod_events(created)
    assert [event.reason for event in events.items] == ["Started"]
    manager._client.patch_namespaced_pod("smoke", "models", {"metadata": {"labels": {"already_checked": "True"}}})
    found = manager._client.list_namespaced_pod("models", label_selector="already_checked!=True")
    assert found.items == []
    manager.delete_pod(created)
    assert stand_in.store.find(POD, "smoke", "models") is None


async def test_the_triggers_calls(stand_in, manager, pod):
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook

    hook = AsyncKubernetesHook(conn_id=None, connection_extras={"kube_config_path": str(stand_in.kubeconfig)})
    await asyncio.to_thread(manager.create_pod, pod)

    async def watch():
        return [event.reason async for event in hook.watch_pod_events("smoke", "models", timeout_seconds=1)]

    stand_in.faults.clear()
    watching = asyncio.create_task(watch())
    await asyncio.to_thread(wait_for_watch, stand_in)
    await asyncio.to_thread(run, stand_in, ("checked",), 3)
    assert (await hook.get_pod("smoke", "models")).status.phase == "Failed"
    logs = await hook.read_logs("smoke", "models", container_name="base")
    assert [line.split(" ", 1)[1] for line in logs] == ["checked"]
    assert await asyncio.wait_for(watching, 10) == ["Started"]
    events = await hook.get_pod_events("smoke", "models", resource_version="0")
    assert len(events.items) == 1
    await hook.delete_pod("smoke", "models")
    await hook.delete_pod("smoke", "models")
    assert stand_in.store.find(POD, "smoke", "models") is None
