"""How a rollout ends: what brings the live service one act closer to what was decided. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from ml_lifecycle.kserve.predictor import Predictor
from ml_lifecycle.kserve.replicas import Running
from ml_lifecycle.kserve.revisions import Service
from ml_lifecycle.kserve.rollout import Decision, Kind, Phase, RolloutState, Wanted


def ended(state: RolloutState, service: Service | None, now: float) -> RolloutState:
    """The state that closing starts from: what nobody decided is rolled back, with the reason.

    A canary that has users may stay as it is, where settings say so.
    """
    without_verdict = {
        Phase.OPENING: "the rollout ended before the new revision was ready",
        Phase.TESTING: "the smoke test failed or was stopped: see the log of the task smoke_test",
        Phase.CANARY: f"the rollout was stopped at {state.percent} % without a verdict",
    }
    if state.phase in without_verdict:
        freeze = state.phase is Phase.CANARY and state.request.rollout.on_deadline == "freeze"
        state = state.decide(Decision.FROZEN if freeze else Decision.ROLLED_BACK, without_verdict[state.phase])
    if state.closing_since is None:
        state = replace(state, closing_since=now)
    if state.decision is Decision.PROMOTED:
        state = replace(state, prepared=100)
    return noted(state, service)


def noted(state: RolloutState, service: Service | None) -> RolloutState:
    """With the revision that this rollout has brought into being, once it can be told."""
    if state.revision or service is None or service.newest.storage_uri != state.candidate.storage_uri:
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
    """The next act: with APPLY the spec to apply, with WAIT what for; `sized`: the revision that needs replicas."""

    act: Act
    reason: str
    wanted: Wanted | None = None
    sized: str = ""


@dataclass(frozen=True)
class Pods:
    """What runs of the revision that is to take all traffic; `late`: it has been waited for long enough."""

    running: Running
    late: bool = False

    def short(self, state: RolloutState, revision: str) -> str:
        """What it lacks of the stable side's replicas; empty where nothing."""
        return self.running.short(revision, state.replicas, late=self.late)


_LEFT = Closing(Act.DONE, "somebody else changed the service: left as it is")


def taking(state: RolloutState, service: Service | None) -> str:
    """The revision that is to take all traffic, and whose replicas must be there before; empty where none is."""
    if service is None or not state.replicas or state.kind is not Kind.CANARY:
        return ""
    if state.decision is Decision.PROMOTED:
        return state.revision
    restored = service.latest_created
    return "" if state.standard or restored == state.revision else restored


def carried_over(state: RolloutState) -> bool:
    """Whether more replicas may be asked for than settings want, so that what serves carries the load at once."""
    if not state.replicas or state.decision is Decision.FROZEN or state.kind in (Kind.FIRST, Kind.UNCHANGED):
        return False
    if not state.standard:
        return state.replicas > 1
    promoted = state.decision is Decision.PROMOTED and state.kind is Kind.CANARY
    return promoted and state.in_spec and state.replicas > (state.candidate.min_replicas or 1)


def next_closing(state: RolloutState, service: Service | None, pods: Pods | None = None) -> Closing:
    """What brings the live service one act closer to what was decided; `pods` are those of `taking`."""
    if state.decision is Decision.FROZEN or state.kind is Kind.UNCHANGED:
        return Closing(Act.DONE, "the service stays as it is")
    if service is None:
        return Closing(Act.DONE, f"there is no InferenceService {state.service!r}")
    if state.decision is Decision.PROMOTED:
        return _promotion(state, service, pods)
    return _roll_back(state, service, pods)


def _promotion(state: RolloutState, service: Service, pods: Pods | None) -> Closing:
    if service.newest.storage_uri != state.candidate.storage_uri:
        return _LEFT
    if service.canary_percent not in (None, 100) and (missing := _unprepared(state, service, pods)):
        return missing
    if service.canary is not None:
        # Route and pods first: the moment that the entry is dropped, KServe ends the stable pods.
        if service.canary_percent != 100:
            return Closing(Act.APPLY, "all traffic to the new revision", state.wanted(100))
        if service.percent(state.revision) != 100:
            return _waiting(state.revision, service)
        return Closing(Act.APPLY, "the new revision becomes the predictor", state.carried())
    if service.canary_percent is not None:
        return Closing(Act.APPLY, "all traffic to the new revision", state.wanted())
    if service.rolled_out != state.revision or service.percent(state.revision) != 100:
        return _waiting(state.revision, service)
    return Closing(Act.DONE, f"{state.revision} serves all traffic")


def _unprepared(state: RolloutState, service: Service, pods: Pods | None) -> Closing | None:
    """What is to come before all traffic: the replicas that carry it."""
    if service.canary is not None and service.canary_percent is not None:
        wanted = state.wanted(service.canary_percent)
        if wanted.canary is not None and (service.canary.min_replicas or 1) < (wanted.canary.min_replicas or 1):
            return Closing(Act.APPLY, "replicas for all traffic", wanted)
    short = pods.short(state, state.revision) if pods else ""
    return Closing(Act.WAIT, short, sized=state.revision) if short else None


