"""Waits, looks and closes in the triggerer, or inside the task when `deferrable` is off.

All state is on the service's Lease; a trigger that is moved or killed goes on from there. Unlike triggers that only
watch, these act: each look may move the traffic one step.
"""

from __future__ import annotations

import asyncio
import math
import time
import zlib
from abc import abstractmethod
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import TriggerEvent

from ml_lifecycle.deferral import BookedTrigger, Event
from ml_lifecycle.exceptions import LifecycleError

if TYPE_CHECKING:
    from ml_lifecycle.kserve.client import RolloutClient
    from ml_lifecycle.kserve.rollout import RolloutState
    from ml_lifecycle.prometheus.client import PrometheusClient


class RolloutTrigger(BookedTrigger):
    """One service's rollout, held by `holder`; a subclass says what it does until its one event.

    Events: `{"status": …}` and what the operator needs; every error of ours is `{"status": "failed", "reason"}`, with
    `transient` where a later try of the task may succeed.
    """

    def __init__(
        self,
        *,
        kubernetes_conn_id: str,
        namespace: str,
        service: str,
        holder: str,
        poll_seconds: float,
        not_before: float = 0.0,
    ) -> None:
        super().__init__(not_before=not_before)
        self.kubernetes_conn_id = kubernetes_conn_id
        self.namespace = namespace
        self.service = service
        self.holder = holder
        self.poll_seconds = poll_seconds

    def arguments(self) -> dict[str, Any]:
        """What makes this trigger anew."""
        return {
            "kubernetes_conn_id": self.kubernetes_conn_id,
            "namespace": self.namespace,
            "service": self.service,
            "holder": self.holder,
            "poll_seconds": self.poll_seconds,
        }

    async def events(self) -> AsyncIterator[TriggerEvent]:
        """One event."""
        from ml_lifecycle.kubernetes.exceptions import KubernetesError

        event = None
        try:
            while event is None:
                event = await self._driven()
        except KubernetesError as error:
            # Even what the API forbids may be allowed again at the next try: it says nothing of the version.
            event = {"status": "failed", "reason": str(error), "transient": True}
        except LifecycleError as error:
            event = {"status": "failed", "reason": str(error)}
        yield TriggerEvent(event)

    async def _driven(self) -> Event | None:
        """What came of it, here or where a newer driver of this run goes on; None where that one is silent."""
        from ml_lifecycle.kserve.client import connect
        from ml_lifecycle.kubernetes.exceptions import LeaseLostError, LeaseOvertakenError

        async with connect(self.kubernetes_conn_id, self.holder) as client:
            try:
                return await self.drive(client)
            except LeaseOvertakenError as error:
                self.log.warning("%s: this one only watches from now on", error)
                return await self._watch(client)
            except LeaseLostError:
                # A try of this run may have brought it to its end and given the Lease back.
                state = await client.load(self.namespace, self.service)
                own = state is not None and state.holder == self.holder
                if state is None or not own or (event := await self.outcome(client, state)) is None:
                    raise
                return event

    async def _watch(self, client: RolloutClient) -> Event | None:
        """What another driver brings about; None once it has written nothing for as long as the Lease lasts."""
        from ml_lifecycle.kserve.exceptions import RolloutInterruptedError
        from ml_lifecycle.kubernetes.exceptions import UnavailableError

        seen, since = "", time.monotonic()
        while True:
            with suppress(UnavailableError):
                state = await client.load(self.namespace, self.service)
                if state is None or state.holder != self.holder:
                    raise RolloutInterruptedError(f"the rollout of {self.service!r} is no longer {self.holder}'s")
                if event := await self.outcome(client, state):
                    return event
                if (version := client.resource_version(self.namespace, self.service)) != seen:
                    seen, since = version, time.monotonic()
                elif time.monotonic() - since > state.request.lease_seconds:
                    return None
            await asyncio.sleep(self.poll_seconds)

    @abstractmethod
    async def drive(self, client: RolloutClient) -> Event:
        """Works until there is an event."""

    @abstractmethod
    async def outcome(self, client: RolloutClient, state: RolloutState) -> Event | None:
        """The event of a rollout that another driver has brought so far; None while there is none."""


