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
    InvalidNameError,
    NotFoundError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
    WaitFailedError,
    WaitTimeoutError,
)
from ml_lifecycle.kubernetes.resource import CONFIG_MAP, NAMESPACE, POD, ResourceKind

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


@pytest.mark.parametrize("fault", [Fault(close="within"), Fault(text="<html>log in</html>"), Fault(text='"x"')])
async def test_an_answer_that_breaks_off_or_is_none_is_asked_for_again(stand_in, client, fault):
    stand_in.store.create(config_map(a="1"))
    for call in (
        client.get(CONFIG_MAP, "settings", "models"),
        client.list(CONFIG_MAP, "models"),
        client.apply(config_map(b="1"), field_manager="m"),
        client.delete(CONFIG_MAP, "settings", "models"),
    ):
        stand_in.faults.clear()
        stand_in.faults.add(fault)
        await call
        assert len(stand_in.faults.requests) == 2


@pytest.mark.parametrize(
    "text",
    ["<html>", '"Unauthorized"', "[]", "{}", "[" * 100_000, '{"metadata": {"resourceVersion": "1"}, "items": ["x"]}'],
)
async def test_what_is_no_answer_of_the_api_is_unavailable(stand_in, client, text):
    stand_in.faults.add(Fault(text=text, times=None))
    with pytest.raises(UnavailableError, match="no answer of the Kubernetes API"):
        await client.list(CONFIG_MAP, "models")
    assert stand_in.faults.count("GET") == 3


async def test_a_create_whose_answer_breaks_off_is_not_repeated(stand_in, client):
    stand_in.faults.add(Fault("POST", close="within"))
    with pytest.raises(UnavailableError):
        await client.create(config_map())
    assert stand_in.faults.count("POST") == 1


async def test_a_create_that_no_webhook_could_judge_is_repeated(stand_in, client):
    stand_in.faults.add(Fault("POST", status=500, message='failed calling webhook "w": connection refused'))
    await client.create(config_map())


async def test_a_webhook_that_panics_over_an_object_refuses_it(stand_in, client):
    stand_in.faults.add(Fault("PATCH", status=500, message='admission webhook "w" denied the request: panic: index'))
    with pytest.raises(InvalidError, match="panic"):
        await client.apply(config_map(a="1"), field_manager="m")
    assert stand_in.faults.count("PATCH") == 1


async def test_a_single_401_is_not_noticed(stand_in, client):
    stand_in.faults.add(Fault("POST", status=401, times=2))
    await client.create(config_map())
    assert stand_in.faults.count("POST") == 3


async def test_a_token_that_ended_is_fetched_again(stand_in, tmp_path):
    """An exec plugin gives the first time a token that the server does not know (any more)."""
    config = json.loads(stand_in.kubeconfig.read_text())
    token = config["users"][0]["user"].pop("token")
    plugin, seen = tmp_path / "plugin", tmp_path / "seen"
    credential = '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"%s"}}'
    plugin.write_text(
        f"#!/bin/sh\nif [ -e {seen} ]; then echo '{credential % token}'; else echo '{credential % 'ended'}'; fi\n"
        f"echo x >> {seen}\n"
    )
    plugin.chmod(0o755)
    command = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin), "interactiveMode": "Never"}
    config["users"][0]["user"]["exec"] = command
    async with KubernetesClient.from_kubeconfig(config) as client:
        await asyncio.gather(*(client.list(NAMESPACE) for _ in range(5)))
        await client.list(NAMESPACE)
    assert seen.read_text().count("x") == 2  # once at the beginning, once for all five


async def test_credentials_that_cannot_be_read_are_named_without_what_they_hold(tmp_path):
    (tmp_path / "config").write_text("users: [a-secret")
    with pytest.raises(UnavailableError, match="cannot be read") as refused:
        async with KubernetesClient.from_kubeconfig(tmp_path / "config"):
            pass
    assert "a-secret" not in f"{refused.value} {refused.value.__cause__!r}"


