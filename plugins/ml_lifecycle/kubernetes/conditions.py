"""Reads and writes `status.conditions`, and says when a waited-for state is reached. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any


@dataclass(frozen=True)
class Condition:
    """One entry of `status.conditions`; `status` is "True", "False" or "Unknown"."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    last_transition: str = ""

    @property
    def true(self) -> bool:
        """Whether it holds; "Unknown" does not."""
        return self.status == "True"

    @property
    def false(self) -> bool:
        """Whether it is denied; "Unknown" is not."""
        return self.status == "False"

    def __str__(self) -> str:
        because = ": ".join(part for part in (self.reason, self.message) if part)
        return f"{self.type}={self.status}" + (f" ({because})" if because else "")


class Progress(StrEnum):
    """How far a waited-for object is."""

    WAITING = "waiting"
    MET = "met"
    FAILED = "failed"


@dataclass(frozen=True)
class Verdict:
    """What a rule says of an object; `reason` is for people."""

    progress: Progress
    reason: str = ""


Rule = Callable[[Mapping[str, Any] | None], Verdict]
"""Judges an object, or None where it is absent."""


def conditions(manifest: Mapping[str, Any] | None) -> dict[str, Condition]:
    """The object's conditions by type; empty where it has no status yet."""
    status = (manifest or {}).get("status") or {}
    entries = status.get("conditions") or []
    return {
        entry["type"]: Condition(
            type=entry["type"],
            status=str(entry.get("status", "Unknown")),
            reason=entry.get("reason") or "",
            message=entry.get("message") or "",
            last_transition=entry.get("lastTransitionTime") or "",
        )
        for entry in entries
    }


def condition(manifest: Mapping[str, Any] | None, type_: str) -> Condition:
    """The condition of this type; "Unknown" where the object does not have it."""
    return conditions(manifest).get(type_, Condition(type_, "Unknown", message="not reported yet"))


def is_current(manifest: Mapping[str, Any]) -> bool:
    """Whether the status speaks of the present spec.

    Not for InferenceServices: KServe copies their `observedGeneration` from the object below.
    """
    observed = (manifest.get("status") or {}).get("observedGeneration")
    generation = (manifest.get("metadata") or {}).get("generation")
    return observed is None or generation is None or observed >= generation


def with_condition(
    entries: Sequence[Mapping[str, Any]], new: Condition, now: datetime, *, generation: int | None = None
) -> list[dict[str, Any]]:
    """`entries` with `new` in place; `lastTransitionTime` moves only when the status changes. `now` is aware."""
    old = next((entry for entry in entries if entry["type"] == new.type), None)
    changed = old is None or old.get("status") != new.status
    entry: dict[str, Any] = {
        "type": new.type,
        "status": new.status,
        "reason": new.reason,
        "message": new.message,
        "lastTransitionTime": timestamp(now) if old is None or changed else old["lastTransitionTime"],
    }
    if generation is not None:
        entry["observedGeneration"] = generation
    return [entry if item["type"] == new.type else dict(item) for item in entries] + ([] if old else [entry])


def timestamp(moment: datetime) -> str:
    """RFC 3339 in seconds, as `metav1.Time`; `moment` is aware."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def condition_true(type_: str, *, terminal_reasons: frozenset[str] = frozenset(), current: bool = True) -> Rule:
    """Met when the condition is "True" (of the present spec, if `current`).

    A "False" is waited out, for conditions flap while an object starts, unless its reason is in `terminal_reasons`.
    """

    def rule(manifest: Mapping[str, Any] | None) -> Verdict:
        if manifest is None:
            return Verdict(Progress.WAITING, "it does not exist")
        found = condition(manifest, type_)
        if current and not is_current(manifest):
            return Verdict(Progress.WAITING, "its status is of an older spec")
        if found.true:
            return Verdict(Progress.MET, str(found))
        if found.false and found.reason in terminal_reasons:
            return Verdict(Progress.FAILED, str(found))
        return Verdict(Progress.WAITING, str(found))

    return rule


def absent() -> Rule:
    """Met when the object is gone."""

    def rule(manifest: Mapping[str, Any] | None) -> Verdict:
        return Verdict(Progress.MET) if manifest is None else Verdict(Progress.WAITING, "it still exists")

    return rule


def pod_ended() -> Rule:
    """Met when a pod has succeeded, failed when it has failed or vanished."""

    def rule(manifest: Mapping[str, Any] | None) -> Verdict:
        if manifest is None:
            return Verdict(Progress.FAILED, "the pod is gone")
        phase = (manifest.get("status") or {}).get("phase", "Unknown")
        progress = {"Succeeded": Progress.MET, "Failed": Progress.FAILED}.get(phase, Progress.WAITING)
        return Verdict(progress, f"phase {phase}")

    return rule


def pause(waited: float, shortest: float) -> float:
    """Seconds until one looks again after `waited` seconds: a fifth of them, at least `shortest`, at most 30."""
    return max(shortest, min(waited / 5, 30.0))
