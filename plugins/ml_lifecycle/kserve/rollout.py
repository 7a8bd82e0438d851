"""One rollout as a state machine. Pure: the state is read from and written to the service's Lease by others.

Opening → testing → canary → decided → closed. The state names the InferenceService that is wanted; whoever drives it
makes the live one so, as often as necessary. A driver that is killed leaves a state from which the next goes on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

from ml_lifecycle.canary.evidence import Evidence, Side, Window
from ml_lifecycle.canary.plan import Move, Position, expected_seconds, next_move
from ml_lifecycle.canary.snapshot import Gap, Snapshot, between
from ml_lifecycle.canary.verdict import Outcome, Verdict, judge
from ml_lifecycle.kserve.manifest import Predictor
from ml_lifecycle.kserve.request import RolloutRequest
from ml_lifecycle.kserve.revisions import Service

STATE_ANNOTATION = "ml-lifecycle.io/rollout"


class Phase(StrEnum):
    """How far the rollout is."""

    OPENING = "opening"
    TESTING = "testing"
    CANARY = "canary"
    DECIDED = "decided"
    CLOSED = "closed"


class Kind(StrEnum):
    """What there is to do: split traffic, be the first, or nothing because the version is live already."""

    CANARY = "canary"
    FIRST = "first"
    UNCHANGED = "unchanged"


class Decision(StrEnum):
    """How it ends."""

    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    FROZEN = "frozen"


@dataclass(frozen=True)
class Step:
    """One step of traffic: what was seen on it; `since` (Unix seconds) once the traffic is split so."""

    percent: int
    since: float | None = None
    looks: int = 0
    seen: Window = field(default_factory=Window)
    verdict: str = Outcome.HOLD.value
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """JSON of it."""
        return {**vars(self), "seen": self.seen.to_json()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Of `to_json`."""
        return cls(**{**document, "seen": Window.from_json(document["seen"])})


