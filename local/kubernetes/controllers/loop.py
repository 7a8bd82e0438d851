"""A controller's loop: whatever happened, look at the objects as they are now and make them as they should be."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from local.kubernetes.store import Store
from ml_lifecycle.kubernetes.exceptions import KubernetesError
from ml_lifecycle.kubernetes.resource import ResourceKind

logger = logging.getLogger(__name__)

Object = Mapping[str, Any]
Key = tuple[str, str]
"""Namespace and name."""
Affected = Callable[[Object], Iterable[Key]]
Reconcile = Callable[[str, str], float | None]

_RETRY_SECONDS = 0.2


async def reconcile_forever(
    store: Store, watched: Iterable[tuple[ResourceKind, Affected]], reconcile: Reconcile
) -> None:
    """Call `reconcile` for every key that a watched object's change affects.

    Several changes before the call are one call. It returns the seconds after which it wants to be called again,
    or None; it is also called again after an error of the API.
    """
    due: dict[Key, float] = {}
    changed = asyncio.Event()

    async def collect(kind: ResourceKind, affected: Affected) -> None:
        async for _, item in store.subscribe(kind):
            for key in affected(item):
                due[key] = 0.0
                changed.set()

    async with asyncio.TaskGroup() as tasks:
        for kind, affected in watched:
            tasks.create_task(collect(kind, affected))
        while True:
            changed.clear()
            now = time.monotonic()
            for key in [key for key, when in due.items() if when <= now]:
                del due[key]
                again = _reconcile_once(store, reconcile, key)
                if again is not None:
                    due[key] = min(due.get(key, float("inf")), time.monotonic() + again)
            await _wait(changed, min(due.values(), default=None))


def _reconcile_once(store: Store, reconcile: Reconcile, key: Key) -> float | None:
    try:
        with store.locked():
            return reconcile(*key)
    except KubernetesError as error:
        logger.info("%s/%s: %s; trying again", *key, error)
        return _RETRY_SECONDS


async def _wait(changed: asyncio.Event, until: float | None) -> None:
    try:
        async with asyncio.timeout(None if until is None else max(0.0, until - time.monotonic())):
            await changed.wait()
    except TimeoutError:
        return


def itself(item: Object) -> Iterable[Key]:
    """A change affects the object itself."""
    yield item["metadata"]["namespace"], item["metadata"]["name"]


def owner_of(kind: str) -> Affected:
    """A change affects the owner of that kind."""

    def affected(item: Object) -> Iterable[Key]:
        for owner in item["metadata"].get("ownerReferences") or ():
            if owner["kind"] == kind:
                yield item["metadata"]["namespace"], owner["name"]

    return affected


def named_by(label: str) -> Affected:
    """A change affects the object whose name is the label's value."""

    def affected(item: Object) -> Iterable[Key]:
        name = (item["metadata"].get("labels") or {}).get(label)
        if name:
            yield item["metadata"]["namespace"], name

    return affected


def owner_reference(owner: Object) -> dict[str, Any]:
    """The reference by which `owner` controls an object, and takes it along when it is deleted."""
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
