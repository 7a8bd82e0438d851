"""Lists in parts of one moment: `limit` and `continue`."""

import kubernetes_asyncio.client
import kubernetes_asyncio.config
import pytest
from kubernetes_asyncio.client import ApiException

from ml_lifecycle.kubernetes.client import KubernetesClient
from ml_lifecycle.kubernetes.resource import CONFIG_MAP

NAMES = [f"page-{number}" for number in range(5)]


@pytest.fixture
async def five(client, namespace):
    for name in NAMES:
        labels = {"page": "yes"}
        metadata = {"name": name, "namespace": namespace, "labels": labels}
        await client.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
    return namespace


@pytest.fixture
async def core(kubeconfig):
    configuration = kubernetes_asyncio.client.Configuration()
    await kubernetes_asyncio.config.load_kube_config(str(kubeconfig), client_configuration=configuration)
    async with kubernetes_asyncio.client.ApiClient(configuration) as api:
        yield kubernetes_asyncio.client.CoreV1Api(api)


async def test_a_list_is_given_in_parts_of_one_moment(core, client, five):
    first = await core.list_namespaced_config_map(five, limit=2, label_selector="page=yes")
    await client.delete(CONFIG_MAP, NAMES[3], five)
    asked = {"limit": 2, "label_selector": "page=yes"}
    second = await core.list_namespaced_config_map(five, _continue=first.metadata._continue, **asked)
    third = await core.list_namespaced_config_map(five, _continue=second.metadata._continue, **asked)
    assert [item.metadata.name for part in (first, second, third) for item in part.items] == NAMES
    assert len({part.metadata.resource_version for part in (first, second, third)}) == 1
    assert not third.metadata._continue


async def test_a_list_that_fits_is_given_at_once(core, five):
    whole = await core.list_namespaced_config_map(five, limit=5, label_selector="page=yes")
    assert (len(whole.items), whole.metadata._continue) == (5, None)


async def test_a_token_that_is_none_is_refused(core, five):
    with pytest.raises(ApiException) as refused:
        await core.list_namespaced_config_map(five, limit=2, _continue="nonsense")
    assert refused.value.status == 400


async def test_the_client_gives_all_of_a_list_by_label(kubeconfig, five):
    async with KubernetesClient.from_kubeconfig(kubeconfig, page=2) as client:
        assert [item["metadata"]["name"] for item in await client.list(CONFIG_MAP, five, "page=yes")] == NAMES
        assert await client.list(CONFIG_MAP, five, "page=no") == []
