"""Drives one service's rollout: opens it, looks at its new revision, closes it."""

from __future__ import annotations

import asyncio
import json
import logging
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

from ml_lifecycle.canary.evidence import Window
from ml_lifecycle.canary.snapshot import Gap, Growths
from ml_lifecycle.kserve.client import evidence
from ml_lifecycle.kserve.client.lease import Clock, RolloutLease, utc_now
from ml_lifecycle.kserve.client.replicas import ReplicasClient
from ml_lifecycle.kserve.client.service import ServiceClient
from ml_lifecycle.kserve.closing import (
    Act,
    Closing,
    Pods,
    carried_over,
    ended,
    inherited,
    left_serving,
    next_closing,
    noted,
    taking,
)
from ml_lifecycle.kserve.exceptions import RolloutInterruptedError, RolloutRefusedError, RolloutStuckError
from ml_lifecycle.kserve.found import Absent, Found, NeverServed, Serving, Unknown
from ml_lifecycle.kserve.look import edited, trouble
from ml_lifecycle.kserve.manifest import Manifest, picked, setters
from ml_lifecycle.kserve.names import check_names
from ml_lifecycle.kserve.proof import unproven
from ml_lifecycle.kserve.replicas import Running, share
from ml_lifecycle.kserve.report import report
from ml_lifecycle.kserve.request import RolloutRequest
from ml_lifecycle.kserve.revisions import FIELD_MANAGER, Readiness, Service, crashed, readiness
from ml_lifecycle.kserve.rollout import (
    Decision,
    Kind,
    Phase,
    RolloutState,
    Wanted,
    begin_testing,
    opened,
    returning,
)
from ml_lifecycle.kserve.standard import UNSPLITTABLE, own_address, revision_name
from ml_lifecycle.kubernetes.client import KubernetesClient
from ml_lifecycle.kubernetes.conditions import pause
from ml_lifecycle.kubernetes.exceptions import ConflictError, LeaseLostError
from ml_lifecycle.prometheus.client import PrometheusClient
from ml_lifecycle.settings import Settings

log = logging.getLogger(__name__)

# A ready canary gets its place in the HTTPRoute at once; traffic that Knative moves back has moved by then.
_UNROUTED_SECONDS = 60.0
_RETURN_SECONDS = 30.0
_ATTEMPTS = 20
_AGAIN_SECONDS = 0.1
# Knative averages over a minute, an HPA remembers its highest advice for five: by then both know the load.
_SETTLE_SECONDS = 150.0


@asynccontextmanager
async def connect(connection_id: str, holder: str) -> AsyncIterator[RolloutClient]:
    """The client of an Airflow connection of type kubernetes, writing Leases as `holder`."""
    from ml_lifecycle.kubernetes.client import connect as connect_kubernetes

    async with connect_kubernetes(connection_id) as kubernetes:
        yield RolloutClient(kubernetes, holder)


