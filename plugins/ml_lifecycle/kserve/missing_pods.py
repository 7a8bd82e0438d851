"""Why the pods of a revision are not there, in the words of the cluster: quota, scheduler, containers, Events. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_LONGEST = 600
"""Characters: it goes into the state on the Lease."""
# Of a Revision and of a Deployment; those of an own kind say nothing more.
_TOLD_BY_OWNER = frozenset({"Ready", "ResourcesAvailable", "ContainerHealthy", "Available", "Progressing"})

Manifest = Mapping[str, Any]


def unready(pods: Iterable[Manifest]) -> list[Manifest]:
    """The pods that do not serve and are not on their way out, newest first."""
    kept = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp") and not _is(pod, "Ready")]
    return sorted(kept, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), reverse=True)


def why(owner: Manifest | None, pods: Iterable[Manifest], events: Iterable[Manifest]) -> str:
    """What the Revision or Deployment (None: there is none), one unready pod and its last Event say; maybe nothing."""
    said = list(dict.fromkeys((*_owner(owner or {}), *_pods(unready(pods)), *_last(events))))
    return "; ".join(said)[:_LONGEST]


def _owner(owner: Manifest) -> Iterator[str]:
    for item in (owner.get("status") or {}).get("conditions") or ():
        kind, status, message = item.get("type", ""), item.get("status"), item.get("message", "")
        failed = kind == "ReplicaFailure" and status == "True"
        if message and (failed or (kind in _TOLD_BY_OWNER and status != "True")):
            yield f"{kind} {status} ({item.get('reason', '')}): {message}"


def _pods(pods: Iterable[Manifest]) -> Iterator[str]:
    pod = next(iter(pods), None)
    if pod is None:
        return
    name, status = pod["metadata"].get("name", ""), pod.get("status") or {}
    for item in status.get("conditions") or ():
        if item.get("type") == "PodScheduled" and item.get("status") == "False":
            yield f"pod {name} is not scheduled: {item.get('message') or item.get('reason', '')}"
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        if reason := _container(container):
            yield f"pod {name}, container {container.get('name', '')} {reason}"


def _container(container: Manifest) -> str:
    state = container.get("state") or {}
    if waiting := state.get("waiting"):
        return ": ".join(part for part in (waiting.get("reason") or "waits", waiting.get("message", "")) if part)
    if container.get("ready") or (state.get("terminated") or {}).get("exitCode") == 0:
        return ""
    ended = state.get("terminated")
    return f"ended with exit code {ended.get('exitCode')}" if ended else "runs and is not ready"


def _last(events: Iterable[Manifest]) -> Iterator[str]:
    """The last warning; where there is none, the last Event."""
    ordered = sorted(events, key=lambda event: (event.get("type") == "Warning", _time(event)))
    if ordered and ordered[-1].get("message"):
        yield f"last Event {ordered[-1].get('reason', '')}: {ordered[-1]['message']}"


def _time(event: Manifest) -> str:
    metadata = event.get("metadata") or {}
    return str(event.get("lastTimestamp") or event.get("eventTime") or metadata.get("creationTimestamp") or "")


def _is(pod: Manifest, condition: str) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(item.get("type") == condition and item.get("status") == "True" for item in conditions)
