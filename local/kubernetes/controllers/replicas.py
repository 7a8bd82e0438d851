"""Which pods a Deployment starts and stops next, and how many replicas a revision keeps. No I/O, no clock."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from local.kubernetes.controllers.serving import MAX_SCALE, MIN_SCALE


@dataclass(frozen=True)
class Replica:
    """A pod as its Deployment sees it."""

    name: str
    current: bool
    """Made from the present template."""
    ready: bool
    created: str


@dataclass(frozen=True)
class Plan:
    """The next step; the ones after it follow from what it changes."""

    create: int
    delete: tuple[str, ...]


def plan(desired: int, replicas: Sequence[Replica], *, surge: int, unavailable: int) -> Plan:
    """Towards `desired` current pods, with at most `surge` pods above and `unavailable` ready pods below it."""
    current = [replica for replica in replicas if replica.current]
    old = [replica for replica in replicas if not replica.current]
    create = max(0, min(desired - len(current), desired + surge - len(replicas)))
    surplus = sorted(current, key=lambda replica: (replica.ready, _newest_first(replica)))
    delete = [replica.name for replica in surplus[: max(0, len(current) - desired)]]
    spare = sum(replica.ready for replica in replicas) - (desired - unavailable)
    for replica in sorted(old, key=lambda replica: replica.ready):
        if not replica.ready:
            delete.append(replica.name)
        elif spare > 0:
            delete.append(replica.name)
            spare -= 1
    return Plan(create, tuple(delete))


def _newest_first(replica: Replica) -> tuple[int, ...]:
    return tuple(-ord(letter) for letter in replica.created)


def rolling_bounds(deployment: Mapping[str, Any], desired: int) -> tuple[int, int]:
    """MaxSurge (rounded up) and maxUnavailable (rounded down) as numbers of pods; 25 % each unless told."""
    strategy = deployment["spec"].get("strategy") or {}
    if strategy.get("type") == "Recreate":
        return 0, desired
    rolling = strategy.get("rollingUpdate") or {}
    surge = _share(rolling.get("maxSurge", "25%"), desired, up=True)
    unavailable = _share(rolling.get("maxUnavailable", "25%"), desired, up=False)
    return (surge, unavailable) if surge or unavailable else (1, 0)


def _share(value: int | str, desired: int, *, up: bool) -> int:
    if isinstance(value, str) and value.endswith("%"):
        exact = int(value[:-1]) * desired / 100
        return math.ceil(exact) if up else math.floor(exact)
    return int(value)


def wanted_replicas(annotations: Mapping[str, str], *, reachable: bool) -> int:
    """The replicas of a revision: its min-scale, at least one, while it is reachable, else none."""
    if not reachable:
        return 0
    wanted = max(1, _number(annotations.get(MIN_SCALE), 1))
    most = _number(annotations.get(MAX_SCALE), 0)
    return min(wanted, most) if most else wanted


def _number(text: str | None, default: int) -> int:
    try:
        return int(text) if text else default
    except ValueError:
        return default


def reachable_revisions(service: Mapping[str, Any]) -> frozenset[str]:
    """The revisions that an InferenceService keeps alive: the latest ones, and any with traffic or a tag."""
    predictor = ((service.get("status") or {}).get("components") or {}).get("predictor") or {}
    routed = (item["revisionName"] for item in predictor.get("traffic") or () if item.get("percent") or item.get("tag"))
    latest = (predictor.get("latestCreatedRevision"), predictor.get("latestReadyRevision"))
    return frozenset(name for name in (*routed, *latest) if name)
