"""Whether an MLScaler sets a service's replicas. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_WRITING = frozenset({"auto", "reactiveOnly"})


def owns_replicas(service: str, scalers: Iterable[Mapping[str, Any]]) -> bool:
    """Of the MLScalers of its namespace: whether just one targets the service and writes.

    One that only watches (`dryRun`, `off`) changes nothing, nor does one that has said itself that it is invalid or in
    conflict. Two that write are in each other's way, and neither does.
    """
    writing = [scaler for scaler in scalers if _targets(scaler, service) and _writes(scaler)]
    return len(writing) == 1


def _targets(scaler: Mapping[str, Any], service: str) -> bool:
    target = (scaler.get("spec") or {}).get("targetRef") or {}
    return target.get("kind") == "InferenceService" and target.get("name") == service


def _writes(scaler: Mapping[str, Any]) -> bool:
    if (scaler.get("spec") or {}).get("mode", "auto") not in _WRITING or scaler["metadata"].get("deletionTimestamp"):
        return False
    said = {item.get("type"): item for item in (scaler.get("status") or {}).get("conditions") or ()}
    ready, conflict = said.get("Ready") or {}, said.get("Conflict") or {}
    return conflict.get("status") != "True" and ready.get("reason") not in {"InvalidSpec", "Conflict"}