class RevisionReadyTrigger(RolloutTrigger):
    """Waits until the new revision is ready: `{"status": "ready", "revision", "url", "kind"}`."""

    async def drive(self, client: RolloutClient) -> Event:
        """Polls the service and the revision's pods."""
        from ml_lifecycle.kserve.exceptions import RevisionFailedError
        from ml_lifecycle.kserve.rollout import Decision
        from ml_lifecycle.kubernetes.conditions import pause

        said = ""
        while True:
            state = await client.own(self.namespace, self.service)
            if state.decision is not None:
                await client.save(state)
                raise RevisionFailedError(state.reason)
            state, found = await client.readiness(state)
            if found.ready:
                await client.save(state)
                url = await client.address(state)
                return {"status": "ready", "revision": state.revision, "url": url, "kind": state.kind.value}
            minutes = state.request.rollout.ready_timeout_minutes
            if client.now() - state.opened_at > 60 * minutes:
                found = replace(found, failed=True, reason=f"{found.reason}, after {minutes:g} minutes")
            if found.failed:
                await client.save(state.decide(Decision.ROLLED_BACK, found.reason))
                raise RevisionFailedError(found.reason)
            if found.reason != said:
                self.log.info("waiting: %s", found.reason)
                said = found.reason
            state = await client.keep(state)
            await asyncio.sleep(pause(client.now() - state.opened_at, self.poll_seconds))

    async def outcome(self, client: RolloutClient, state: RolloutState) -> Event | None:
        """Ready once it is tested or further; failed with the reason where it was decided before."""
        from ml_lifecycle.kserve.rollout import Phase

        if state.decision is not None and not state.url:
            return {"status": "failed", "reason": state.reason}
        if state.phase is Phase.OPENING:
            return None
        url = await client.address(state)
        return {"status": "ready", "revision": state.revision, "url": url, "kind": state.kind.value}


