"""The client against the stand-in: what it repeats, what it does not, what it says."""

import asyncio
import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from local.kubernetes.faults import Fault
from local.kubernetes.stand_in import KubernetesStandIn
from local.kubernetes.store import Store
from ml_lifecycle.kubernetes.client import KubernetesClient, Retry
from ml_lifecycle.kubernetes.conditions import Progress, Verdict, absent, condition_true
from ml_lifecycle.kubernetes.exceptions import (
    AlreadyExistsError,
    ConflictError,
    ExpiredError,
    InvalidError,
    NotFoundError,
    UnauthorizedError,
    UnavailableError,
    WaitFailedError,
    WaitTimeoutError,
)
from ml_lifecycle.kubernetes.resource import CONFIG_MAP, NAMESPACE, POD

pytestmark = pytest.mark.slow  # starts programs or a database

REPOSITORY = Path(__file__).parents[3]
SERVER_ERRORS = (429, 500, 502, 503, 504)


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    with KubernetesStandIn(tmp_path_factory.mktemp("kubernetes"), store=Store(history=20)) as started:
        yield started


@pytest.fixture
async def client(stand_in):
    stand_in.faults.clear()
    for item in stand_in.store.list(CONFIG_MAP, "models"):
        stand_in.store.delete(CONFIG_MAP, item["metadata"]["name"], "models")
    retry = Retry(attempts=3, first_delay=0.01, longest_retry_after=0.2)
    async with KubernetesClient.from_kubeconfig(stand_in.kubeconfig, retry=retry) as connected:
        yield connected


def config_map(name="settings", **data):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "models"}, "data": data}


@pytest.mark.parametrize("fault", [*(Fault("PATCH", status=code, times=2) for code in SERVER_ERRORS)])
async def test_an_apply_is_repeated_after_a_server_error(stand_in, client, fault):
    stand_in.faults.add(fault)
    await client.apply(config_map(a="1"), field_manager="m")
    assert stand_in.faults.count("PATCH") == 3


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_idempotent_calls_survive_a_lost_connection(stand_in, client, moment):
    for method in ("PATCH", "GET", "DELETE"):
        stand_in.faults.add(Fault(method, close=moment))
    await client.apply(config_map(a="1"), field_manager="m")
    assert (await client.get(CONFIG_MAP, "settings", "models"))["data"] == {"a": "1"}
    await client.delete(CONFIG_MAP, "settings", "models")
    assert stand_in.store.find(CONFIG_MAP, "settings", "models") is None


@pytest.mark.parametrize("fault", [Fault("POST", close="after"), Fault("POST", status=500)])
async def test_a_create_is_not_repeated_when_it_may_have_happened(stand_in, client, fault):
    stand_in.faults.add(fault)
    with pytest.raises(UnavailableError):
        await client.create(config_map())
    assert stand_in.faults.count("POST") == 1


async def test_a_create_is_repeated_when_it_was_turned_away(stand_in, client):
    stand_in.faults.add(Fault("POST", status=429))
    await client.create(config_map())
    assert stand_in.faults.count("POST") == 2


async def test_an_apply_that_another_write_overtook_is_repeated(stand_in, client):
    stand_in.faults.add(Fault("PATCH", status=409, message="the object has been modified"))
    await client.apply(config_map(a="1"), field_manager="m")
    assert stand_in.faults.count("PATCH") == 2


async def test_a_disputed_apply_and_one_of_a_given_version_are_not_repeated(stand_in, client):
    await client.apply(config_map(a="1"), field_manager="m")
    stand_in.faults.clear()
    with pytest.raises(ConflictError) as disputed:
        await client.apply(config_map(a="2"), field_manager="other")
    assert list(disputed.value.owners) == [".data.a"]
    stale = config_map(a="3")
    stale["metadata"]["resourceVersion"] = "1"
    with pytest.raises(ConflictError):
        await client.apply(stale, field_manager="m")
    assert stand_in.faults.count("PATCH") == 2


async def test_retry_after_is_respected(stand_in, client):
    stand_in.faults.add(Fault("GET", status=429, retry_after=1))
    began = time.monotonic()
    await client.list(NAMESPACE)
    assert time.monotonic() - began >= 0.2


async def test_it_gives_up_with_the_api_s_words(stand_in, client):
    stand_in.faults.add(Fault("GET", status=503, message="etcd is away", times=None))
    with pytest.raises(UnavailableError, match="GET /api/v1/namespaces: etcd is away") as given_up:
        await client.list(NAMESPACE)
    assert given_up.value.status == 503
    assert stand_in.faults.count("GET") == 3