class RolloutClient(RolloutLease):
    """What the rollout's tasks do to the cluster, as one `holder` of the service's Lease."""

    def __init__(self, kubernetes: KubernetesClient, holder: str, clock: Clock = utc_now) -> None:
        super().__init__(kubernetes, holder, clock)
        self._services = ServiceClient(kubernetes)
        self._replicas = ReplicasClient(kubernetes)

    async def service(self, state: RolloutState) -> Service | None:
        """The InferenceService as it stands; None if absent."""
        return await self._services.find(state)

    async def move(self, state: RolloutState) -> Service | None:
        """Gives the canary the percent that the state says, unless somebody changed the service; as it stands then.

        The state is on the Lease before. Read the service, see that the Lease is still this driver's, apply to the
        service as read: so a driver that slept meanwhile, however long, changes nothing that its successor has changed.
        """
        service = await self.service(state)
        for _ in range(_ATTEMPTS):
            if service is None or state.stands(service) or trouble(state, service):
                break
            await self._apply(state, state.wanted(state.percent), service)
            service = await self.service(state)
        return service

    async def _apply(self, state: RolloutState, wanted: Wanted, seen: Service) -> None:
        """Applies to the service as it was `seen`; nothing where it has changed since: the caller looks again."""
        await self.check(state)
        try:
            await self._services.apply(state, wanted, resource_version=seen.resource_version, force=True)
        except ConflictError as conflict:
            log.info("InferenceService %s has changed since it was read: %s", state.service, conflict.message)
            await asyncio.sleep(_AGAIN_SECONDS)

    async def open(self, request: RolloutRequest, golden: str) -> RolloutState:
        """Takes the Lease and opens the canary at 0 %; goes on with what this or a dead run has begun.

        RolloutRefusedError before anything is changed: somebody else's rollout, service, namespace or mode.
        """
        namespace, name = request.namespace, request.model
        live = await self._check(request)
        await self.acquire(request)
        left = await self._believed(await self.load(namespace, name), live, request)
        if left is not None and _goes_on(left, request):
            return await self._resume(left, request, golden)
        if left is not None and (left.phase is not Phase.CLOSED or _still_frozen(left, live)):
            await self._clear(left)
        return await self._begin(request, await self._there(request, left), golden)

    async def _there(self, request: RolloutRequest, left: RolloutState | None) -> Absent | NeverServed | Serving:
        """What is there, once it can be told; RolloutRefusedError with the ways out where it cannot in time."""
        since, said, minutes = self.now(), "", request.rollout.ready_timeout_minutes
        before = left is not None and (left.stable is not None or left.decision is Decision.PROMOTED)
        while True:
            there = await self._services.found(request, served_before=before)
            await self._check_no_canary(request, there)
            if not isinstance(there, Unknown):
                return there
            if there.told and request.rollout.strategy == "rolling":
                return Serving(there.service)
            if self.now() - since > 60 * minutes:
                await self.release(request.namespace, request.model)
                raise RolloutRefusedError(_unknown(request, there.reason))
            if there.reason != said:
                log.info("waiting for what serves: %s", there.reason)
                said = there.reason
            await self.acquire(request)
            await asyncio.sleep(pause(self.now() - since, 2))

    async def _believed(
        self, left: RolloutState | None, live: Service | None, request: RolloutRequest
    ) -> RolloutState | None:
        """What another run left open; None where it would make of the service what nothing else confirms."""
        if left is None or live is None or left.phase is Phase.CLOSED or left.holder == self.holder:
            return left
        reason = unproven(left, live, await self._services.predictor(request, request.storage_uri))
        if reason:
            log.error("what %s left on the Lease of %s is not gone on with: %s", left.holder, left.service, reason)
        return None if reason else left

    async def abandon(self, state: RolloutState, settings: Settings | None) -> dict[str, Any]:
        """Closes what a dead run left, as `abandoned` has found it and as its `on_deadline` says; the report.

        `settings` of the model as they are now: its connections and namespace are theirs, whatever the Lease says.
        RolloutRefusedError where the Lease would have served what nothing else confirms; nothing has changed then.
        LeaseHeldError if it lives again.
        """
        live = await self.service(state)
        expected = None
        if settings is not None:
            if settings.serving.namespace != state.request.namespace:
                raise RolloutRefusedError(f"settings name namespace {settings.serving.namespace!r} for it")
            request = RolloutRequest.of(settings, version="0")
            expected = await self._services.predictor(request, request.storage_uri)
            state = replace(state, request=state.request.model_copy(update={"connections": settings.connections}))
        if live is not None and (reason := unproven(state, live, expected)):
            raise RolloutRefusedError(reason)
        alone = live is not None and bool(live.rolled_out) and state.stable is None
        freeze = alone or state.request.rollout.on_deadline == "freeze"
        decision = Decision.FROZEN if freeze else Decision.ROLLED_BACK
        taken = await self.take_over(inherited(state, live))
        return await self.close(taken.decide(decision, f"{state.holder} abandoned the rollout"))

    async def _resume(self, left: RolloutState, request: RolloutRequest, golden: str) -> RolloutState:
        """Goes on; a successor does not inherit the time that passed while nobody held the Lease."""
        if left.holder != self.holder:
            log.info("taking over from %s at %s %%", left.holder, left.percent)
            left = replace(left, holder=self.holder, opened_at=self.now())
        state = await self.save(replace(left, request=request))
        if state.phase is Phase.OPENING:
            # Whoever wrote the state may have been killed before it applied anything.
            await self._apply_candidate(state, None, golden)
        return state

    async def _clear(self, left: RolloutState) -> None:
        """Closes what another rollout left open; what nobody decided, or somebody froze, makes way."""
        log.info("closing what %s left: version %s", left.holder, left.request.version)
        if left.decision in (None, Decision.FROZEN):
            undecided = replace(left, decision=None, closing_since=None)
            left = undecided.decide(Decision.ROLLED_BACK, f"{left.holder} left it open, and {self.holder} came")
        await self.close(await self.save(await self.inherited(replace(left, holder=self.holder))), release=False)

    async def inherited(self, state: RolloutState) -> RolloutState:
        """The state of another run, as this one closes it."""
        return inherited(state, await self.service(state))

    async def _check_no_canary(self, request: RolloutRequest, there: Found) -> None:
        live = None if isinstance(there, Absent) else there.service
        if live is not None and live.canary_percent is not None:
            await self.release(request.namespace, request.model)
            raise RolloutRefusedError(
                f"InferenceService {request.model!r} in {request.namespace!r} has a canary open "
                f"({live.canary_percent} % of {live.newest.storage_uri!r}) that no rollout knows: promote it or "
                f"restore the good storageUri, and remove {'spec.canary' if live.standard else 'canaryTrafficPercent'}"
            )

    async def _begin(self, request: RolloutRequest, there: Absent | NeverServed | Serving, golden: str) -> RolloutState:
        candidate = await self._services.predictor(request, request.storage_uri)
        left = await self.load(request.namespace, request.model)
        running = await self._running(request, there.service) if isinstance(there, Serving) else None
        state = opened(request, self.holder, candidate, there, self.now(), running)
        if state.kind in (Kind.FIRST, Kind.CANARY):
            await self._check_names(state)
        state = await self.begin(state)
        await self._apply_candidate(state, left, golden)
        return state

    async def _check_names(self, state: RolloutState) -> None:
        try:
            request = state.request
            check_names(request.model, request.namespace, request.version, standard=state.standard)
            await self._services.check_names(request, revision_name(state.service, state.candidate.name))
        except RolloutRefusedError:
            await self.release(state.request.namespace, state.service)
            raise

    async def _running(self, request: RolloutRequest, service: Service) -> Running:
        """What serves now runs so many replicas."""
        return await self._replicas.running(request.namespace, service.rolled_out, standard=service.standard)

    async def _apply_candidate(self, state: RolloutState, left: RolloutState | None, golden: str) -> None:
        """The golden cases, the runtime and the candidate at 0 %; the same again changes nothing."""
        created = None
        try:
            await self._services.apply_golden(state.request, golden)
            if state.kind is not Kind.UNCHANGED:
                await self._services.apply_runtime(state.request)
                created = await self._apply_spec(state, left)
            await self.check(state)
        except LeaseLostError:
            await self._withdraw(state, created)
            raise

    async def _apply_spec(self, state: RolloutState, left: RolloutState | None) -> Manifest | None:
        """The service, if this has created it."""
        # Percent and storageUri in one request: a percent alone would move traffic to an older revision.
        wanted = state.wanted(0 if state.kind is Kind.CANARY else None)
        force = False
        for _ in range(_ATTEMPTS):
            seen = (await self._services.raw(state)).get("metadata", {}).get("resourceVersion", "")
            await self.check(state)
            try:
                applied = await self._services.apply(state, wanted, resource_version=seen, force=force)
            except ConflictError as conflict:
                if conflict.owners:
                    await self._check_disputed(state, left, conflict)
                    force = True
                continue
            return None if seen else applied
        raise RolloutInterruptedError(f"InferenceService {state.service!r} changes faster than a rollout can open")

    async def _withdraw(self, state: RolloutState, created: Manifest | None) -> None:
        """What a driver that slept too long has made after its rollout was closed; nobody else would miss it."""
        standing = await self.load(state.request.namespace, state.service)
        if standing is not None and standing.phase is not Phase.CLOSED:
            return
        await self._services.delete_golden(state.request)
        if created is None or (standing is not None and standing.decision is Decision.PROMOTED):
            return
        for _ in range(_ATTEMPTS):
            metadata = (await self._services.raw(state)).get("metadata", {})
            identity = [(one.get("uid"), one.get("generation")) for one in (metadata, created["metadata"])]
            if identity[0] != identity[1]:
                return
            with suppress(ConflictError):
                await self._services.delete(state, resource_version=metadata["resourceVersion"])
                return

    async def _check_disputed(self, state: RolloutState, left: RolloutState | None, conflict: ConflictError) -> None:
        """RolloutRefusedError unless what others own is as the last rollout `left` it: so no change of theirs is lost.

        After the refusal the Lease is as before: this rollout has not been.
        """
        name, namespace = state.service, state.request.namespace
        wanted, found = None, await self._services.raw(state)
        if left is not None and (serving := left_serving(left)):
            wanted = picked(self._services.manifest(state, Wanted(serving)), conflict.owners)
        if wanted and wanted == picked(found, conflict.owners):
            log.info("taking over what others own, for it is as the last rollout left it: %s", conflict.message)
            return
        await self._services.delete_golden(state.request)
        await self.undo(state, left)
        version = state.stable.version if state.stable else ""
        raise RolloutRefusedError(_disputed(name, namespace, conflict, wanted, version))

    async def open_return(self, request: RolloutRequest, reason: str) -> RolloutState:
        """Takes the Lease and decides the return to the version of `request`; nothing of the service has changed yet.

        RolloutRefusedError where an open rollout, another's service or the version that serves stand against it.
        """
        left = await self.load(request.namespace, request.model)
        own = left is not None and left.holder == self.holder
        if left is not None and own and left.phase is not Phase.CLOSED:
            return left
        live = await self._check(request)
        if live is None or live.leaving or not live.rolled_out:
            raise RolloutRefusedError(
                f"no InferenceService {request.model!r} serves in {request.namespace!r}: run roll_out_model"
            )
        if live.newest.storage_uri == request.storage_uri:
            if left is not None and own and left.kind is Kind.RETURN:
                return left  # an earlier try of this task has done it
            raise RolloutRefusedError(f"version {request.version} of {request.model!r} serves already")
        await self.acquire(request)
        left = await self._believed(left, live, request)
        if left is not None and (left.phase is not Phase.CLOSED or _still_frozen(left, live)):
            await self._clear(left)
            live = await self._services.live(request) or live
        gone = live.predictor
        going = request.model_copy(update={"version": gone.version, "storage_uri": gone.storage_uri, "run_id": ""})
        target = replace(await self._services.predictor(request, request.storage_uri), name=gone.name)
        running = await self._running(request, live)
        kept = "" if live.standard else await self._services.kept(live, request)
        if running.ready > 1 and (await self._replicas.running(request.namespace, kept, standard=False)).short(
            kept, running.ready
        ):
            kept = ""  # it would begin with fewer pods than carry the load: a new revision begins with as many
        await self._services.apply_runtime(request)
        return await self.begin(returning(going, self.holder, target, live, kept, reason, self.now(), running))

    async def readiness(self, state: RolloutState) -> tuple[RolloutState, Readiness]:
        """Whether the new revision may be begin_testing; the state follows."""
        service = await self.service(state)
        if service is None:
            return state, Readiness(failed=True, reason=f"InferenceService {state.service!r} was deleted")
        if reason := edited(state, service):
            return state, Readiness(failed=True, reason=reason)
        state = noted(state, service)
        new = service.is_newer(state.before)
        pods = await self._services.pods(state, service.latest_created, standard=service.standard) if new else []
        found = readiness(service, pods, before=state.before)
        short = await self._lacking(state, service.latest_created) if new and not found.failed else ""
        if found.ready and short:
            found = Readiness(reason=short)
        if new and not (found.ready or found.failed or found.unrouted):
            found = replace(found, reason=await self._with_why(state, service.latest_created, found.reason))
        state, found = self._routed(state, service, found)
        return (begin_testing(state, service) if found.ready and state.phase is Phase.OPENING else state), found

    async def _with_why(self, state: RolloutState, revision: str, reason: str) -> str:
        """The reason, with what the cluster says of the missing pods."""
        said = await self._services.why_missing(state, revision, standard=state.standard)
        return f"{reason}: {said}" if said else reason

    async def _lacking(self, state: RolloutState, revision: str) -> str:
        """What the new revision lacks of the replicas for its first traffic, which are asked for; empty if nothing."""
        if state.kind is not Kind.CANARY or not state.replicas:
            return ""
        needed = share(state.replicas, state.prepared)
        return (await self._asked(state, revision, needed)).short(revision, needed)

    async def _asked(self, state: RolloutState, revision: str, replicas: int) -> Running:
        """What runs of a revision that has been asked for at least `replicas`, be it in the spec or here."""
        namespace, standard = state.request.namespace, state.standard
        running = await self._replicas.running(namespace, revision, standard=standard)
        if running.short(revision, replicas):
            running = replace(running, why=await self._services.why_missing(state, revision, standard=standard))
        if running.asked and running.asked < running.needs(replicas) and not state.in_spec:
            await self._replicas.ask(namespace, revision, running.needs(replicas), standard=standard)
        return running

    async def replicas(self, state: RolloutState) -> tuple[RolloutState, Running]:
        """The state that knows what the stable side runs, and what runs of the canary; both are asked for their share.

        The stable side keeps what it runs until the rollout is over, for all the load may come back to it at once.
        """
        if not state.replicas:
            return state, Running(ready=1)
        namespace, stable = state.request.namespace, state.stable_revision
        running = await self._replicas.running(namespace, stable, standard=state.standard)
        state = state.seen_with(running)
        if not state.standard and running.asked < running.needs(state.replicas):
            await self._replicas.ask(namespace, stable, running.needs(state.replicas), standard=False)
        needed = share(state.replicas, max(state.percent, state.prepared))
        return state, await self._asked(state, state.revision, needed)

    def _routed(self, state: RolloutState, service: Service, found: Readiness) -> tuple[RolloutState, Readiness]:
        """A canary that gets no place in the route in time fails: users' traffic has not been touched yet."""
        if not found.unrouted:
            return replace(state, unrouted_since=None), found
        since, limit = state.unrouted_since or self.now(), 60 * state.request.rollout.ready_timeout_minutes
        if self.now() - since > min(_UNROUTED_SECONDS, limit / 4) or self.now() - state.opened_at > limit:
            reason = UNSPLITTABLE.format(service=state.service, revision=service.latest_created)
            found = replace(found, failed=True, reason=reason)
        return replace(state, unrouted_since=since), found

    async def address(self, state: RolloutState) -> str:
        """The new revision's own URL; the service's where KServe gives none (it has no tag, and takes all traffic)."""
        service = await self.service(state)
        if service is None:
            raise RolloutInterruptedError(
                f"InferenceService {state.service!r} was deleted in the middle of the rollout"
            )
        if service.standard:
            return own_address(state.revision, state.request.namespace)
        url = service.tag_url(state.revision)
        if not url and state.kind is Kind.CANARY:
            raise RolloutInterruptedError(
                f"revision {state.revision} has no address of its own: InferenceService {state.service!r} lacks the "
                'annotation serving.kserve.io/enable-tag-routing: "true"'
            )
        return url or service.url

    async def crashed(self, state: RolloutState, seen: Growths | Gap) -> str:
        """Why the new revision does not serve; empty where it does.

        A pod that crashes counts no errors, so the pods are looked at where nothing new was counted.
        """
        if not isinstance(seen, Gap) and any(seen.canary.codes.values()):
            return ""
        reason = crashed(await self._services.pods(state, state.revision, standard=state.standard))
        return f"revision {state.revision}: {reason}" if reason else ""

    async def named(self, state: RolloutState, prometheus: PrometheusClient, *, aloud: bool = False) -> RolloutState:
        """With how Prometheus names both sides' requests, where it shows; `aloud` where it does not."""
        return await evidence.named(state, prometheus, self.now(), aloud=aloud)

    async def growths(self, state: RolloutState, prometheus: PrometheusClient) -> Growths | Gap:
        """What both sides' counters grew by since the last look; a Gap where Prometheus does not say."""
        return await evidence.growths(state, prometheus, self.now())

    async def history(self, state: RolloutState, prometheus: PrometheusClient) -> tuple[Window, ...]:
        """The stable side's looks before now; PrometheusError where they cannot be read."""
        return await evidence.history(state, prometheus, self.now())

    async def expected(self, state: RolloutState, prometheus: PrometheusClient) -> str:
        """What this plan can tell at today's traffic, in words; empty where there is nothing to tell."""
        return await evidence.expected(state, prometheus, self.now())

    async def close(self, state: RolloutState, *, poll_seconds: float = 2, release: bool = True) -> dict[str, Any]:
        """Brings the service to what was decided, deletes the golden cases, gives the Lease back; the report.

        RolloutStuckError if KServe does not follow within `ready_timeout_minutes`; the next close goes on.
        """
        state = await self.save(ended(state, await self.service(state), self.now()))
        said, fenced = "", False
        while True:
            service = await self.service(state)
            closing = next_closing(state, service, await self._pods(state, taking(state, service)))
            # An act that is to be done again did not last: somebody puts the field back at once.
            undone = closing.act is not Act.WAIT and closing.reason == said
            if closing.reason != said:
                log.info("%s: %s", closing.act.value, closing.reason)
                said = closing.reason
            if closing.act is Act.DONE:
                if service is None or fenced:
                    break
                # Nothing had to be written, so a driver that sleeps may still think the service to be as it read it.
                await self._services.fence(state, service.resource_version)
                fenced = True
            await self._act(state, closing, service)
            fenced = fenced or closing.act is Act.APPLY
            if closing.act is Act.WAIT or undone:
                state = self._check_patience(state, await self._named(state, closing) if undone else closing)
                state = await self.keep(noted(state, service))
                await asyncio.sleep(pause(self.now() - (state.closing_since or 0), poll_seconds))
        await self._settle(state, service)
        await self._services.delete_golden(state.request)
        summary = report(state, service, self.now(), left_behind=await self._tidy(state, service))
        closed = state.close(self.now())
        if release:
            await self.give_back(closed)
        else:
            await self.save(closed)
        return summary

    async def _tidy(self, state: RolloutState, service: Service | None) -> tuple[str, ...]:
        """What is left of the predictors that the service no longer has, and could not be removed."""
        if service is None or not service.standard or service.canary is not None or not service.rolled_out:
            return ()
        return await self._services.remove_autoscalers(state, service.rolled_out)

    async def _named(self, state: RolloutState, closing: Closing) -> Closing:
        """With who undoes it."""
        metadata = (await self._services.raw(state)).get("metadata") or {}
        others = setters(metadata.get("managedFields") or (), but=FIELD_MANAGER)
        by = f"by {', '.join(others)}" if others else "by others"
        return replace(closing, reason=f"{closing.reason}, which is undone at once {by}: let them stop")

    async def _pods(self, state: RolloutState, revision: str) -> Pods | None:
        """What runs of the revision that is to take all traffic; None where there is none."""
        if not revision:
            return None
        waited = self.now() - (state.closing_since or 0)
        running = await self._asked(state, revision, state.replicas)
        return Pods(running, late=waited > 60 * state.request.rollout.ready_timeout_minutes / 2)

    async def _settle(self, state: RolloutState, service: Service | None) -> None:
        """Takes back the replicas that carried the load over, once the autoscaler has seen that load for a while.

        What the stable side was asked for before stays asked for: a scaler goes on from there.
        """
        live = service.rolled_out if service is not None else ""
        if not live or service is None or not carried_over(state):
            return
        namespace, floor = state.request.namespace, max(1, state.floor, service.predictor.min_replicas or 1)
        if not state.standard:
            found = [
                await self._replicas.running(namespace, name, standard=False) for name in (live, state.stable_revision)
            ]
            kept = dict(zip((live, state.stable_revision), found, strict=True))
            raised = [name for name, running in kept.items() if running.asked > floor]
        else:
            raised = [live]
        if not raised:
            return
        log.info("%s keeps its replicas until its autoscaler knows the load", live)
        until = self.now() + _SETTLE_SECONDS
        while self.now() < until:
            state = await self.keep(state)
            await asyncio.sleep(min(5.0, max(0.0, until - self.now())))
        if state.standard:
            await self._apply(state, state.wanted(), await self.service(state) or service)
        for name in raised if not state.standard else ():
            await self._replicas.ask(namespace, name, floor, standard=False)

    async def report(self, state: RolloutState) -> dict[str, Any]:
        """Of a rollout that is closed already."""
        return report(state, await self.service(state), state.closed_at or self.now())

    async def _act(self, state: RolloutState, closing: Closing, service: Service | None) -> None:
        if service is None or closing.act not in (Act.APPLY, Act.DELETE):
            return
        if closing.wanted is not None:
            await self._apply(state, closing.wanted, service)
            return
        await self.check(state)
        try:
            await self._services.delete(state, resource_version=service.resource_version)
        except ConflictError as conflict:
            log.info("InferenceService %s has changed since it was read: %s", state.service, conflict.message)

    def _check_patience(self, state: RolloutState, closing: Closing) -> RolloutState:
        """A return that Knative does not carry out by moving traffic is carried out by a new revision."""
        minutes = state.request.rollout.ready_timeout_minutes
        waited = self.now() - (state.closing_since or 0)
        if state.kept_revision and waited > _RETURN_SECONDS:
            log.info("traffic does not go back to %s: the earlier version gets a new revision", state.kept_revision)
            return replace(state, kept_revision="")
        if waited > 60 * minutes:
            raise RolloutStuckError(
                f"InferenceService {state.service!r} is not {state.decision} after {minutes:g} minutes: "
                f"{closing.reason}; look at its revisions and pods, then clear this task"
            )
        return state

    async def _check(self, request: RolloutRequest) -> Service | None:
        """What serves now; refused where a rollout cannot begin."""
        await self._services.check_namespace(request)
        await self.check_free(request)
        return await self._services.live(request)