async def test_a_name_that_leads_elsewhere_is_refused_before_anything_is_sent(stand_in, client):
    elsewhere = "../../../kube-system/pods/p"
    kind = ResourceKind("apps", "v1", "Odd", "../namespaces")
    for call in (
        client.get(POD, elsewhere, "models"),
        client.list(POD, elsewhere),
        client.list(POD, ""),
        client.delete(POD, "p", elsewhere),
        client.merge_patch(POD, "p?force=true", "models", {}),
        client.logs(elsewhere, "models"),
        client.list(kind, "models"),
        client.apply(config_map("a#b"), field_manager="m"),
    ):
        with pytest.raises(InvalidNameError):
            await call
    assert stand_in.faults.requests == []


async def test_a_gateway_s_404_is_no_absence(stand_in, client):
    stand_in.faults.add(Fault(status=404, text="<html>no such page</html>", times=None))
    for call in (client.find(POD, "p", "models"), client.delete(POD, "p", "models")):
        with pytest.raises(UnavailableError):
            await call


async def test_a_kind_that_the_server_does_not_know_is_no_absence(stand_in, client):
    kind = ResourceKind("example.com", "v1", "Nothing", "nothings")
    with pytest.raises(NotFoundError, match="page not found"):
        await client.find(kind, "x", "models")
    assert await client.find(CONFIG_MAP, "x", "models") is None


async def test_a_list_is_read_in_pages_of_one_moment(stand_in):
    stand_in.faults.clear()
    for number in range(7):
        stand_in.store.create(config_map(f"page-{number}"))
    async with KubernetesClient.from_kubeconfig(stand_in.kubeconfig, page=3) as client:
        names = [item["metadata"]["name"] for item in await client.list(CONFIG_MAP, "models")]
    assert [name for name in names if name.startswith("page-")] == [f"page-{number}" for number in range(7)]
    assert stand_in.faults.count("GET", "configmaps") >= 3


async def test_a_list_whose_moment_is_forgotten_begins_again(stand_in):
    stand_in.faults.clear()
    for number in range(5):
        stand_in.store.create(config_map(f"again-{number}"))
    async with KubernetesClient.from_kubeconfig(stand_in.kubeconfig, page=2) as client:
        stand_in.faults.add(Fault("GET", "configmaps", status=410, spared=1))
        names = [item["metadata"]["name"] for item in await client.list(CONFIG_MAP, "models")]
        assert len(names) == len(set(names))
        assert {f"again-{number}" for number in range(5)} <= set(names)
        stand_in.faults.add(Fault("GET", "configmaps", status=410, times=None))
        with pytest.raises(UnavailableError, match="takes longer"):
            await client.list(CONFIG_MAP, "models")


async def test_a_page_that_is_too_large_is_read_in_smaller_ones(stand_in):
    stand_in.faults.clear()
    for number in range(6):
        stand_in.store.create(config_map(f"large-{number}", text="x" * 20_000))
    limits = {"page": 100, "largest_answer_bytes": 50_000}
    async with KubernetesClient.from_kubeconfig(stand_in.kubeconfig, **limits) as client:
        names = {item["metadata"]["name"] for item in await client.list(CONFIG_MAP, "models")}
        assert {f"large-{number}" for number in range(6)} <= names
        stand_in.store.create(config_map("huge", text="x" * 60_000))
        with pytest.raises(TooLargeError):
            await client.get(CONFIG_MAP, "huge", "models")


async def test_a_slow_answer_is_given_up_and_asked_for_again(stand_in):
    stand_in.faults.clear()
    stand_in.faults.add(Fault("GET", delay_seconds=20))
    async with KubernetesClient.from_kubeconfig(stand_in.kubeconfig, timeout_seconds=2) as client:
        await client.list(NAMESPACE)
    assert stand_in.faults.count("GET") >= 2


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