def _roll_back(state: RolloutState, service: Service, pods: Pods | None) -> Closing:
    uri = service.newest.storage_uri
    if state.stable is None:
        return _undone(state, service)
    if state.kind is Kind.ROLLING or (state.kind is Kind.RETURN and not state.kept_revision):
        return _replaced(state, service, state.stable)
    if uri == state.candidate.storage_uri and (service.canary is not None or not state.standard):
        return _withdraw(state, service, state.stable)
    if uri != state.stable.storage_uri:
        return _LEFT
    return _dropped(state, service) if state.standard else _restored(state, service, state.stable, pods)


def _undone(state: RolloutState, service: Service) -> Closing:
    """A first version goes: what stood before comes back, and only what this rollout itself made is deleted."""
    if service.newest.storage_uri != state.candidate.storage_uri:
        return Closing(Act.DONE, "the service is gone or another's")
    if state.stood is not None and state.stood.storage_uri != state.candidate.storage_uri:
        return Closing(Act.APPLY, "what stood in the spec before the rollout", Wanted(state.stood))
    if not state.made or not service.ours_alone:
        return Closing(Act.DONE, "the service is not this rollout's alone: left as it is")
    return Closing(Act.DELETE, "there is no earlier version to go back to")


def inherited(state: RolloutState, service: Service | None) -> RolloutState:
    """As another run takes it over: a first version that serves may have users by now, so it is not deleted."""
    serves = service is not None and bool(service.rolled_out or service.traffic)
    return replace(state, made=state.made and not serves)


def _withdraw(state: RolloutState, service: Service, stable: Predictor) -> Closing:
    """First the traffic, then the name: the good model's revision must not be raced by a ready bad one."""
    if service.canary_percent != 0:
        return Closing(Act.APPLY, "no traffic to the new revision", state.wanted(0))
    share = service.percent(state.revision) if state.revision else 0
    if share > 0:
        return Closing(Act.WAIT, f"{state.revision} still has {share} % of the traffic")
    percent = None if state.standard else 0
    return Closing(Act.APPLY, "the spec names the stable version again", Wanted(stable, percent))


def _dropped(state: RolloutState, service: Service) -> Closing:
    """In Standard mode the stable pods have served all along."""
    if state.revision and service.routes(state.revision):
        return Closing(Act.WAIT, f"{state.revision} is still in the HTTPRoute")
    return Closing(Act.DONE, f"{service.rolled_out or state.stable_revision} serves all traffic")


def _restored(state: RolloutState, service: Service, stable: Predictor, pods: Pods | None) -> Closing:
    """Traffic stays pinned until the restored revision is the latest ready one; then it takes all."""
    restored = service.latest_created
    ready = restored == service.latest_ready and restored not in {"", state.revision}
    if service.canary_percent is not None:
        if not ready:
            return Closing(Act.WAIT, f"revision {restored} of the stable version is not ready yet")
        if short := pods.short(state, restored) if pods else "":
            return Closing(Act.WAIT, short, sized=restored)
        return Closing(Act.APPLY, "all traffic to the stable version", Wanted(stable))
    if not ready or service.rolled_out != restored or service.percent(restored) != 100:
        return _waiting(restored, service)
    return Closing(Act.DONE, f"{restored} of the stable version serves all traffic")


def _replaced(state: RolloutState, service: Service, stable: Predictor) -> Closing:
    """`stable` in the place of the candidate, at once; KServe keeps the old pods until the new ones are ready."""
    if service.newest.storage_uri == state.candidate.storage_uri:
        return Closing(Act.APPLY, "the spec names the earlier version", Wanted(stable))
    if service.predictor.storage_uri != stable.storage_uri:
        return _LEFT
    restored = service.latest_created
    # In Standard mode the Deployment stays; that it has followed is what makes it ready.
    ready = restored == service.latest_ready and (state.standard or restored not in {"", state.revision})
    if not ready or service.rolled_out != restored or service.percent(restored) != 100:
        return _waiting(restored, service)
    return Closing(Act.DONE, f"{restored} of the earlier version serves all traffic")


def _waiting(revision: str, service: Service) -> Closing:
    return Closing(Act.WAIT, f"{revision} has {service.percent(revision)} % of the traffic")


def left_serving(state: RolloutState) -> Predictor | None:
    """What the service names since this rollout closed, unless somebody has changed it; None where that is open."""
    if state.phase is not Phase.CLOSED:
        return None
    if state.decision is Decision.PROMOTED:
        return state.stable if state.kind is Kind.UNCHANGED else state.candidate
    changed = state.kind in (Kind.CANARY, Kind.ROLLING, Kind.RETURN)
    withdrawn = state.decision is Decision.ROLLED_BACK and changed and state.revision
    return state.stable if withdrawn else None
