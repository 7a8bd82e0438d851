"""`status.modelStatus` as KServe derives it from the pods of the latest created revision. No I/O, no clock.

The rules are those of KServe's `PropagateModelStatus`, with what they leave behind: `lastFailureInfo` is never
cleared, so it may stand beside a model that is loaded (kserve#2962).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from local.kubernetes.controllers.conditions import status_of
from local.kubernetes.controllers.exceptions import InvalidServiceError
from local.kubernetes.controllers.serving import SERVING_CONTAINER, STORAGE_INITIALIZER

Object = Mapping[str, Any]

_TRANSITIONS = {
    "Pending": "InProgress",
    "Loading": "InProgress",
    "Loaded": "UpToDate",
    "FailedToLoad": "BlockedByFailedLoad",
}


def model_status(
    before: Object, pods: Sequence[Object], *, ready: bool, latest_is_ready: bool, failed: bool
) -> dict[str, Any]:
    """The next modelStatus.

    `ready` is the service's own readiness, `failed` that any of its conditions is False.
    """
    ready_copies = sum(status_of(pod, "Ready") == "True" for pod in pods)
    state, failure = _target(pods, ready=ready and latest_is_ready, failed=failed)
    states = dict(before.get("states") or {"activeModelState": ""}) | {"targetModelState": state}
    if state == "Loaded":
        states["activeModelState"] = "Loaded"
    status = {
        "transitionStatus": _TRANSITIONS[state],
        "states": states,
        "copies": {"failedCopies": 0, **({"totalCopies": ready_copies} if ready_copies else {})},
    }
    last = failure or before.get("lastFailureInfo")
    return status | ({"lastFailureInfo": last} if last else {})


def invalid_model_status(before: Object, error: InvalidServiceError) -> dict[str, Any]:
    """The modelStatus of a spec that cannot be deployed."""
    status: dict[str, Any] = copy.deepcopy(dict(before))
    states = dict(status.get("states") or {"activeModelState": ""})
    return status | {
        "transitionStatus": "InvalidSpec",
        "states": states | {"targetModelState": "FailedToLoad"},
        "lastFailureInfo": {"reason": error.reason, "message": error.message},
    }


def _target(pods: Sequence[Object], *, ready: bool, failed: bool) -> tuple[str, dict[str, Any] | None]:
    if not pods:
        return ("FailedToLoad" if failed else "Pending"), None
    status = pods[0].get("status") or {}
    initializer = _container(status.get("initContainerStatuses"), STORAGE_INITIALIZER)
    if "running" in initializer.get("state", {}):
        # After an error it may only be trying once more: what is known stays.
        return ("FailedToLoad" if initializer.get("lastState") else "Loading"), None
    if failure := _failure(initializer):
        return "FailedToLoad", failure
    if ready:
        return "Loaded", None
    if failure := _failure(_container(status.get("containerStatuses"), SERVING_CONTAINER)):
        return "FailedToLoad", failure
    return "Pending", None


def _container(statuses: Sequence[Object] | None, name: str) -> Object:
    return next((status for status in statuses or () if status["name"] == name), {})


def _failure(container: Object) -> dict[str, Any] | None:
    state = container.get("state") or {}
    ended = state.get("terminated") or {}
    if (state.get("waiting") or {}).get("reason") == "CrashLoopBackOff":
        ended = (container.get("lastState") or {}).get("terminated") or {}
    elif ended.get("reason") != "Error":
        return None
    info = {"reason": "ModelLoadFailed", "message": ended.get("message", ""), "exitCode": ended.get("exitCode", 0)}
    return {key: value for key, value in info.items() if value}
