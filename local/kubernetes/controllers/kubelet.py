"""The node: runs every pod of the store, and ends them all when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from local.kubernetes.controllers.pod import PORT_ANNOTATION, Pace, PodRunner, Surroundings
from local.kubernetes.logs import log_path
from local.kubernetes.store import Store
from ml_lifecycle.kubernetes.exceptions import ConflictError, NotFoundError
from ml_lifecycle.kubernetes.resource import CONFIG_MAP, POD, SECRET

logger = logging.getLogger(__name__)

NODE = "laptop"
_KINDS = {kind.kind: kind for kind in (CONFIG_MAP, SECRET)}

Object = Mapping[str, Any]


class Kubelet:
    """Runs pods as processes; their folders and logs lie below `state`."""

    def __init__(self, store: Store, *, state: Path, images: Mapping[str, Object], pace: Pace = Pace()) -> None:  # noqa: B008 - frozen
        self._store, self._state, self._images, self._pace = store, state, images, pace
        self._runners: dict[str, PodRunner] = {}
        self._endings: dict[str, asyncio.Task[None]] = {}
        self._killings: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until cancelled; no pod's process is left then."""
        try:
            async for event, pod in self._store.subscribe(POD):
                self._follow(event, pod)
        finally:
            stopping = [runner.stop(1.0) for runner in self._runners.values()]
            for task in self._endings.values():
                task.cancel()
            await asyncio.gather(*stopping, *self._endings.values(), *self._killings, return_exceptions=True)

    def _follow(self, event: str, pod: Object) -> None:
        uid = pod["metadata"]["uid"]
        if event == "DELETED":
            if runner := self._runners.pop(uid, None):
                killing = asyncio.create_task(self._clear(pod, runner))
                self._killings.add(killing)
                killing.add_done_callback(self._killings.discard)
        elif pod["metadata"].get("deletionTimestamp"):
            if uid not in self._endings:
                self._endings[uid] = asyncio.create_task(self._end(pod))
        elif uid not in self._runners and (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed"):
            self._begin(pod)

    def _begin(self, pod: Object) -> None:
        metadata = pod["metadata"]
        name, namespace, uid = metadata["name"], metadata["namespace"], metadata["uid"]
        folder = _folder(self._state, pod)
        folder.mkdir(parents=True, exist_ok=True)

        def publish(status: dict[str, Any]) -> None:
            with contextlib.suppress(NotFoundError), self._store.locked():
                if self._store.get(POD, name, namespace)["metadata"]["uid"] == uid:
                    self._store.update_status(POD, name, namespace, status)

        def record(reason: str, message: str, type_: str) -> None:
            with contextlib.suppress(NotFoundError):
                self._store.record_event(pod, reason, message, type_=type_, component="kubelet")

        runner = PodRunner(
            pod,
            Surroundings(
                images=self._images,
                folder=folder,
                log=lambda container: log_path(self._state, pod, container),
                find=lambda kind, wanted: self._store.find(_KINDS[kind], wanted, namespace),
                publish=publish,
                record=record,
                pace=self._pace,
            ),
        )
        binding = {"metadata": {"annotations": {PORT_ANNOTATION: str(runner.port)}}, "spec": {"nodeName": NODE}}
        try:
            self._store.merge_patch(POD, name, namespace, binding, field_manager="kubelet")
        except NotFoundError:
            return
        self._runners[uid] = runner
        runner.start()

    async def _end(self, pod: Object) -> None:
        """What a deletion asks for: SIGTERM, time to end, and then the object's own end."""
        metadata = pod["metadata"]
        if runner := self._runners.get(metadata["uid"]):
            await runner.stop(metadata.get("deletionGracePeriodSeconds"))
        with contextlib.suppress(ConflictError):
            self._store.delete(
                POD,
                metadata["name"],
                metadata["namespace"],
                grace_period_seconds=0,
                preconditions={"uid": metadata["uid"]},
            )

    async def _clear(self, pod: Object, runner: PodRunner) -> None:
        """The object is gone: so are its processes and volumes; logs stay for those who look for a reason."""
        ending = self._endings.pop(pod["metadata"]["uid"], None)
        await runner.stop(0)
        if ending:
            await asyncio.gather(ending, return_exceptions=True)
        shutil.rmtree(_folder(self._state, pod) / "volumes", ignore_errors=True)


def _folder(state: Path, pod: Object) -> Path:
    """The pod's own, beside its logs."""
    return log_path(state, pod, "any").parent
