"""What one look at the service and at both sides' counters makes of a rollout. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ml_lifecycle.canary.evidence import Side, Window
from ml_lifecycle.canary.plan import Move, Position, next_move
from ml_lifecycle.canary.snapshot import Gap, Growths, Snapshot, window
from ml_lifecycle.canary.verdict import Outcome, Verdict, judge
from ml_lifecycle.kserve.replicas import Running, share
from ml_lifecycle.kserve.revisions import Service
from ml_lifecycle.kserve.rollout import Decision, RolloutState, Step
from ml_lifecycle.kserve.trace import Point, extend

# Chance leaves a side without any of so many expected requests once in half a billion looks.
_SURELY_SOME = 20
_LONGEST_REASON = 500


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
            f"came after {state.revision}{_of_labels(appeared(state, service))}"
        )
    if service.rolled_out not in {"", state.stable_revision}:
        return (
            f"KServe rolled {service.rolled_out} out in the middle of the rollout; {state.stable_revision} was stable"
        )
    return ""


def appeared(state: RolloutState, service: Service | None) -> tuple[str, ...]:
    """Labels that the service has now and had not, as it is, when the rollout opened: KServe gives them to the pods."""
    if service is None or state.labels is None:
        return ()
    return tuple(label for label in service.labels if label not in state.labels)


def _of_labels(labels: tuple[str, ...]) -> str:
    return f", made by the labels {', '.join(labels)}, which KServe copies into each revision" if labels else ""


def edited(state: RolloutState, service: Service) -> str:
    """Whose model the service names, where it is not the candidate; empty where it is."""
    if service.newest.storage_uri == state.candidate.storage_uri:
        return ""
    return (
        f"InferenceService {state.service!r} was edited in the middle of the rollout: storageUri is "
        f"{service.newest.storage_uri!r}, not {state.candidate.storage_uri!r}"
    )


@dataclass(frozen=True)
class Look:
    """What one look found; `line` is for the log."""

    state: RolloutState
    line: str


def look(state: RolloutState, service: Service, seen: Growths | Gap, now: float, canary: Running | None = None) -> Look:
    """The state after one look at the service and at what counters grew by (a Gap where they could not be read).

    What was not read, or is odd, is looked at by the next look, which reaches back to where the last one ended.
    `canary`: what runs of it; None where it is taken to have what it needs.
    """
    step = state.steps[-1]
    if step.since is None and service.percent(state.revision) == step.percent:
        step = replace(step, since=now)
    found = _found(state.snapshot, seen, step)
    if not (isinstance(seen, Gap) or (isinstance(found, Gap) and found.unread)):
        state = replace(state, snapshot=Snapshot(seen.at))
    limits, warmup = state.request.limits, _warmup(state, found)
    if isinstance(found, Gap):
        verdict = judge(state.evidence, limits)
        verdict = replace(verdict, outcome=Outcome.HOLD, reasons=(found.reason, *verdict.reasons))
    elif warmup:
        state = replace(state, evidence=state.evidence.add_warmup(found))
        verdict = _warming(warmup, judge(state.evidence, limits))
        step = replace(step, warmup=step.warmup + 1, warmed=now)
    else:
        state = replace(state, evidence=state.evidence.add(found, limits.slow))
        verdict = judge(state.evidence, limits)
        step = replace(step, seen=step.seen + found, looks=step.looks + 1)
    step = replace(step, verdict=verdict.outcome.value, reason=verdict.reason)
    counted = None if isinstance(found, Gap) else found
    point = Point.of(now - state.opened_at, step.percent, counted, verdict.numbers, warmup=bool(warmup))
    state = replace(state, steps=(*state.steps[:-1], step), trace=extend(state.trace, point))
    state, move = _moved(state, step, verdict, canary, now, held=warmup or _cold(state))
    return Look(state, _line(step, verdict, move, counted if warmup else None))


def lost(state: RolloutState, reason: str, now: float) -> Look:
    """The state after a look of which nothing is known: the deadline goes on, and nothing else changes."""
    verdict = Verdict(Outcome.HOLD, (f"this look is lost: {reason}"[:_LONGEST_REASON],))
    step = replace(state.steps[-1], verdict=verdict.outcome.value, reason=verdict.reason)
    state = replace(state, steps=(*state.steps[:-1], step))
    state, move = _moved(state, step, verdict, None, now, held=verdict.reason)
    return Look(state, _line(step, verdict, move))


def _warmup(state: RolloutState, found: Window | Gap) -> str:
    """Which look of the canary's warm-up this one is, "warm-up 2 of 3"; empty where it is none."""
    wanted, before = state.request.plan.warmup_looks, _warmed(state)
    if isinstance(found, Gap) or not found.canary.requests or before >= wanted:
        return ""
    return f"warm-up {before + 1} of {wanted}"


def _cold(state: RolloutState) -> str:
    """Why a canary with traffic gets no more of it yet; empty once it has warmed up."""
    wanted, before = state.request.plan.warmup_looks, _warmed(state)
    return f"warm-up {before} of {wanted}" if before < wanted and state.percent else ""


