"""Keeps the ingress's routing table like the cluster's InferenceServices, HTTPRoutes, Services and pods."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from local.ingress.table import RoutingTable
from ml_lifecycle.kubernetes.client import KubernetesClient
from ml_lifecycle.kubernetes.exceptions import ExpiredError, KubernetesError
from ml_lifecycle.kubernetes.resource import HTTP_ROUTE, INFERENCE_SERVICE, POD, SERVICE, ResourceKind

logger = logging.getLogger(__name__)

RETRY_SECONDS = 0.5


async def follow_cluster(client: KubernetesClient, table: RoutingTable) -> None:
    """Watch until cancelled; a lost or expired watch starts again from a fresh list."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_mirror(client, INFERENCE_SERVICE, table.set_inference_services))
        tasks.create_task(_mirror(client, HTTP_ROUTE, table.set_http_routes))
        tasks.create_task(_mirror(client, SERVICE, table.set_services))
        tasks.create_task(_mirror(client, POD, table.set_pods))


async def _mirror(
    client: KubernetesClient, kind: ResourceKind, publish: Callable[[Iterable[dict[str, Any]]], None]
) -> None:
    while True:
        try:
            await _mirror_once(client, kind, publish)
        except ExpiredError:
            continue
        except (KubernetesError, OSError, TimeoutError) as error:
            logger.info("watch of %s ended (%s); starting again", kind.plural, error)
            await asyncio.sleep(RETRY_SECONDS)


async def _mirror_once(
    client: KubernetesClient, kind: ResourceKind, publish: Callable[[Iterable[dict[str, Any]]], None]
) -> None:
    items, version = await client.list_at(kind)
    objects = {_key(item): item for item in items}
    publish(objects.values())
    async for event, item in client.watch(kind, resource_version=version):
        if event == "DELETED":
            objects.pop(_key(item), None)
        elif event in ("ADDED", "MODIFIED"):
            objects[_key(item)] = item
        publish(objects.values())


def _key(item: dict[str, Any]) -> tuple[str, str]:
    return item["metadata"]["namespace"], item["metadata"]["name"]
