"""One rollout's state and how it begins. Pure: the state is read from and written to the service's Lease by others.

Opening → testing → canary → decided → closed. The state names the InferenceService that is wanted; whoever drives it
makes the live one so, as often as necessary. A driver that is killed leaves a state from which the next goes on. What
a look makes of it stands in look.py, what a person's word does in steering.py, how it ends in closing.py.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from pydantic import TypeAdapter

from ml_lifecycle.canary.evidence import Evidence, Window
from ml_lifecycle.canary.snapshot import Snapshot
from ml_lifecycle.canary.verdict import Outcome
from ml_lifecycle.kserve.found import Absent, NeverServed, Serving
from ml_lifecycle.kserve.naming import Naming
from ml_lifecycle.kserve.outlook import outlook
from ml_lifecycle.kserve.predictor import Predictor
from ml_lifecycle.kserve.replicas import Running, beside, raised
from ml_lifecycle.kserve.request import RolloutRequest
from ml_lifecycle.kserve.revisions import Service
from ml_lifecycle.kserve.standard import canary_name
from ml_lifecycle.kserve.trace import Point, Trace

STATE_ANNOTATION = "ml-lifecycle.io/rollout"
STATE_VERSION = 1


class Phase(StrEnum):
    """How far the rollout is."""

    OPENING = "opening"
    TESTING = "testing"
    CANARY = "canary"
    DECIDED = "decided"
    CLOSED = "closed"


class Kind(StrEnum):
    """What there is to do: split traffic, be the first, replace what serves, return to what served, or nothing."""

    CANARY = "canary"
    FIRST = "first"
    ROLLING = "rolling"
    RETURN = "return"
    UNCHANGED = "unchanged"


class Decision(StrEnum):
    """How it ends."""

    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    FROZEN = "frozen"


@dataclass(frozen=True)
class Step:
    """One step of traffic: what was seen on it; `since` (Unix seconds) once the traffic is split so.

    `warmup`: its looks of the canary's warm-up, which are in no other count, and `warmed` when the last of them was.
    """

    percent: int
    since: float | None = None
    looks: int = 0
    seen: Window = field(default_factory=Window)
    verdict: str = Outcome.HOLD.value
    reason: str = ""
    warmup: int = 0
    warmed: float | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON of it."""
        return {**vars(self), "seen": self.seen.to_json()}

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> Step:
        """Of `to_json`; what is unknown is left out, and values have their types."""
        return _step().validate_python({**document, "seen": Window.from_json(document["seen"])})


@dataclass(frozen=True)
class Wanted:
    """What the spec of the InferenceService is to say; `canary` in Standard mode alone, where it stands beside."""

    predictor: Predictor
    percent: int | None = None
    canary: Predictor | None = None


