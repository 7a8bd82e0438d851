"""What a rollout finds where it opens: nothing, what has never served, what serves, or what cannot be told yet. Pure.

A service that is there is never taken for absent: only what is known for sure never to have served is a first version.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ml_lifecycle.kserve.revisions import Service


@dataclass(frozen=True)
class Absent:
    """There is no InferenceService."""


@dataclass(frozen=True)
class NeverServed:
    """It is there, and nothing of it was ever ready."""

    service: Service


@dataclass(frozen=True)
class Serving:
    """It serves."""

    service: Service


@dataclass(frozen=True)
class Unknown:
    """It may have served, and `reason` says what is missing now; `told`: its status says something at least."""

    service: Service
    reason: str
    told: bool


Found = Absent | NeverServed | Serving | Unknown


def found(service: Service | None, owned: Iterable[Mapping[str, Any]], *, served_before: bool) -> Found:
    """What is there; `owned` are its Revisions (Standard mode: Deployments), `served_before` what the Lease knows."""
    if service is None:
        return Absent()
    if service.leaving:
        return Unknown(service, "it was deleted, and KServe has not taken its finalizer off yet", told=False)
    if not service.told:
        return Unknown(service, "its status is empty", told=False)
    if service.rolled_out:
        pending = not service.standard and service.canary_percent is None
        if pending and service.latest_created != service.latest_ready:
            reason = f"revision {service.latest_created} came after {service.rolled_out} and is not ready"
            return Unknown(service, reason, told=True)
        return Serving(service)
    once_ready = [item["metadata"]["name"] for item in owned if _was_ready(item)]
    if served_before or once_ready or service.url or service.latest_ready or service.traffic:
        return Unknown(service, f"it has served and is not ready ({service.conditions or 'no conditions'})", told=True)
    return NeverServed(service)


def _was_ready(owned: Mapping[str, Any]) -> bool:
    """Of a Revision or a Deployment: whether its status shows that it was ready at any time."""
    status = owned.get("status") or {}
    if status.get("readyReplicas") or status.get("availableReplicas") or status.get("actualReplicas"):
        return True
    met = {item.get("type"): item for item in status.get("conditions") or () if item.get("status") == "True"}
    return "Ready" in met or (met.get("Progressing") or {}).get("reason") == "NewReplicaSetAvailable"
