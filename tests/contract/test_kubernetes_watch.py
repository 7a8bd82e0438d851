"""Watches: what they begin with, what they deliver, how they end."""

import asyncio

from ml_lifecycle.kubernetes.resource import CONFIG_MAP


def config_map(namespace, name, **labels):
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
    }


async def events(client, namespace, count, **options):
    """The first `count` events about the test's own objects."""
    seen = []
    async with asyncio.timeout(20):
        async for type_, item in client.watch(CONFIG_MAP, namespace, **options):
            if item["metadata"]["name"] != "kube-root-ca.crt":
                seen.append((type_, item["metadata"]["name"]))
            if len(seen) == count:
                break
    return seen


async def test_a_watch_begins_with_what_exists(client, namespace):
    await client.create(config_map(namespace, "one"))
    assert await events(client, namespace, 1) == [("ADDED", "one")]


async def test_a_watch_from_a_list_misses_nothing(client, namespace):
    _, version = await client.list_at(CONFIG_MAP, namespace)
    await client.create(config_map(namespace, "one"))
    await client.merge_patch(CONFIG_MAP, "one", namespace, {"data": {"a": "b"}})
    await client.delete(CONFIG_MAP, "one", namespace)
    seen = await events(client, namespace, 3, resource_version=version)
    assert seen == [("ADDED", "one"), ("MODIFIED", "one"), ("DELETED", "one")]


async def test_an_object_that_leaves_the_selection_is_deleted_for_the_watcher(client, namespace):
    _, version = await client.list_at(CONFIG_MAP, namespace)
    await client.create(config_map(namespace, "one", track="canary"))
    await client.create(config_map(namespace, "other", track="stable"))
    await client.merge_patch(CONFIG_MAP, "one", namespace, {"metadata": {"labels": {"track": "stable"}}})
    await client.merge_patch(CONFIG_MAP, "other", namespace, {"metadata": {"labels": {"track": "canary"}}})
    seen = await events(client, namespace, 3, resource_version=version, label_selector="track=canary")
    assert seen == [("ADDED", "one"), ("DELETED", "one"), ("ADDED", "other")]


async def test_a_watch_ends_after_its_time(client, namespace):
    async with asyncio.timeout(20):
        async for _ in client.watch(CONFIG_MAP, namespace, timeout_seconds=1):
            pass