@dataclass(frozen=True)
class RolloutState:
    """Everything a successor needs to go on; times in Unix seconds.

    `before` is the latest revision created when the rollout opened, `stable_revision` the one that then had all
    traffic, `revision` the new one once it is known. Of a RETURN the candidate is what serves and is to go, `stable`
    what comes back, and `kept_revision` the one before, if Knative still has it with the version that comes back.
    `made`: there was no service before this rollout; `stood`: what stood in the spec of one that had never served.
    `replicas`: the most that the stable side has run ready, 0 where there is none; `floor`: what it was asked for as
    the rollout opened; `prepared`: the percent of the load that the canary has been given replicas for.
    `approved`: the percents that a person has let go on; `frozen`: who stopped it by hand, and why; `announced`: the
    percent whose pause has been told; `steered`: the number of the latest order it obeyed; `unrouted_since`: a
    ready canary has waited for its place in the route since; `naming`: how Knative's metrics name both sides, once
    Prometheus has shown it; `labels`: the service's own as the rollout opened, None of one that was not there.
    `driver` is raised by each process that drives the rollout, and `driver_mark` tells two apart that raised it at
    once.
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
    trace: Trace = ()
    evidence: Evidence = field(default_factory=Evidence)
    snapshot: Snapshot | None = None
    decision: Decision | None = None
    reason: str = ""
    closing_since: float | None = None
    closed_at: float | None = None
    url: str = ""
    standard: bool = False
    kept_revision: str = ""
    made: bool = False
    stood: Predictor | None = None
    replicas: int = 0
    floor: int = 0
    prepared: int = 0
    approved: tuple[int, ...] = ()
    frozen: str = ""
    outlook: str = ""
    steered: int = 0
    paused_since: float | None = None
    paused_for: str = ""
    paused_seconds: float = 0.0
    announced: int | None = None
    unrouted_since: float | None = None
    naming: Naming | None = None
    labels: tuple[str, ...] | None = None
    driver: int = 0
    driver_mark: str = ""

    @property
    def service(self) -> str:
        """Name of the InferenceService."""
        return self.request.model

    @property
    def percent(self) -> int:
        """The canary's traffic that is wanted while the rollout is open."""
        return self.steps[-1].percent if self.steps else 0

    def wanted(self, percent: int | None = None) -> Wanted:
        """The spec that gives the canary `percent` of the traffic; None: that names the candidate alone."""
        if percent is None or not self.standard or self.stable is None:
            return Wanted(self.candidate, percent)
        prepared = max(percent, self.prepared)
        stable, canary = beside(self.stable, self.candidate, self.replicas, prepared, external=self.external)
        return Wanted(stable, percent, canary)

    @property
    def external(self) -> bool:
        """Whether, in Standard mode, KServe leaves the replicas to whoever writes the Deployment's scale."""
        return self.standard and self.request.serving.autoscaler == "external"

    @property
    def in_spec(self) -> bool:
        """Whether replicas are asked for in the spec, not on the revision itself."""
        return self.standard and not self.external

    def stands(self, service: Service) -> bool:
        """Whether the spec gives the canary its percent, and both sides their replicas where it is to."""
        if service.canary_percent != self.percent or service.canary is None or not self.in_spec:
            return service.canary_percent == self.percent
        wanted = self.wanted(self.percent)
        sides = ((service.predictor, wanted.predictor), (service.canary, wanted.canary or service.canary))
        return all((live.min_replicas or 1) >= (side.min_replicas or 1) for live, side in sides)

    def seen_with(self, stable: Running) -> RolloutState:
        """With what the stable side runs now, if that is more; what the spec gives it for the canary's sake is not."""
        given = self.wanted(self.percent).predictor.min_replicas or 1 if self.in_spec else 0
        return replace(self, replicas=stable.ready) if stable.ready > max(self.replicas, given) else self

    def carried(self) -> Wanted:
        """The candidate alone, with what the stable side ran."""
        return Wanted(raised(self.candidate, self.replicas) if self.in_spec and self.replicas else self.candidate)

    def decide(self, decision: Decision, reason: str) -> RolloutState:
        """With the end decided; the first decision stands."""
        if self.decision is not None:
            return self
        return replace(self, phase=Phase.DECIDED, decision=decision, reason=reason)

    def close(self, now: float) -> RolloutState:
        """Closed; the evidence is dropped, the steps and the trace of the looks are kept."""
        return replace(self, phase=Phase.CLOSED, closed_at=now, evidence=Evidence(), snapshot=None)

    def to_json(self) -> dict[str, Any]:
        """JSON of it; who is told how it ended is no part of it, for everybody may read a Lease."""
        return {
            "version": STATE_VERSION,
            **vars(self),
            "request": self.request.model_dump(mode="json", exclude={"rollout": {"notifiers"}}),
            "candidate": self.candidate.to_json(),
            "stable": self.stable.to_json() if self.stable else None,
            "stood": self.stood.to_json() if self.stood else None,
            "naming": vars(self.naming) if self.naming else None,
            "steps": [step.to_json() for step in self.steps],
            "trace": [point.to_json() for point in self.trace],
            "evidence": self.evidence.to_json(),
            "snapshot": self.snapshot.to_json() if self.snapshot else None,
        }

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> RolloutState:
        """Of `to_json`, of other versions of this package too: what is unknown is left out, and values have types.

        ValidationError, ValueError, TypeError or KeyError where it is no state.
        """
        return _state().validate_python(
            {
                **document,
                "request": RolloutRequest.model_validate(document["request"], extra="ignore"),
                "candidate": Predictor.from_json(document["candidate"]),
                "stable": Predictor.from_json(document["stable"]) if document["stable"] is not None else None,
                "stood": Predictor.from_json(document["stood"]) if document.get("stood") is not None else None,
                "steps": tuple(Step.from_json(step) for step in document["steps"]),
                # A rollout that an earlier version of this package opened has none.
                "trace": tuple(Point.from_json(point) for point in document.get("trace", ())),
                "evidence": Evidence.from_json(document["evidence"]),
                "snapshot": Snapshot.from_json(document["snapshot"]) if document["snapshot"] is not None else None,
            }
        )


