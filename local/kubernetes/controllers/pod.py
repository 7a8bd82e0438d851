"""One pod: its containers as real processes, from their start to their end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from local.kubernetes.controllers.exceptions import ImageUnknownError, VolumeUnsupportedError
from local.kubernetes.controllers.pod_status import Container, Running, Terminated, Waiting, phase_of, status_of
from local.kubernetes.controllers.process import ContainerProcess, free_port
from local.kubernetes.controllers.volumes import Find, command_of, environment_of, mounts_of, prepare_volumes

logger = logging.getLogger(__name__)

Object = Mapping[str, Any]
Publish = Callable[[dict[str, Any]], None]
Record = Callable[[str, str, str], None]

PORT_ANNOTATION = "local.ml-lifecycle.io/port"
_TAIL_BYTES = 2048


@dataclass(frozen=True)
class Pace:
    """Times in seconds; shorter than a cluster's, which has more patience than a person at a laptop."""

    first_back_off: float = 1.0
    longest_back_off: float = 30.0
    pull_retry: float = 1.0
    mount_retry: float = 0.5
    first_probe: float = 0.2
    longest_probe: float = 2.0
    drain: float = 0.5
    """Between a serving pod's deletion and its SIGTERM, so that the ingress has turned away from it."""
    longest_grace: float = 10.0


@dataclass(frozen=True)
class Surroundings:
    """What a pod needs of the machine."""

    images: Mapping[str, Object]
    folder: Path
    log: Callable[[str], Path]
    """Container name to its log file."""
    find: Find
    publish: Publish
    """Called with the pod's new status."""
    record: Record
    """Called with the reason, message and type of an Event."""
    pace: Pace = Pace()