@dataclass(frozen=True)
class RolloutState:
    """Everything a successor needs to go on; times in Unix seconds.

    `before` is the latest revision created when the rollout opened, `stable_revision` the one that then had all
    traffic, `revision` the new one once it is known.
    """

    request: RolloutRequest
    holder: str
    kind: Kind
    candidate: Predictor
    stable: Predictor | None
    opened_at: float
    before: str = ""
    stable_revision: str = ""
    revision: str = ""
    phase: Phase = Phase.OPENING
    steps: tuple[Step, ...] = ()
    evidence: Evidence = field(default_factory=Evidence)
    snapshot: Snapshot | None = None
    decision: Decision | None = None
    reason: str = ""
    closing_since: float | None = None
    closed_at: float | None = None
    url: str = ""

    @property
    def service(self) -> str:
        """Name of the InferenceService."""
        return self.request.model

    @property
    def percent(self) -> int:
        """The canary's traffic that is wanted while the rollout is open."""
        return self.steps[-1].percent if self.steps else 0

    def decide(self, decision: Decision, reason: str) -> RolloutState:
        """With the end decided; the first decision stands."""
        if self.decision is not None:
            return self
        return replace(self, phase=Phase.DECIDED, decision=decision, reason=reason)

    def close(self, now: float) -> RolloutState:
        """Closed; the looks are dropped, the steps kept."""
        return replace(self, phase=Phase.CLOSED, closed_at=now, evidence=Evidence(), snapshot=None)

    def to_json(self) -> dict[str, Any]:
        """JSON of it."""
        return {
            **vars(self),
            "request": self.request.to_json(),
            "candidate": self.candidate.to_json(),
            "stable": self.stable.to_json() if self.stable else None,
            "steps": [step.to_json() for step in self.steps],
            "evidence": self.evidence.to_json(),
            "snapshot": self.snapshot.to_json() if self.snapshot else None,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Of `to_json`."""
        return cls(
            **{
                **document,
                "request": RolloutRequest.model_validate(document["request"]),
                "kind": Kind(document["kind"]),
                "candidate": Predictor(**document["candidate"]),
                "stable": Predictor(**document["stable"]) if document["stable"] else None,
                "phase": Phase(document["phase"]),
                "steps": tuple(Step.from_json(step) for step in document["steps"]),
                "evidence": Evidence.from_json(document["evidence"]),
                "snapshot": Snapshot.from_json(document["snapshot"]) if document["snapshot"] else None,
                "decision": Decision(document["decision"]) if document["decision"] else None,
            }
        )


def opened(
    request: RolloutRequest, holder: str, candidate: Predictor, service: Service | None, now: float
) -> RolloutState:
    """A new rollout onto the service as it stands (None: there is none)."""
    state = RolloutState(request, holder, Kind.FIRST, candidate, None, now)
    if service is None or not service.rolled_out:
        return replace(state, before=service.latest_created if service else "")
    # KServe makes no revision for a storageUri that it serves already.
    unchanged = service.predictor.storage_uri == candidate.storage_uri
    return replace(
        state,
        kind=Kind.UNCHANGED if unchanged else Kind.CANARY,
        stable=service.predictor,
        before="" if unchanged else service.latest_created,
        stable_revision=service.rolled_out,
    )


def begin_testing(state: RolloutState, service: Service) -> RolloutState:
    """The new revision is ready: the smoke test may begin."""
    return replace(state, phase=Phase.TESTING, revision=service.latest_ready, url=service.url)


def begin_canary(state: RolloutState) -> RolloutState:
    """The smoke test has passed: the first step, or the promotion where there is nothing to split with."""
    if state.phase is not Phase.TESTING:
        return state
    steps = state.request.plan.canary_steps
    if state.kind is Kind.FIRST:
        return state.decide(Decision.PROMOTED, "the first version goes live after its smoke test")
    if state.kind is Kind.UNCHANGED:
        return state.decide(Decision.PROMOTED, "this version is live already")
    if not steps:
        return state.decide(Decision.PROMOTED, "the plan has no step below 100 %")
    return replace(state, phase=Phase.CANARY, steps=(Step(steps[0]),))


def remember(state: RolloutState, history: Iterable[Window]) -> RolloutState:
    """With what the stable side did before there was a canary: its level, and how much it varies."""
    evidence = state.evidence
    for window in history:
        evidence = evidence.add(window, state.request.limits.slow)
    return replace(state, evidence=evidence)


def outlook(state: RolloutState, history: Sequence[Window]) -> str:
    """How long the verdict may take, by what the stable side served of late; for the log."""
    requests = sum(window.stable.requests for window in history)
    errors = sum(window.stable.errors for window in history)
    if not requests:
        return "the stable side has served nothing of late: how long the verdict takes cannot be told"
    plan, limits = state.request.plan, state.request.limits
    per_second = requests / (len(history) * plan.look_seconds)
    seconds = expected_seconds(plan, limits, requests_per_second=per_second, error_rate=errors / requests)
    traffic = f"at {60 * per_second:.0f} requests a minute and {errors / requests:.2%} errors"
    harm = f"a {limits.margin:g}× margin or a floor of {limits.floor:.2%}"
    if math.isinf(seconds):
        return (
            f"{traffic} this plan is not expected to clear {harm} before its deadline of "
            f"{plan.deadline_seconds / 60:g} minutes: raise margin, floor or deadline_minutes"
        )
    return (
        f"{traffic} this plan needs about {_duration(seconds)} to clear {harm}; half of all good versions need longer"
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def trouble(state: RolloutState, service: Service | None) -> str:
    """Why the canary cannot go on: somebody changed the service. Empty if nobody did."""
    name = state.service
    if service is None:
        return f"InferenceService {name!r} was deleted in the middle of the rollout"
    if reason := edited(state, service):
        return reason
    if service.latest_created not in {"", state.revision}:
        return (
            f"InferenceService {name!r} was edited in the middle of the rollout: revision {service.latest_created} "
            f"came after {state.revision}"
        )
    if service.rolled_out not in {"", state.stable_revision}:
        return (
            f"KServe rolled {service.rolled_out} out in the middle of the rollout; {state.stable_revision} was stable"
        )
    return ""


def edited(state: RolloutState, service: Service) -> str:
    """Whose model the service names, where it is not the candidate; empty where it is."""
    if service.predictor.storage_uri == state.candidate.storage_uri:
        return ""
    return (
        f"InferenceService {state.service!r} was edited in the middle of the rollout: storageUri is "
        f"{service.predictor.storage_uri!r}, not {state.candidate.storage_uri!r}"
    )


@dataclass(frozen=True)
class Look:
    """What one look found; `line` is for the log."""

    state: RolloutState
    line: str


def look(state: RolloutState, service: Service, snapshot: Snapshot | Gap, now: float) -> Look:
    """The state after one look at the service and at the counters (a Gap where they could not be read)."""
    step = state.steps[-1]
    if step.since is None and service.percent(state.revision) == step.percent:
        step = replace(step, since=now)
    window = _window(state.snapshot, snapshot)
    state = replace(state, snapshot=state.snapshot if isinstance(snapshot, Gap) else snapshot)
    if isinstance(window, Gap):
        verdict = judge(state.evidence, state.request.limits)
        verdict = replace(verdict, outcome=Outcome.HOLD, reasons=(window.reason, *verdict.reasons))
    else:
        limits = state.request.limits
        evidence = state.evidence.add(window, limits.slow)
        state = replace(state, evidence=evidence)
        verdict = judge(evidence, limits)
        step = replace(step, seen=step.seen + window, looks=step.looks + 1)
    step = replace(step, verdict=verdict.outcome.value, reason=verdict.reason)
    state = replace(state, steps=(*state.steps[:-1], step))
    state, move = _moved(state, step, verdict, now)
    return Look(state, _line(step, verdict, move))


def _window(before: Snapshot | None, after: Snapshot | Gap) -> Window | Gap:
    if isinstance(after, Gap):
        return after
    return Gap("first look: nothing to compare with yet") if before is None else between(before, after)


def _moved(state: RolloutState, step: Step, verdict: Verdict, now: float) -> tuple[RolloutState, str]:
    since = now if step.since is None else step.since
    position = Position(
        step=len(state.steps) - 1,
        step_since=since,
        step_requests=step.seen.canary.requests,
        opened_at=state.opened_at,
    )
    move, reason = next_move(state.request.plan, position, verdict, now)
    if move is Move.NEXT_STEP:
        percent = state.request.plan.canary_steps[len(state.steps)]
        return replace(state, steps=(*state.steps, Step(percent))), f"now {percent} %"
    if move is Move.STAY:
        return state, reason
    decision = {
        Move.PROMOTE: Decision.PROMOTED,
        Move.ROLL_BACK: Decision.ROLLED_BACK,
        Move.FREEZE: Decision.FROZEN,
    }[move]
    return state.decide(decision, reason), f"{decision.value}: {reason}"


def _line(step: Step, verdict: Verdict, move: str) -> str:
    canary, stable = (_side(side) for side in (step.seen.canary, step.seen.stable))
    text = f"{step.percent:3d} %  look {step.looks:<3d} canary {canary}  stable {stable}  {verdict.outcome.value}"
    return f"{text}: {verdict.reason}" + (f"  → {move}" if move != verdict.reason else "")


def _side(side: Side) -> str:
    latency = _p95_ms(side)
    p95 = "" if latency is None else f", p95 {latency:.0f} ms"
    return f"{side.requests} requests, {side.errors} errors{p95}"


def _p95_ms(side: Side) -> float | None:
    latency = side.latency.quantile(0.95)
    return None if math.isnan(latency) else round(1000 * latency, 1)


def ended(state: RolloutState, service: Service | None, now: float) -> RolloutState:
    """The state that closing starts from: a rollout that nobody decided is rolled back, with the reason."""
    without_verdict = {
        Phase.OPENING: "the rollout ended before the new revision was ready",
        Phase.TESTING: "the smoke test failed or was stopped: see the log of the task smoke_test",
        Phase.CANARY: f"the rollout was stopped at {state.percent} % without a verdict",
    }
    if state.phase in without_verdict:
        state = state.decide(Decision.ROLLED_BACK, without_verdict[state.phase])
    if state.closing_since is None:
        state = replace(state, closing_since=now)
    return noted(state, service)


def noted(state: RolloutState, service: Service | None) -> RolloutState:
    """With the revision that this rollout has brought into being, once it can be told."""
    if state.revision or service is None or service.predictor.storage_uri != state.candidate.storage_uri:
        return state
    created = service.latest_created
    return state if created in {"", state.before} else replace(state, revision=created)


class Act(StrEnum):
    """What closes the rollout next."""

    APPLY = "apply"
    DELETE = "delete"
    WAIT = "wait"
    DONE = "done"


@dataclass(frozen=True)
class Closing:
    """The next act: with APPLY the predictor and traffic to apply, with WAIT what for."""

    act: Act
    reason: str
    predictor: Predictor | None = None
    percent: int | None = None


def next_closing(state: RolloutState, service: Service | None) -> Closing:
    """What brings the live service one act closer to what was decided."""
    if state.decision is Decision.FROZEN or state.kind is Kind.UNCHANGED:
        return Closing(Act.DONE, "the service stays as it is")
    if service is None:
        return Closing(Act.DONE, f"there is no InferenceService {state.service!r}")
    if state.decision is Decision.PROMOTED:
        return _promotion(state, service)
    return _roll_back(state, service)


def _promotion(state: RolloutState, service: Service) -> Closing:
    if service.predictor.storage_uri != state.candidate.storage_uri:
        return Closing(Act.DONE, "somebody else changed the service: left as it is")
    if service.canary_percent is not None:
        return Closing(Act.APPLY, "all traffic to the new revision", state.candidate, None)
    if service.rolled_out != state.revision or service.percent(state.revision) != 100:
        return Closing(Act.WAIT, f"{state.revision} has {service.percent(state.revision)} % of the traffic")
    return Closing(Act.DONE, f"{state.revision} serves all traffic")


def _roll_back(state: RolloutState, service: Service) -> Closing:
    uri = service.predictor.storage_uri
    if state.stable is None:
        if uri == state.candidate.storage_uri:
            return Closing(Act.DELETE, "there is no earlier version to go back to")
        return Closing(Act.DONE, "the service is gone or another's")
    if uri == state.candidate.storage_uri:
        return _withdraw(state, service, state.stable)
    if uri != state.stable.storage_uri:
        return Closing(Act.DONE, "somebody else changed the service: left as it is")
    return _restored(state, service, state.stable)


def _withdraw(state: RolloutState, service: Service, stable: Predictor) -> Closing:
    """First the traffic, then the name: the good model's revision must not be raced by a ready bad one."""
    if service.canary_percent != 0:
        return Closing(Act.APPLY, "no traffic to the new revision", state.candidate, 0)
    share = service.percent(state.revision) if state.revision else 0
    if share > 0:
        return Closing(Act.WAIT, f"{state.revision} still has {share} % of the traffic")
    return Closing(Act.APPLY, "the spec names the stable version again", stable, 0)


def _restored(state: RolloutState, service: Service, stable: Predictor) -> Closing:
    """Traffic stays pinned until the restored revision is the latest ready one; then it takes all."""
    restored = service.latest_created
    ready = restored == service.latest_ready and restored not in {"", state.revision}
    if service.canary_percent is not None:
        if not ready:
            return Closing(Act.WAIT, f"revision {restored} of the stable version is not ready yet")
        return Closing(Act.APPLY, "all traffic to the stable version", stable, None)
    if not ready or service.rolled_out != restored or service.percent(restored) != 100:
        return Closing(Act.WAIT, f"{restored} has {service.percent(restored)} % of the traffic")
    return Closing(Act.DONE, f"{restored} of the stable version serves all traffic")


def left_serving(state: RolloutState) -> Predictor | None:
    """What the service names since this rollout closed, unless somebody has changed it; None where that is open."""
    if state.phase is not Phase.CLOSED:
        return None
    if state.decision is Decision.PROMOTED:
        return state.stable if state.kind is Kind.UNCHANGED else state.candidate
    withdrawn = state.decision is Decision.ROLLED_BACK and state.kind is Kind.CANARY and state.revision
    return state.stable if withdrawn else None


def report(state: RolloutState, service: Service | None, now: float) -> dict[str, Any]:
    """What happened, for people and the next task; JSON. Latencies in milliseconds, null without data."""
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
        "revisions": {
            "new": state.revision,
            "stable": state.stable_revision,
            "live": service.rolled_out if service else "",
        },
        "steps": [_step_report(step) for step in state.steps],
        "url": (service.url if service else "") or state.url,
        "seconds": round(now - state.opened_at, 1),
    }


def _step_report(step: Step) -> dict[str, Any]:
    return {
        "percent": step.percent,
        "looks": step.looks,
        "canary": _side_report(step.seen.canary),
        "stable": _side_report(step.seen.stable),
        "verdict": step.verdict,
        "reason": step.reason,
    }


def _side_report(side: Side) -> dict[str, Any]:
    return {"requests": side.requests, "errors": side.errors, "p95_ms": _p95_ms(side)}
