"""Deployments to pods, without ReplicaSets between them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import Any

from local.kubernetes.controllers.conditions import Condition, render, status_of
from local.kubernetes.controllers.loop import itself, owner_of, owner_reference, reconcile_forever
from local.kubernetes.controllers.replicas import Replica, plan, rolling_bounds
from local.kubernetes.controllers.serving import template_hash
from local.kubernetes.store import Store
from ml_lifecycle.kubernetes.pod_names import LONGEST_NAME, SAFE_ALPHABET
from ml_lifecycle.kubernetes.resource import DEPLOYMENT, POD

HASH_LABEL = "pod-template-hash"

Object = Mapping[str, Any]


class DeploymentController:
    """Keeps every Deployment's pods and status as its spec says."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def run(self) -> None:
        """Until cancelled."""
        await reconcile_forever(self._store, ((DEPLOYMENT, itself), (POD, owner_of(DEPLOYMENT.kind))), self.reconcile)

    def reconcile(self, namespace: str, name: str) -> None:
        """One step towards the spec."""
        deployment = self._store.find(DEPLOYMENT, name, namespace)
        if deployment is None or deployment["metadata"].get("deletionTimestamp"):
            return
        desired = deployment["spec"].get("replicas", 1)
        digest = safe_hash(template_hash(deployment["spec"]["template"]))
        replicas = [
            Replica(
                pod["metadata"]["name"],
                pod["metadata"]["labels"].get(HASH_LABEL) == digest,
                status_of(pod, "Ready") == "True",
                pod["metadata"]["creationTimestamp"],
            )
            for pod in self._pods(deployment)
        ]
        surge, unavailable = rolling_bounds(deployment, desired)
        step = plan(desired, replicas, surge=surge, unavailable=unavailable)
        for pod_name in step.delete:
            self._store.delete(POD, pod_name, namespace)
        for _ in range(step.create):
            self._store.create(_pod_of(deployment, digest))
        status = _status(deployment, desired, replicas, unavailable)
        self._store.update_status(DEPLOYMENT, name, namespace, status)

    def _pods(self, deployment: Object) -> list[dict[str, Any]]:
        uid = deployment["metadata"]["uid"]
        return [
            pod
            for pod in self._store.list(POD, deployment["metadata"]["namespace"])
            if any(owner["uid"] == uid for owner in pod["metadata"].get("ownerReferences") or ())
            and not pod["metadata"].get("deletionTimestamp")
            and (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")
        ]


def safe_hash(digest: str) -> str:
    """A template's hash as Kubernetes writes it: 32 bits in decimal, each digit as one of the safe alphabet."""
    return "".join(SAFE_ALPHABET[ord(digit) % len(SAFE_ALPHABET)] for digit in str(int(digest[:8], 16)))


def pod_name(deployment: str, digest: str) -> str:
    """`<replica set>-` cut so that five random characters have their place (`names/generate.go`)."""
    random = "".join(secrets.choice(SAFE_ALPHABET) for _ in range(5))
    return f"{deployment}-{digest}-"[: LONGEST_NAME - len(random)] + random


def _pod_of(deployment: Object, digest: str) -> dict[str, Any]:
    template = deployment["spec"]["template"]
    metadata = template.get("metadata") or {}
    return {
        "apiVersion": POD.api_version,
        "kind": POD.kind,
        "metadata": {
            "name": pod_name(deployment["metadata"]["name"], digest),
            "namespace": deployment["metadata"]["namespace"],
            "labels": {**(metadata.get("labels") or {}), HASH_LABEL: digest},
            "annotations": dict(metadata.get("annotations") or {}),
            "ownerReferences": [owner_reference(deployment)],
        },
        "spec": template["spec"],
    }


def _status(deployment: Object, desired: int, replicas: list[Replica], unavailable: int) -> dict[str, Any]:
    ready = sum(replica.ready for replica in replicas)
    updated = [replica for replica in replicas if replica.current]
    done = len(updated) == len(replicas) == ready == desired
    available = ready >= max(desired - unavailable, 0)
    conditions = [
        Condition(
            "Available",
            "True" if available else "False",
            "MinimumReplicasAvailable" if available else "MinimumReplicasUnavailable",
        ),
        Condition("Progressing", "True", "NewReplicaSetAvailable" if done else "ReplicaSetUpdated"),
    ]
    counts = {
        "replicas": len(replicas),
        "updatedReplicas": len(updated),
        "readyReplicas": ready,
        "availableReplicas": ready,
        "unavailableReplicas": max(0, desired - ready),
    }
    before = (deployment.get("status") or {}).get("conditions") or ()
    return {
        "observedGeneration": deployment["metadata"].get("generation", 1),
        **{key: count for key, count in counts.items() if count},
        "conditions": render(conditions, before, time.time()),
    }