@functools.cache
def _step() -> TypeAdapter[Step]:
    return TypeAdapter(Step)


@functools.cache
def _state() -> TypeAdapter[RolloutState]:
    return TypeAdapter(RolloutState)


def opened(
    request: RolloutRequest,
    holder: str,
    candidate: Predictor,
    there: Absent | NeverServed | Serving,
    now: float,
    running: Running | None = None,
) -> RolloutState:
    """A new rollout onto what is there; `running` is what serves there now."""
    running = running or Running()
    if isinstance(there, Absent):
        return RolloutState(request, holder, Kind.FIRST, candidate, None, now, made=True)
    service = there.service
    # KServe makes no revision for a storageUri that it has already.
    unchanged = service.predictor.storage_uri == candidate.storage_uri
    if isinstance(there, NeverServed):
        named = replace(candidate, name=service.predictor.name)
        before = "" if unchanged or service.standard else service.latest_created
        first = RolloutState(request, holder, Kind.FIRST, named, None, now, before=before)
        return replace(first, stood=service.predictor, standard=service.standard)
    rolling = request.rollout.strategy == "rolling"
    kind = Kind.UNCHANGED if unchanged else Kind.ROLLING if rolling else Kind.CANARY
    if service.standard:
        # A rolling update keeps the Deployment; a canary has one of its own, which stays its own when it is promoted.
        name = canary_name(request.version) if kind is Kind.CANARY else service.predictor.name
        candidate = replace(candidate, name=name)
    elif kind is Kind.ROLLING and running.ready:
        # Knative gives the new revision all traffic once it has its minimum.
        candidate = raised(candidate, running.ready)
    same_revision = unchanged or (rolling and service.standard)
    steps = request.plan.canary_steps
    return RolloutState(
        request,
        holder,
        kind,
        candidate,
        service.predictor,
        now,
        before="" if same_revision else service.latest_created,
        stable_revision=service.rolled_out,
        standard=service.standard,
        replicas=running.ready,
        floor=running.asked,
        prepared=steps[0] if steps else 100,
        labels=service.labels,
    )


def returning(
    request: RolloutRequest,
    holder: str,
    target: Predictor,
    service: Service,
    kept_revision: str,
    reason: str,
    now: float,
    running: Running | None = None,
) -> RolloutState:
    """The return to `target`, decided from its beginning; `request` is of the version that serves and is to go."""
    running = running or Running()
    if not service.standard and running.ready:
        target = raised(target, running.ready)
    state = RolloutState(request, holder, Kind.RETURN, service.predictor, target, now)
    return replace(
        state,
        before=service.latest_created,
        stable_revision=kept_revision,
        revision=service.rolled_out,
        kept_revision=kept_revision,
        standard=service.standard,
        replicas=running.ready,
        floor=running.asked,
    ).decide(Decision.ROLLED_BACK, reason)


def begin_testing(state: RolloutState, service: Service) -> RolloutState:
    """The new revision is ready: the smoke test may begin."""
    state = replace(state, phase=Phase.TESTING, revision=service.latest_ready, url=service.url)
    return replace(state, standard=service.standard, unrouted_since=None)


def begin_canary(state: RolloutState) -> RolloutState:
    """The smoke test has passed: the first step, or the promotion where there is nothing to split with."""
    if state.phase is not Phase.TESTING:
        return state
    steps = state.request.plan.canary_steps
    if state.kind is Kind.FIRST:
        return state.decide(Decision.PROMOTED, "the first version goes live after its smoke test")
    if state.kind is Kind.UNCHANGED:
        return state.decide(Decision.PROMOTED, "this version is live already")
    if state.kind is Kind.ROLLING:
        return state.decide(Decision.PROMOTED, "the rolling update is over and the smoke test passed")
    if not steps:
        return state.decide(Decision.PROMOTED, "the plan has no step below 100 %")
    return replace(state, phase=Phase.CANARY, steps=(Step(steps[0]),))


def remember(state: RolloutState, history: Iterable[Window]) -> RolloutState:
    """With what the stable side did before there was a canary: its level, and how much it varies."""
    evidence, windows = state.evidence, tuple(history)
    for window in windows:
        evidence = evidence.add(window, state.request.limits.slow)
    return replace(state, evidence=evidence, outlook=outlook(state.request, windows))
