"""Revisions to Deployments: as many replicas as min-scale says while a revision is reachable, and none later."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from local.kubernetes.controllers.conditions import Condition, all_of, render, status_of
from local.kubernetes.controllers.loop import Key, itself, named_by, owner_of, owner_reference, reconcile_forever
from local.kubernetes.controllers.replicas import reachable_revisions, wanted_replicas
from local.kubernetes.controllers.serving import REVISION_LABEL, SERVICE_LABEL
from local.kubernetes.store import Store
from ml_lifecycle.kubernetes.resource import DEPLOYMENT, INFERENCE_SERVICE, POD, REVISION

_UNSTARTABLE = ("ErrImagePull", "ImagePullBackOff", "CreateContainerConfigError", "RunContainerError")

Object = Mapping[str, Any]


class RevisionController:
    """Keeps every Revision's Deployment and status."""

    def __init__(self, store: Store, *, scale_to_zero_seconds: float) -> None:
        self._store = store
        self._patience = scale_to_zero_seconds
        self._unreachable_since: dict[str, float] = {}

    async def run(self) -> None:
        """Until cancelled."""
        watched = (
            (REVISION, itself),
            (DEPLOYMENT, owner_of(REVISION.kind)),
            (POD, named_by(REVISION_LABEL)),
            (INFERENCE_SERVICE, self._of_service),
        )
        await reconcile_forever(self._store, watched, self.reconcile)

    def _of_service(self, service: Object) -> Iterable[Key]:
        name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
        for revision in self._store.list(REVISION, namespace, f"{SERVICE_LABEL}={name}"):
            yield namespace, revision["metadata"]["name"]

    def reconcile(self, namespace: str, name: str) -> float | None:
        """One step; returns the seconds until the revision may be scaled to zero."""
        revision = self._store.find(REVISION, name, namespace)
        if revision is None or revision["metadata"].get("deletionTimestamp"):
            return None
        reachable, again = self._reachable(revision)
        wanted = wanted_replicas(revision["metadata"].get("annotations") or {}, reachable=reachable)
        deployment = self._deployment(revision, wanted)
        pods = self._store.list(POD, namespace, f"{REVISION_LABEL}={name}")
        status = _status(revision, deployment, pods, wanted)
        self._store.update_status(REVISION, name, namespace, status)
        return again

    def _reachable(self, revision: Object) -> tuple[bool, float | None]:
        """Whether the revision keeps its pods; if only for a while: the seconds left."""
        metadata = revision["metadata"]
        service_name = (metadata.get("labels") or {}).get(SERVICE_LABEL, "")
        service = self._store.find(INFERENCE_SERVICE, service_name, metadata["namespace"])
        # A status that does not name any revision yet says nothing against this one.
        known = reachable_revisions(service) if service else frozenset()
        if metadata["name"] in known or not known:
            self._unreachable_since.pop(metadata["uid"], None)
            return True, None
        since = self._unreachable_since.setdefault(metadata["uid"], time.monotonic())
        left = since + self._patience - time.monotonic()
        return left > 0, left if left > 0 else None

    def _deployment(self, revision: Object, wanted: int) -> dict[str, Any]:
        name, namespace = f"{revision['metadata']['name']}-deployment", revision["metadata"]["namespace"]
        found = self._store.find(DEPLOYMENT, name, namespace)
        if found is None:
            return self._store.create(_deployment_of(revision, name, wanted))
        if found["spec"].get("replicas") != wanted:
            return self._store.merge_patch(DEPLOYMENT, name, namespace, {"spec": {"replicas": wanted}})
        return found


def _deployment_of(revision: Object, name: str, replicas: int) -> dict[str, Any]:
    metadata = revision["metadata"]
    own = {REVISION_LABEL: metadata["name"], "app": metadata["name"]}
    labels = {**(metadata.get("labels") or {}), **own}
    return {
        "apiVersion": DEPLOYMENT.api_version,
        "kind": DEPLOYMENT.kind,
        "metadata": {
            "name": name,
            "namespace": metadata["namespace"],
            "labels": labels,
            "ownerReferences": [owner_reference(revision)],
        },
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": own},
            "template": {"metadata": {"labels": labels}, "spec": copy.deepcopy(revision["spec"])},
        },
    }


def _status(revision: Object, deployment: Object, pods: Sequence[Object], wanted: int) -> dict[str, Any]:
    available = (deployment.get("status") or {}).get("availableReplicas", 0)
    was_ready = status_of(revision, "Ready") == "True"
    healthy, resources = _health(pods, available, wanted, was_ready=was_ready)
    active = Condition("Active", "True") if wanted else Condition("Active", "False", "NoTraffic")
    ready = all_of("Ready", (healthy, resources))
    before = (revision.get("status") or {}).get("conditions") or ()
    return {
        "observedGeneration": revision["metadata"].get("generation", 1),
        "actualReplicas": available,
        "desiredReplicas": wanted,
        "conditions": render((active, healthy, ready, resources), before, time.time()),
    }


def _health(pods: Sequence[Object], available: int, wanted: int, *, was_ready: bool) -> tuple[Condition, Condition]:
    """ContainerHealthy and ResourcesAvailable: as long as any replica serves, both hold, whatever the others do."""
    fine = Condition("ContainerHealthy", "True"), Condition("ResourcesAvailable", "True")
    if available or (wanted == 0 and was_ready):
        return fine
    for state in _states(pods):
        waiting, ended = state.get("waiting") or {}, state.get("terminated") or {}
        if ended.get("exitCode"):
            message = f"Container failed with: {ended.get('message') or ended['exitCode']}"
            return Condition("ContainerHealthy", "False", f"ExitCode{ended['exitCode']}", message), fine[1]
        if waiting.get("reason") in _UNSTARTABLE:
            return fine[0], Condition("ResourcesAvailable", "False", waiting["reason"], waiting.get("message", ""))
    if was_ready:
        return fine
    return (
        Condition("ContainerHealthy", "Unknown", "Deploying"),
        Condition("ResourcesAvailable", "Unknown", "Deploying"),
    )


def _states(pods: Sequence[Object]) -> Iterable[Object]:
    """What the pods' containers do now, or did before they wait for another try."""
    for pod in pods:
        if pod["metadata"].get("deletionTimestamp"):
            continue
        status = pod.get("status") or {}
        for container in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
            yield container["state"]
            if "waiting" in container["state"]:
                yield container.get("lastState") or {}
