"""A pod's status, from the states of its containers. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from local.kubernetes.controllers.conditions import Condition, Status, render, timestamp

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Waiting:
    """Not started, or not started again."""

    reason: str
    message: str = ""

    def render(self) -> dict[str, Any]:
        """As the API shows it."""
        return {"waiting": {"reason": self.reason} | ({"message": self.message} if self.message else {})}


@dataclass(frozen=True)
class Running:
    """Started; seconds since the epoch."""

    started_at: float

    def render(self) -> dict[str, Any]:
        """As the API shows it."""
        return {"running": {"startedAt": timestamp(self.started_at)}}


@dataclass(frozen=True)
class Terminated:
    """Ended; seconds since the epoch. `message` holds the log's last lines after a failure."""

    exit_code: int
    started_at: float
    finished_at: float
    message: str = ""

    def render(self) -> dict[str, Any]:
        """As the API shows it."""
        shown: dict[str, Any] = {
            "exitCode": self.exit_code,
            "reason": "Completed" if self.exit_code == 0 else "Error",
            "startedAt": timestamp(self.started_at),
            "finishedAt": timestamp(self.finished_at),
        }
        return {"terminated": shown | ({"message": self.message} if self.message else {})}


State = Waiting | Running | Terminated


@dataclass
class Container:
    """What is known of one container."""

    name: str
    image: str
    state: State
    last: Terminated | None = None
    ready: bool = False
    restarts: int = 0

    def render(self) -> dict[str, Any]:
        """As the API shows it."""
        return {
            "name": self.name,
            "image": self.image,
            "imageID": "",
            "ready": self.ready,
            "started": isinstance(self.state, Running),
            "restartCount": self.restarts,
            "state": self.state.render(),
            "lastState": self.last.render() if self.last else {},
        }


def phase_of(init: Sequence[Container], containers: Sequence[Container], restart_policy: str) -> str:
    """The phase that these containers make."""
    failed_init = any(isinstance(item.state, Terminated) and item.state.exit_code for item in init)
    if failed_init and restart_policy == "Never":
        return "Failed"
    ended = [item.state for item in containers if isinstance(item.state, Terminated)]
    started = [item for item in containers if isinstance(item.state, Running) or item.last is not None]
    if len(ended) < len(containers) or not containers:
        return "Running" if started or ended else "Pending"
    failed = any(state.exit_code for state in ended)
    if restart_policy == "Always" or (restart_policy == "OnFailure" and failed):
        return "Running"
    return "Failed" if failed else "Succeeded"


def status_of(
    pod: Object, init: Sequence[Container], containers: Sequence[Container], *, started_at: float, now: float
) -> dict[str, Any]:
    """The whole status of `pod`."""
    phase = phase_of(init, containers, pod["spec"].get("restartPolicy", "Always"))
    initialized = all(isinstance(item.state, Terminated) and item.state.exit_code == 0 for item in init)
    waiting_for = [item.name for item in containers if not item.ready]
    if phase == "Succeeded":
        unready = Condition("Ready", "False", "PodCompleted")
    elif waiting_for or not containers:
        unready = Condition(
            "Ready", "False", "ContainersNotReady", f"containers with unready status: [{' '.join(waiting_for)}]"
        )
    else:
        unready = Condition("Ready", "True")
    known: Status = "True" if initialized else "False"
    conditions = [
        Condition("PodScheduled", "True"),
        Condition("Initialized", known, "" if initialized else "ContainersNotInitialized"),
        Condition("ContainersReady", unready.status, unready.reason, unready.message),
        unready,
    ]
    before = (pod.get("status") or {}).get("conditions") or ()
    status: dict[str, Any] = {
        "phase": phase,
        "conditions": render(conditions, before, now),
        "hostIP": "127.0.0.1",
        "podIP": "127.0.0.1",
        "podIPs": [{"ip": "127.0.0.1"}],
        "startTime": timestamp(started_at),
        "qosClass": "BestEffort",
        "containerStatuses": [item.render() for item in containers],
    }
    if init:
        status["initContainerStatuses"] = [item.render() for item in init]
    return status
