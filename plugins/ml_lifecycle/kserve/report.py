"""A rollout that is over, for people and for the next task. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ml_lifecycle.canary.evidence import Side
from ml_lifecycle.canary.own_metrics import own_report
from ml_lifecycle.kserve.look import appeared, p95_ms
from ml_lifecycle.kserve.revisions import Service
from ml_lifecycle.kserve.rollout import Decision, RolloutState, Step


def report(state: RolloutState, service: Service | None, now: float, left_behind: Iterable[str] = ()) -> dict[str, Any]:
    """What happened, for people and the next task; JSON. Latencies in milliseconds, null without data.

    `in_cluster`: how callers within the cluster ask; `left_behind`: HorizontalPodAutoscalers without a target;
    `labels_appeared`: what others have labelled the service with meanwhile, which in Knative mode makes a new revision.
    """
    return {
        "model": state.request.model,
        "version": state.request.version,
        "run_id": state.request.run_id,
        "storage_uri": state.request.storage_uri,
        "tracking_conn_id": state.request.connections.tracking,
        "stable_version": state.stable.version if state.stable else None,
        "namespace": state.request.namespace,
        "kind": state.kind.value,
        "outcome": (state.decision or Decision.ROLLED_BACK).value,
        "reason": state.reason,
        "outlook": state.outlook,
        "revisions": {
            "new": state.revision,
            "stable": state.stable_revision,
            "live": service.rolled_out if service else "",
        },
        "steps": [_step_report(step) for step in state.steps],
        "looks": [point.to_json() for point in state.trace],
        "url": (service.url if service else "") or state.url,
        "in_cluster": service.in_cluster if service else "",
        "left_behind": list(left_behind),
        "labels_appeared": list(appeared(state, service)),
        "seconds": round(now - state.opened_at, 1),
    }


def waiting(state: RolloutState, now: float) -> dict[str, Any]:
    """Of a rollout in a pause, for whom it waits for."""
    return {**report(state, None, now), "outcome": "waiting", "reason": state.paused_for}


def _step_report(step: Step) -> dict[str, Any]:
    return {
        "percent": step.percent,
        "looks": step.looks,
        "warmup_looks": step.warmup,
        "canary": _side_report(step.seen.canary),
        "stable": _side_report(step.seen.stable),
        "own_metrics": own_report(step.seen),
        "verdict": step.verdict,
        "reason": step.reason,
    }


def _side_report(side: Side) -> dict[str, Any]:
    return {"requests": side.requests, "errors": side.errors, "p95_ms": p95_ms(side)}