async def test_refusals_are_not_repeated(stand_in, client):
    await client.create(config_map())
    with pytest.raises(AlreadyExistsError):
        await client.create(config_map())
    with pytest.raises(NotFoundError):
        await client.get(CONFIG_MAP, "absent", "models")
    with pytest.raises(InvalidError):
        await client.create(config_map("Bad_Name"))
    stand_in.faults.add(Fault("PATCH", status=409))
    with pytest.raises(ConflictError):
        await client.merge_patch(CONFIG_MAP, "settings", "models", {})
    assert [method for method, _ in stand_in.faults.requests] == ["POST", "POST", "GET", "POST", "PATCH"]


async def test_an_apply_that_does_not_fit_the_schema_is_not_repeated(stand_in, client):
    body = config_map("digits") | {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService"}
    del body["data"]
    with pytest.raises(InvalidError, match="nonsense"):
        await client.apply({**body, "spec": {"nonsense": 1}}, field_manager="m")
    assert stand_in.faults.count("PATCH") == 1


async def test_a_missing_name_or_namespace_is_refused_before_anything_is_sent(stand_in, client):
    with pytest.raises(InvalidError, match="without a namespace"):
        await client.get(POD, "p")
    with pytest.raises(InvalidError, match="without a name"):
        await client.delete(POD, "", "models")
    assert stand_in.faults.requests == []


async def test_credentials_that_the_api_does_not_know_say_nothing_of_any_object(stand_in):
    config = json.loads(stand_in.kubeconfig.read_text())
    config["users"][0]["user"]["token"] = "wrong"
    async with KubernetesClient.from_kubeconfig(config) as client:
        with pytest.raises(UnavailableError) as refused:
            await client.list(NAMESPACE)
    assert type(refused.value) is UnauthorizedError


async def test_an_unreachable_server_is_named(stand_in):
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}],
        "users": [{"name": "u", "user": {"token": "secret-token"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    retry = Retry(attempts=2, first_delay=0.01)
    async with KubernetesClient.from_kubeconfig(config, retry=retry) as client:
        with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:9") as refused:
            await client.create(config_map())
    assert "secret-token" not in str(refused.value)


async def test_a_watch_from_a_forgotten_version_is_expired(stand_in, client):
    _, version = await client.list_at(CONFIG_MAP, "models")
    for number in range(25):
        stand_in.store.create(config_map(f"n{number}"))
    with pytest.raises(ExpiredError):
        async for _ in client.watch(CONFIG_MAP, "models", resource_version=version):
            pass


async def test_a_watch_carries_objects_larger_than_a_read(stand_in, client):
    stand_in.store.create(config_map("large", text="x" * 900_000))
    async for type_, item in client.watch(CONFIG_MAP, "models"):
        assert (type_, len(item["data"]["text"])) == ("ADDED", 900_000)
        break


async def test_waiting_ends_by_rule_or_by_time(stand_in, client):
    stand_in.store.create(config_map())
    fast = {"poll_seconds": 0.02}
    asyncio.get_running_loop().call_later(0.1, stand_in.store.delete, CONFIG_MAP, "settings", "models")
    assert await client.wait(CONFIG_MAP, "settings", "models", absent(), timeout_seconds=5, **fast) is None
    with pytest.raises(WaitTimeoutError, match="does not exist"):
        await client.wait(CONFIG_MAP, "settings", "models", condition_true("Ready"), timeout_seconds=0.1, **fast)
    broken = lambda _: Verdict(Progress.FAILED, "it broke")  # noqa: E731
    with pytest.raises(WaitFailedError, match="it broke"):
        await client.wait(CONFIG_MAP, "settings", "models", broken, timeout_seconds=5, **fast)


async def test_waiting_survives_a_server_that_is_away_for_a_moment(stand_in, client):
    stand_in.faults.add(Fault("GET", close="before", times=2))
    assert await client.wait(CONFIG_MAP, "gone", "models", absent(), timeout_seconds=5, poll_seconds=0.02) is None


def test_delays_grow_with_jitter_and_end():
    retry = Retry(first_delay=1, longest_delay=4)
    assert all(0 <= retry.delay(attempt, None) <= min(2 ** (attempt - 1), 4) for attempt in range(1, 10))
    assert retry.delay(1, 30.0) == 30
    assert retry.delay(1, 1e6) == retry.longest_retry_after


@pytest.mark.parametrize("content", [False, True])
def test_it_connects_by_an_airflow_connection(stand_in, content, tmp_path):
    program = """
        import asyncio
        from ml_lifecycle.kubernetes.client import connect
        from ml_lifecycle.kubernetes.resource import NAMESPACE

        async def main():
            async with connect("kubernetes_default") as client:
                print(*(item["metadata"]["name"] for item in await client.list(NAMESPACE)))

        asyncio.run(main())
    """
    environment = {
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW_CONN_KUBERNETES_DEFAULT": stand_in.connection(content=content),
        "PYTHONPATH": str(REPOSITORY / "plugins"),
        "PATH": "/usr/bin:/bin",
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], env=environment, capture_output=True, text=True, check=False
    )
    assert "models" in done.stdout.split(), done.stderr
