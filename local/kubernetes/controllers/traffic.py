"""Who receives an InferenceService's traffic, as KServe in Knative mode decides it. No I/O, no clock.

The rules are those of KServe's `ksvc_reconciler.go` (the split) and `inference_service_status.go` (the rolled-out
pair), 0.15 to 0.20, with the behaviour that its issues #2130 (leakage) and #1968 (flip) describe.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Rollout:
    """The four revision names of a component's status; empty for none."""

    latest_created: str = ""
    latest_ready: str = ""
    latest_rolledout: str = ""
    previous_rolledout: str = ""


@dataclass(frozen=True)
class TrafficTarget:
    """A share of the traffic: of the latest ready revision, or of a pinned one."""

    percent: int
    revision: str
    """Empty while no revision is ready."""
    latest: bool
    tag: str = ""


def split(canary_percent: int | None, rollout: Rollout, *, tag_routing: bool) -> tuple[TrafficTarget, ...]:
    """The traffic of a spec with `canaryTrafficPercent`.

    Without a percent, at 100, or without a rolled-out revision all goes to the latest ready revision; else it
    receives the percent, and the rest goes to the latest rolled-out revision, pinned, under the tag `prev`.
    "Latest" is whatever is ready, so a percent that is raised before the new model's revision is ready reaches the
    former latest revision, even a rejected one (#2130).
    """
    tag = "latest" if tag_routing else ""
    if canary_percent is None or canary_percent >= 100 or not rollout.latest_rolledout:
        return (TrafficTarget(100, rollout.latest_ready, latest=True, tag=tag),)
    return (
        TrafficTarget(canary_percent, rollout.latest_ready, latest=True, tag=tag),
        TrafficTarget(100 - canary_percent, rollout.latest_rolledout, latest=False, tag="prev"),
    )


def roll_out(rollout: Rollout, traffic: Sequence[TrafficTarget]) -> Rollout:
    """The names after `traffic` has become effective.

    The rolled-out pair moves when the latest ready revision receives 100 %. A percent below 100 while no canary is
    open splits the traffic over one and the same revision; KServe takes that as a rollback and makes the previous
    rolled-out revision the latest one (#1968).
    """
    shares: Counter[str] = Counter()
    for target in traffic:
        shares[target.revision] += target.percent
    for target in traffic:
        if not target.latest or not target.revision or target.revision != rollout.latest_ready:
            continue
        if rollout.latest_rolledout != rollout.latest_ready:
            if target.percent == 100:
                rollout = replace(
                    rollout, previous_rolledout=rollout.latest_rolledout, latest_rolledout=rollout.latest_ready
                )
        elif (
            rollout.latest_ready == rollout.latest_created
            and target.percent < 100
            and shares[target.revision] == 100
            and rollout.previous_rolledout
        ):
            rollout = replace(rollout, latest_rolledout=rollout.previous_rolledout)
    return rollout


def latest_ready(revisions: Sequence[tuple[str, bool]], current: str) -> str:
    """The newest ready revision of `revisions` (name, ready), oldest first; it never moves back from `current`."""
    names = [name for name, _ in revisions]
    first = names.index(current) if current in names else 0
    ready = [name for name, is_ready in revisions[first:] if is_ready]
    return ready[-1] if ready else (current if current in names else "")