class CanaryTrigger(RolloutTrigger):
    """Looks at both sides every `poll_seconds` and moves the traffic.

    Events: `{"status": "decided", "decision", "reason"}`, or once for each pause
    `{"status": "paused", "report"}`: the rollout goes on with a new trigger while somebody is told.
    """

    async def drive(self, client: RolloutClient) -> Event:
        """Looks until the rollout is decided; whatever ends a look but a lost Lease is a look without data."""
        from ml_lifecycle.kserve.exceptions import RolloutInterruptedError
        from ml_lifecycle.kserve.report import waiting
        from ml_lifecycle.kserve.rollout import Phase
        from ml_lifecycle.kubernetes.exceptions import LeaseLostError
        from ml_lifecycle.prometheus.client import connect as connect_prometheus

        state = await client.own(self.namespace, self.service)
        if looks := sum(step.looks + step.warmup for step in state.steps):
            self.log.info("going on at %s %% after %s looks", state.percent, looks)
        async with connect_prometheus(state.request.connections.prometheus) as prometheus:
            if not state.evidence.guarded:
                state = await client.save(await self._remember(client, prometheus, state))
            begun = min(state.snapshot.at, client.now()) if state.snapshot else 0.0
            lost, heard = False, client.now()
            while state.phase is Phase.CANARY:
                await asyncio.sleep(next_look(self.service, begun, self.poll_seconds) - client.now())
                begun = client.now()
                try:
                    # A write without an answer may have come through: the Lease says how far the rollout is.
                    state = await client.own(self.namespace, self.service) if lost else state
                    lost = True
                    state = await self._look(client, prometheus, state)
                    # An order that came since the last write has made this one read the Lease.
                    if (ordered := client.obeying(state)) != state:
                        state = await client.save(ordered)
                    lost, heard = False, client.now()
                except (LeaseLostError, RolloutInterruptedError):
                    raise
                except Exception as error:
                    # Whatever it is, it says nothing of the canary.
                    self.log.warning("this look is lost: %s: %s", type(error).__name__, error, exc_info=_odd(error))
                    state = await self._hold(client, state, error)
                    if client.now() - heard > state.request.lease_seconds + 60 * state.request.rollout.deadline_minutes:
                        raise
                if state.paused_since is not None and state.announced != state.percent:
                    await client.save(replace(state, announced=state.percent))
                    return {"status": "paused", "report": waiting(state, client.now())}
        return {"status": "decided", "decision": str(state.decision), "reason": state.reason}

    async def outcome(self, client: RolloutClient, state: RolloutState) -> Event | None:  # noqa: ARG002
        """The decision."""
        if state.decision is None:
            return None
        return {"status": "decided", "decision": str(state.decision), "reason": state.reason}

    async def _remember(self, client: RolloutClient, prometheus: PrometheusClient, state: RolloutState) -> RolloutState:
        """With the stable side's history, which makes the verdict faster; without it where it cannot be read."""
        from ml_lifecycle.kserve.rollout import remember
        from ml_lifecycle.prometheus.exceptions import PrometheusError

        state = await client.named(state, prometheus)
        try:
            windows = await client.history(state, prometheus)
        except PrometheusError as error:
            self.log.warning("the rollout begins without the stable side's history: %s", error)
            return state
        self.log.info("the stable side's last %s looks tell its level and how much it varies", len(windows))
        state = remember(state, windows)
        self.log.info("%s", state.outlook)
        return state

    async def _look(self, client: RolloutClient, prometheus: PrometheusClient, state: RolloutState) -> RolloutState:
        """One look; the state is on the Lease before the traffic follows it."""
        from ml_lifecycle.kserve.look import look, trouble
        from ml_lifecycle.kserve.rollout import Decision

        state, canary = await client.replicas(state)
        service = await client.move(state)
        reason = trouble(state, service)
        if service is None or reason:
            return await client.save(state.decide(Decision.ROLLED_BACK, reason))
        state = await client.named(state, prometheus)
        grown = await client.growths(state, prometheus)
        if reason := await client.crashed(state, grown):
            return await client.save(state.decide(Decision.ROLLED_BACK, reason))
        # Arithmetic on hundreds of looks takes long enough to hold up the other triggers.
        seen = await asyncio.to_thread(look, state, service, grown, client.now(), canary)
        self.log.info("%s", seen.line)
        after = await client.save(seen.state)
        if after.percent != state.percent:
            await client.move(after)
        return after

    async def _hold(self, client: RolloutClient, state: RolloutState, error: Exception) -> RolloutState:
        """After a lost look: the deadline goes on, and the Lease is renewed where the API lets it be."""
        from ml_lifecycle.kserve.exceptions import RolloutInterruptedError
        from ml_lifecycle.kserve.look import lost
        from ml_lifecycle.kserve.rollout import Phase
        from ml_lifecycle.kubernetes.exceptions import LeaseLostError

        try:
            # What the lost look has written stays written.
            state = await client.own(self.namespace, self.service)
            if state.phase is not Phase.CANARY:
                return state
            seen = lost(state, f"{type(error).__name__}: {error}", client.now())
            return await client.save(seen.state)
        except (LeaseLostError, RolloutInterruptedError):
            raise
        except Exception as second:
            self.log.warning("the Lease is not renewed: %s: %s", type(second).__name__, second, exc_info=_odd(second))
            return state


def _odd(error: Exception) -> bool:
    """Whether nobody has foreseen it, so that only its traceback can tell what it is."""
    return not isinstance(error, LifecycleError)


class CloseTrigger(RolloutTrigger):
    """Closes this holder's rollout: `{"status": "closed", "report"}`, or `{"status": "absent"}` if it has none."""

    async def drive(self, client: RolloutClient) -> Event:
        """Promotes or rolls back; what is closed already is only reported."""
        from ml_lifecycle.kserve.rollout import Phase

        state = await client.load(self.namespace, self.service)
        if state is None or state.holder != self.holder:
            await client.release(self.namespace, self.service)
            return {"status": "absent"}
        if state.phase is Phase.CLOSED:
            return {"status": "closed", "report": await client.report(state)}
        state = await client.own(self.namespace, self.service)
        return {"status": "closed", "report": await client.close(state, poll_seconds=self.poll_seconds)}

    async def outcome(self, client: RolloutClient, state: RolloutState) -> Event | None:
        """Its report."""
        from ml_lifecycle.kserve.rollout import Phase

        return {"status": "closed", "report": await client.report(state)} if state.phase is Phase.CLOSED else None


def next_look(service: str, begun: float, seconds: float) -> float:
    """When to look again after a look that began at `begun` (Unix seconds), with looks every `seconds`.

    Each service has its own moments, so that many rollouts do not look all at once, nor after the triggerer's restart.
    """
    own = seconds * (zlib.crc32(service.encode()) / 2**32)
    return own + seconds * math.ceil((begun + seconds / 2 - own) / seconds)
