"""The Kubernetes API of the rollouts' benchmark, in a process of its own.

It is the stand-in with its own controllers of InferenceServices, Revisions and Deployments. Only the node is another:
its pods are no processes, they say that they are ready after a while. 400 model servers would need another machine.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import local.kubernetes.controllers
from local.kubernetes.stand_in import KubernetesStandIn
from ml_lifecycle.kubernetes.exceptions import ConflictError, NotFoundError
from ml_lifecycle.kubernetes.resource import POD

READY_AFTER_SECONDS = 20.0
_PLURAL = re.compile(r"/namespaces/[^/]+/([a-z]+)")


class Node:
    """Says of every pod that it is ready, `READY_AFTER_SECONDS` after it was made."""

    def __init__(self, store, **_):
        self._store = store
        self._seen = set()

    async def run(self):
        loop = asyncio.get_running_loop()
        async for event, pod in self._store.subscribe(POD):
            metadata = pod["metadata"]
            where = (metadata["name"], metadata["namespace"])
            if metadata.get("deletionTimestamp") and event != "DELETED":
                try:
                    self._store.delete(POD, *where, grace_period_seconds=0)
                except ConflictError:
                    continue
            elif where not in self._seen:
                self._seen.add(where)
                names = [container["name"] for container in pod["spec"]["containers"]]
                loop.call_later(READY_AFTER_SECONDS, self._ready, where, names)

    def _ready(self, where, names):
        containers = [{"name": name, "ready": True, "restartCount": 0, "state": {"running": {}}} for name in names]
        conditions = [{"type": kind, "status": "True"} for kind in ("Ready", "ContainersReady", "PodScheduled")]
        status = {"phase": "Running", "conditions": conditions, "containerStatuses": containers}
        try:
            self._store.update_status(POD, *where, status)
        except NotFoundError:
            return


def serve(folder: Path, namespaces: Sequence[str], pipe: Connection) -> None:
    """Sends the Airflow connection; then, each time that it is asked, the requests so far by method and kind."""
    local.kubernetes.controllers.Kubelet = Node
    with KubernetesStandIn(folder, namespaces=namespaces, controllers=True) as stand_in:
        pipe.send(stand_in.connection())
        while pipe.recv():
            pipe.send(_counted(stand_in.faults.requests))


def _counted(requests):
    counted = Counter()
    for method, path in tuple(requests):
        if found := _PLURAL.search(path):
            counted[f"{method} {found[1]}"] += 1
    return counted