def _goes_on(left: RolloutState, request: RolloutRequest) -> bool:
    """Whether the undecided rollout that was left is of this very version."""
    undecided = left.phase is not Phase.CLOSED and left.decision is None
    return undecided and left.request.storage_uri == request.storage_uri


def _disputed(name: str, namespace: str, conflict: ConflictError, undo: dict[str, Any] | None, version: str) -> str:
    """What somebody changed, and both ways out: `undo` it by a merge patch, or keep the `version` that serves."""
    ways = []
    if undo:
        patch = shlex.quote(json.dumps(undo))
        ways.append(f"to undo it: kubectl -n {namespace} patch inferenceservice {name} --type merge -p {patch}")
    if version:
        ways.append(f"to keep it, as the version to go back to: first run roll_out_model with version = {version!r}")
    ways.append("or delete the service and roll out again, without a canary")
    return (
        f"InferenceService {name!r} in {namespace!r} was changed by others since its last rollout, and a rollout would "
        f"overwrite that: {conflict}; {'; '.join(ways)}"
    )


def _unknown(request: RolloutRequest, reason: str) -> str:
    return (
        f"InferenceService {request.model!r} in {request.namespace!r} is there, and what it serves cannot be told "
        f"after {request.rollout.ready_timeout_minutes:g} minutes: {reason}; look at its revisions and pods and roll "
        "out once it is ready, or replace it without a canary by rollout.strategy = rolling, or, if it has no users, "
        "delete it"
    )


def _still_frozen(left: RolloutState, live: Service | None) -> bool:
    open_still = live is not None and live.canary_percent is not None
    return (
        open_still
        and left.decision is Decision.FROZEN
        and live is not None
        and (live.newest.storage_uri == left.candidate.storage_uri)
    )
