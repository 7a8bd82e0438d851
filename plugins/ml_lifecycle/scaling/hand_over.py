"""After a rollout another object has the service's replicas; it takes over the old one's number at once. Pure.

KServe begins a new Revision or Deployment with its own number, often one; the load of the old one has not gone. Status
names the object that was scaled last, so that the next pass knows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from ml_lifecycle.scaling.policy import Cause, Plan
from ml_lifecycle.scaling.resource import INFERENCE_SERVICE_KIND, Scaler


@dataclass(frozen=True)
class HandOver:
    """The object that was scaled for the same service before, and for how many replicas it was asked."""

    kind: str
    name: str
    replicas: int

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def scaled_object(scaler: Scaler, kind: str, name: str) -> dict[str, str]:
    """How status names what is scaled."""
    written = {"kind": kind, "name": name}
    if scaler.spec is not None and scaler.spec.target_ref.kind == INFERENCE_SERVICE_KIND:
        written["service"] = scaler.spec.target_ref.name
    return written


def hand_over(scaler: Scaler, target: Mapping[str, str]) -> HandOver | None:
    """What `target` takes over from; None where the scaler has scaled nothing else for this service."""
    before, replicas = scaler.status.get("target"), scaler.status.get("desiredReplicas")
    if scaler.spec is None or not scaler.spec.writes or not before or not replicas:
        return None
    if before == target or "service" not in target or before.get("service") != target["service"]:
        return None
    return HandOver(before["kind"], before["name"], replicas)


def taken_over(plan: Plan, asked: int, before: HandOver) -> Plan:
    """The plan that was made for the replicas taken over, for a target that is asked for `asked`."""
    if plan.desired != plan.current:
        return dataclasses.replace(plan, current=asked)
    reason = f"{plan.reason}; taken over from {before}, which had {before.replicas}"
    return dataclasses.replace(plan, current=asked, cause=Cause.TAKEN_OVER, reason=reason)
