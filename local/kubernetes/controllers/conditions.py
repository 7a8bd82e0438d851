"""Conditions of a status, as the Kubernetes API writes them. No I/O."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["True", "False", "Unknown"]


@dataclass(frozen=True)
class Condition:
    """One condition; `reason` and `message` are left out when empty."""

    type: str
    status: Status
    reason: str = ""
    message: str = ""


def timestamp(seconds: float) -> str:
    """Seconds since the epoch in the API's form, as in 2026-01-31T12:00:00Z."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def render(conditions: Iterable[Condition], before: Sequence[Mapping[str, Any]], now: float) -> list[dict[str, Any]]:
    """The conditions as the API shows them; lastTransitionTime moves only when a status changed."""
    former = {condition["type"]: condition for condition in before}
    rendered = []
    for condition in conditions:
        known = former.get(condition.type, {})
        same = known.get("status") == condition.status
        item = {
            "type": condition.type,
            "status": condition.status,
            "lastTransitionTime": known["lastTransitionTime"] if same else timestamp(now),
        }
        item |= {key: value for key in ("reason", "message") if (value := getattr(condition, key))}
        rendered.append(item)
    return rendered


def status_of(owner: Mapping[str, Any], kind: str) -> Status:
    """The status of the condition `kind` of an object; Unknown if it has none."""
    for condition in (owner.get("status") or {}).get("conditions") or ():
        if condition["type"] == kind:
            status: Status = condition["status"]
            return status
    return "Unknown"


def all_of(kind: str, parts: Sequence[Condition]) -> Condition:
    """The condition that sums up `parts`: the first False one, else the first Unknown one, else True."""
    for status in ("False", "Unknown"):
        for part in parts:
            if part.status == status:
                return Condition(kind, part.status, part.reason, part.message)
    return Condition(kind, "True")