def _warmed(state: RolloutState) -> int:
    """Looks of the warm-up so far."""
    return sum(step.warmup for step in state.steps)


def _warming(warmup: str, verdict: Verdict) -> Verdict:
    """What a look of the warm-up says: nothing, unless the guardrail ends the rollout."""
    if verdict.outcome is Outcome.ROLL_BACK:
        return replace(verdict, reasons=(warmup, *verdict.reasons))
    return replace(verdict, outcome=Outcome.HOLD, reasons=(f"{warmup}, which only a catastrophe ends",))


def _found(before: Snapshot | None, seen: Growths | Gap, step: Step) -> Window | Gap:
    """What both sides did; a Gap as well where one of them is silent that cannot be."""
    if isinstance(seen, Gap):
        return seen
    if before is None:
        return Gap("first look: nothing to compare with yet")
    found = window(seen)
    if isinstance(found, Gap):
        return found
    # Until all of the window lies on this step the canary may have had as little as before it, but never more.
    split = step.since is not None and step.since <= before.at
    return _silent(found, canary_percent=step.percent if split else 0, stable_percent=100 - step.percent) or found


def _silent(found: Window, *, canary_percent: int, stable_percent: int) -> Gap | None:
    """A side without any request, far beyond chance: the split or its metrics are broken, and nothing can be compared.

    Where it is only late, the next look reaches back and counts everything.
    """
    total = found.canary.requests + found.stable.requests
    sides = (("canary", found.canary, canary_percent), ("stable", found.stable, stable_percent))
    for name, side, percent in sides:
        if not side.requests and total * percent / 100 >= _SURELY_SOME:
            return Gap(
                f"none of {total} requests were the {name} side's at {percent} % of the traffic: it has not answered "
                "yet, the data plane does not split the traffic, or that side is not scraped",
                unread=True,
            )
    return None


def _moved(
    state: RolloutState, step: Step, verdict: Verdict, canary: Running | None, now: float, *, held: str = ""
) -> tuple[RolloutState, str]:
    """`held` says why the traffic must not go on, whatever the verdict."""
    since = now if step.since is None else step.since
    position = Position(
        step=len(state.steps) - 1,
        step_since=since,
        step_requests=step.seen.canary.requests,
        opened_at=state.opened_at + state.paused_seconds,
        approved=step.percent in state.approved,
        frozen=state.frozen,
        paused_since=state.paused_since,
        held=held,
        warmed=-math.inf if step.warmed is None else step.warmed,
    )
    plan = state.request.plan
    move, reason = next_move(plan, position, verdict, now)
    if move in (Move.NEXT_STEP, Move.PROMOTE) and canary is not None:
        # Replicas before traffic: those that the next percent needs are asked for, and waited for.
        percent = plan.canary_steps[len(state.steps)] if move is Move.NEXT_STEP else 100
        state = replace(state, prepared=max(percent, state.prepared))
        if short := canary.short(state.revision, share(state.replicas, percent)):
            held = f"for {percent} % of the traffic {short}"
            move, reason = next_move(plan, replace(position, held=held), verdict, now)
    state = _paused(state, now, reason if move is Move.PAUSE else "")
    if move is Move.NEXT_STEP:
        percent = state.request.plan.canary_steps[len(state.steps)]
        return replace(state, steps=(*state.steps, Step(percent))), f"now {percent} %"
    if move in (Move.STAY, Move.PAUSE):
        return state, reason
    decision = {
        Move.PROMOTE: Decision.PROMOTED,
        Move.ROLL_BACK: Decision.ROLLED_BACK,
        Move.FREEZE: Decision.FROZEN,
    }[move]
    return state.decide(decision, reason), f"{decision.value}: {reason}"


def _paused(state: RolloutState, now: float, reason: str) -> RolloutState:
    """A pause costs no time of the deadline; without a `reason` there is none (any more)."""
    if reason:
        since = now if state.paused_since is None else state.paused_since
        return replace(state, paused_since=since, paused_for=reason)
    if state.paused_since is None:
        return state
    seconds = state.paused_seconds + now - state.paused_since
    return replace(state, paused_since=None, paused_for="", paused_seconds=seconds, announced=None)


def _line(step: Step, verdict: Verdict, move: str, warmup: Window | None = None) -> str:
    """Of the step so far; of a look of the warm-up alone, which is not counted in it."""
    seen = step.seen if warmup is None else warmup
    canary, stable = (_side(side) for side in (seen.canary, seen.stable))
    number = f"look {step.looks:<3d}" if warmup is None else "warm-up "
    text = f"{step.percent:3d} %  {number} canary {canary}  stable {stable}  {verdict.outcome.value}"
    return f"{text}: {verdict.reason}" + (f"  → {move}" if move != verdict.reason else "")


def _side(side: Side) -> str:
    latency = p95_ms(side)
    p95 = "" if latency is None else f", p95 {latency:.0f} ms"
    return f"{side.requests} requests, {side.errors} errors{p95}"


def p95_ms(side: Side) -> float | None:
    """In milliseconds; None without data."""
    latency = side.latency.quantile(0.95)
    return None if math.isnan(latency) else round(1000 * latency, 1)