class PodRunner:
    """Runs one pod until `stop`; `port` is the pod's own."""

    def __init__(self, pod: Object, surroundings: Surroundings) -> None:
        self.port = free_port()
        self._pod = pod
        self._spec = pod["spec"]
        self._around = surroundings
        self._policy = self._spec.get("restartPolicy", "Always")
        self._started_at = time.time()
        self._init = [self._fresh(item) for item in self._spec.get("initContainers") or ()]
        self._containers = [self._fresh(item) for item in self._spec["containers"]]
        self._status: dict[str, Any] = dict(pod.get("status") or {})
        self._processes: set[ContainerProcess] = set()
        self._volumes: dict[str, Path] = {}
        self._task: asyncio.Task[None] | None = None

    @staticmethod
    def _fresh(item: Object) -> Container:
        return Container(item["name"], item.get("image", ""), Waiting("ContainerCreating"))

    def start(self) -> None:
        """Begin; returns at once."""
        self._task = asyncio.create_task(self._run(), name=f"pod {self._pod['metadata']['name']}")

    async def stop(self, grace_seconds: float | None = None) -> None:
        """End every process of the pod; none is left when this returns. It may be called again, with less grace."""
        grace = self._spec.get("terminationGracePeriodSeconds", 30) if grace_seconds is None else grace_seconds
        grace = min(grace, self._around.pace.longest_grace)
        serving = any(container.ready for container in self._containers) and self._has_probe()
        if grace > 0 and serving:
            await asyncio.sleep(self._around.pace.drain)
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await asyncio.gather(*(process.stop(grace) for process in tuple(self._processes)))

    def _has_probe(self) -> bool:
        return any("readinessProbe" in item for item in self._spec["containers"])

    def _publish(self) -> None:
        pod = {**self._pod, "status": self._status}
        self._status = status_of(pod, self._init, self._containers, started_at=self._started_at, now=time.time())
        self._around.publish(self._status)

    async def _run(self) -> None:
        try:
            self._publish()
            await self._make_volumes()
            for item, container in zip(self._spec.get("initContainers") or (), self._init, strict=True):
                await self._run_container(item, container, init=True)
                if phase_of(self._init, self._containers, self._policy) == "Failed":
                    return
            async with asyncio.TaskGroup() as tasks:
                for item, container in zip(self._spec["containers"], self._containers, strict=True):
                    tasks.create_task(self._run_container(item, container, init=False))
        except Exception:
            logger.exception("pod %s cannot go on", self._pod["metadata"]["name"])
            raise

    async def _make_volumes(self) -> None:
        while True:
            try:
                self._volumes = prepare_volumes(self._pod, self._around.folder, self._around.find)
            except VolumeUnsupportedError as error:
                for container in (*self._init, *self._containers):
                    container.state = Waiting("ContainerCreating", str(error))
                self._publish()
                await asyncio.sleep(self._around.pace.mount_retry)
            else:
                return

    async def _run_container(self, item: Object, container: Container, *, init: bool) -> None:
        """Until it has ended for good; a container that is always restarted never has."""
        pace = self._around.pace
        back_off = pace.first_back_off
        while True:
            process = await self._start(item, container)
            started_at = time.time()
            container.state = Running(started_at)
            container.ready = "readinessProbe" not in item and not init
            self._publish()
            code = await self._wait(item, container, process)
            ended = Terminated(code, started_at, time.time(), self._last_lines(container) if code else "")
            container.state = ended
            container.ready = init and code == 0
            self._publish()
            if not self._restarts(code, init=init):
                return
            if time.time() - started_at > 10 * pace.longest_back_off:
                back_off = pace.first_back_off
            container.last = ended
            container.state = Waiting(
                "CrashLoopBackOff", f"back-off {back_off:g}s restarting failed container={container.name}"
            )
            self._publish()
            self._around.record("BackOff", container.state.message, "Warning")
            await asyncio.sleep(back_off)
            back_off = min(back_off * 2, pace.longest_back_off)
            container.restarts += 1

    def _restarts(self, code: int, *, init: bool) -> bool:
        if code == 0:
            return self._policy == "Always" and not init
        return self._policy in ("Always", "OnFailure")

    async def _start(self, item: Object, container: Container) -> ContainerProcess:
        """The container's process; it waits, and says why, as long as it cannot be started."""
        attempts = 0
        while True:
            try:
                process = await self._launch(item, container)
            except ImageUnknownError as error:
                container.state = Waiting("ImagePullBackOff" if attempts else "ErrImagePull", str(error))
                pause = self._around.pace.pull_retry
            except VolumeUnsupportedError as error:
                container.state = Waiting("CreateContainerConfigError", str(error))
                pause = self._around.pace.mount_retry
            except OSError as error:
                container.state = Waiting("RunContainerError", f"cannot start the command: {error}")
                pause = self._around.pace.pull_retry
            else:
                self._processes.add(process)
                self._around.record("Started", f"Started container {container.name}", "Normal")
                return process
            self._publish()
            if attempts == 0:
                self._around.record("Failed", container.state.message, "Warning")
            attempts += 1
            await asyncio.sleep(pause)

    async def _launch(self, item: Object, container: Container) -> ContainerProcess:
        image = find_image(container.image, self._around.images)
        mounts = mounts_of(item, self._volumes)
        variables = {
            **{key: str(value) for key, value in (image.get("env") or {}).items()},
            **environment_of(item, self._pod, mounts, self._around.find),
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "HOSTNAME": self._pod["metadata"]["name"],
        }
        command = command_of(item, image, variables, mounts)
        logger.info("pod %s/%s: %s", self._pod["metadata"]["name"], container.name, shlex.join(command)[:300])
        log = self._around.log(container.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        cwd = Path(image.get("cwd") or self._around.folder)
        return await ContainerProcess.start(command, cwd=cwd, environment=variables, log=log)

    async def _wait(self, item: Object, container: Container, process: ContainerProcess) -> int:
        probing = (
            asyncio.create_task(self._probe(item["readinessProbe"], container)) if ("readinessProbe" in item) else None
        )
        try:
            code = await process.wait()
        finally:
            if probing:
                probing.cancel()
        # Only an end that was waited for: `stop` sees to the others.
        self._processes.discard(process)
        return code

    async def _probe(self, probe: Object, container: Container) -> None:
        """Keep `container.ready` like the probe's answers."""
        pace = self._around.pace
        period = min(probe.get("periodSeconds", 10), pace.longest_probe)
        failures = 0
        await asyncio.sleep(min(probe.get("initialDelaySeconds", 0), pace.longest_probe))
        timeout = aiohttp.ClientTimeout(total=probe.get("timeoutSeconds", 1))
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                answered = await self._answers(probe, session)
                failures = 0 if answered else failures + 1
                ready = answered or (container.ready and failures < probe.get("failureThreshold", 3))
                if ready != container.ready:
                    container.ready = ready
                    self._publish()
                await asyncio.sleep(period if container.ready else min(pace.first_probe, period))

    async def _answers(self, probe: Object, session: aiohttp.ClientSession) -> bool:
        if http := probe.get("httpGet"):
            try:
                async with session.get(f"http://127.0.0.1:{self.port}{http.get('path', '/')}") as answer:
                    return 200 <= answer.status < 400
            except (aiohttp.ClientError, TimeoutError):
                return False
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True

    def _last_lines(self, container: Container) -> str:
        """The end of the log without its times: what a container's status says of a failure."""
        log = self._around.log(container.name)
        if not log.exists():
            return ""
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()[-20:]
        return "\n".join(line.partition(" ")[2] for line in lines)


def find_image(name: str, images: Mapping[str, Object]) -> Object:
    """The image's entry, with or without its registry's default tag; ImageUnknownError if the laptop has none."""
    for candidate in (name, name.removesuffix(":latest"), f"{name}:latest", name.split("@")[0]):
        if candidate in images:
            return images[candidate]
    raise ImageUnknownError(
        f"image {name!r} has no local command: known are {', '.join(sorted(images))}; add it to --images"
    )
