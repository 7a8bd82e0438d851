"""The rollout's state on the service's Lease, as one driver of one holder reads and writes it.

A driver is one client: one try of a task, one trigger. Its first write raises the state's number of drivers; from
then on it writes only where the Lease still carries the state as this driver knows it. So of several drivers of one run
the newest goes on, the others meet LeaseOvertakenError, and no decision is overwritten.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from ml_lifecycle.kserve import state as states
from ml_lifecycle.kserve import steering
from ml_lifecycle.kserve.exceptions import (
    RolloutError,
    RolloutInterruptedError,
    RolloutRefusedError,
    StateTooLargeError,
    UnreadableStateError,
)
from ml_lifecycle.kserve.request import RolloutRequest
from ml_lifecycle.kserve.rollout import STATE_ANNOTATION, Phase, RolloutState
from ml_lifecycle.kserve.steering import STEERING_ANNOTATION, Order, Orders
from ml_lifecycle.kubernetes import leases
from ml_lifecycle.kubernetes.client import KubernetesClient
from ml_lifecycle.kubernetes.exceptions import (
    ConflictError,
    InvalidError,
    LeaseHeldError,
    LeaseLostError,
    LeaseOvertakenError,
)
from ml_lifecycle.kubernetes.resource import LEASE

log = logging.getLogger(__name__)

_RENEW_AFTER = timedelta(minutes=1)
_ATTEMPTS = 20
_POLL_SECONDS = 0.5
_OURS = "app.kubernetes.io/managed-by=ml-lifecycle"

Clock = Callable[[], datetime]
Key = tuple[str, str]
"""Namespace and service."""


def utc_now() -> datetime:
    """The present, aware."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Abandoned:
    """Open rollouts that nobody seems to drive: `states` for sure, `doubtful` only by this machine's clock."""

    states: tuple[RolloutState, ...]
    doubtful: tuple[leases.Lease, ...]


async def outlast(kubernetes: KubernetesClient, seen: leases.Lease, *, poll_seconds: float = 5.0) -> bool:
    """Whether the Lease stands as it was `seen` for its whole duration, by this machine's monotonic clock.

    Returns as soon as anybody writes it.
    """
    end = time.monotonic() + seen.duration_seconds
    while True:
        found = await leases.read(kubernetes, seen.namespace, seen.name)
        if found is None or found.resource_version != seen.resource_version:
            return False
        if (left := end - time.monotonic()) <= 0:
            return True
        await asyncio.sleep(min(poll_seconds, left))


class RolloutLease:
    """The Leases of services, for one driver of one `holder`."""

    def __init__(self, kubernetes: KubernetesClient, holder: str, clock: Clock = utc_now) -> None:
        self.kubernetes = kubernetes
        self.holder = holder
        self._clock = clock
        self._known: dict[Key, leases.Lease] = {}
        self._mark = secrets.token_hex(4)
        self._numbers: dict[Key, int] = {}

    def now(self) -> float:
        """Unix seconds."""
        return self._clock().timestamp()

    async def load(self, namespace: str, service: str) -> RolloutState | None:
        """The state of the service's last rollout; None if there was none, or none that can be read."""
        lease = await leases.read(self.kubernetes, namespace, leases.lease_name(service))
        if lease is not None:
            self._known[namespace, service] = lease
        return _readable(lease)

    async def own(self, namespace: str, service: str) -> RolloutState:
        """The state of this holder's rollout, which this driver goes on with and which obeys orders.

        RolloutInterruptedError where it is another's, LeaseOvertakenError where a newer driver has come.
        """
        for _ in range(_ATTEMPTS):
            state = await self.load(namespace, service)
            if state is None or state.holder != self.holder:
                by = "nobody" if state is None else state.holder
                raise RolloutInterruptedError(
                    f"the rollout of {service!r} in {namespace!r} belongs to {by}, not to {self.holder}: "
                    "another run has taken it over or closed it"
                )
            if (namespace, service) in self._numbers:
                self._must_drive(namespace, service, self._known[namespace, service])
                return self.obeying(state)
            try:
                return self.obeying(await self.save(state))
            except LeaseOvertakenError:
                continue  # the driver before has written meanwhile: read what
        raise LeaseOvertakenError(f"the rollout of {service!r} in {namespace!r} has too many drivers at once")

    async def check(self, state: RolloutState) -> None:
        """LeaseLostError where this driver no longer drives the rollout: what it read before is no longer its own."""
        namespace, service = state.request.namespace, state.service
        found = await leases.read(self.kubernetes, namespace, leases.lease_name(service))
        self._must_drive(namespace, service, found)

    def _must_drive(self, namespace: str, service: str, found: leases.Lease | None) -> None:
        if found is None or found.holder != self.holder:
            by = repr(found.holder) if found and found.holder else "nobody"
            raise LeaseLostError(
                f"the Lease of {service!r} in {namespace!r} is held by {by}, no longer by {self.holder!r}"
            )
        state = _readable(found)
        if state is None or (state.driver, state.driver_mark) != (self._numbers.get((namespace, service)), self._mark):
            raise LeaseOvertakenError(
                f"another driver of {self.holder!r} has gone on with the rollout of {service!r} in {namespace!r}"
            )

    def obeying(self, state: RolloutState) -> RolloutState:
        """The state that obeys what stands on the Lease, as it was last read or written."""
        return steering.steered(state, _orders(self._known[state.request.namespace, state.service]))

    def resource_version(self, namespace: str, service: str) -> str:
        """Of the Lease as it was last read or written: another one where anybody has written it."""
        return self._known[namespace, service].resource_version

    async def begin(self, state: RolloutState) -> RolloutState:
        """Saves a new rollout; orders to former ones are dropped.

        RolloutRefusedError where its settings alone are too large.
        """
        states.write(states.bare(state), states.BUDGET // 2)
        return await self._save(state, {STEERING_ANNOTATION: None})

    async def save(self, state: RolloutState) -> RolloutState:
        """Writes the state onto the Lease and renews it; returns it as it fits there.

        LeaseLostError if another has taken it, LeaseOvertakenError if another driver of this holder has.
        """
        return await self._save(state, {})

    async def _save(self, state: RolloutState, annotations: Mapping[str, str | None]) -> RolloutState:
        namespace, service = key = state.request.namespace, state.service
        if key not in self._known:
            self._check_undecided(await self.load(namespace, service), state)
        number = self._numbers.get(key) or _number(self._known.get(key)) + 1

        async def write(text: str) -> None:
            self._known[key] = await leases.renew(
                self.kubernetes,
                namespace,
                leases.lease_name(service),
                self.holder,
                self._clock(),
                {STATE_ANNOTATION: text, **annotations},
                self._known.get(key),
            )

        fitted = await _fitting(replace(state, driver=number, driver_mark=self._mark), write)
        self._numbers[key] = number
        return fitted

    def _check_undecided(self, found: RolloutState | None, state: RolloutState) -> None:
        """A decision that this driver has not read is not overwritten."""
        same = found is not None and found.opened_at == state.opened_at and found.holder == state.holder
        if found is not None and same and found.decision not in (None, state.decision):
            raise LeaseOvertakenError(f"the rollout of {state.service!r} was decided meanwhile: {found.decision}")

    async def keep(self, state: RolloutState) -> RolloutState:
        """As `save`, for waits: writes only a state that has changed, and renews once a minute."""
        known = self._known.get((state.request.namespace, state.service))
        if known is None or known.renewed is None or known.annotations.get(STATE_ANNOTATION) != states.write(state)[1]:
            return await self.save(state)
        fresh = self._clock() < known.renewed + _RENEW_AFTER
        return state if fresh else await self.save(state)

    async def check_free(self, request: RolloutRequest) -> None:
        """LeaseHeldError where another living holder has it."""
        held = await leases.read(self.kubernetes, request.namespace, leases.lease_name(request.model))
        if held is not None and held.holder != self.holder and held.held(self._clock()):
            raise LeaseHeldError(held.name, held.holder, str(held.expires))

    async def acquire(self, request: RolloutRequest) -> None:
        """Takes the Lease; LeaseHeldError names another living holder.

        One that has expired by this machine's clock alone is watched first, for as long as it lasts.
        """
        key, name = (request.namespace, request.model), leases.lease_name(request.model)
        found, now = await leases.read(self.kubernetes, request.namespace, name), self._clock()
        doubtful = found is not None and not found.held(now) and not found.surely_free(now)
        if found is not None and found.holder not in {"", self.holder} and doubtful:
            log.info(
                "Lease %s of %s seems to have expired: watched for %s s", name, found.holder, found.duration_seconds
            )
            if not await outlast(self.kubernetes, found):
                raise LeaseHeldError(name, found.holder, "it stops renewing")
            taken = await leases.take(self.kubernetes, found, self.holder, request.lease_seconds, self._clock())
        else:
            taken = await leases.acquire(
                self.kubernetes, request.namespace, name, self.holder, request.lease_seconds, now
            )
        self._known[key] = taken
        self._numbers.pop(key, None)

    async def take_over(self, state: RolloutState) -> RolloutState:
        """The Lease of an abandoned rollout, as `abandoned` has found it; LeaseHeldError if it lives again."""
        key = state.request.namespace, state.service
        self._known[key] = await leases.take(
            self.kubernetes, self._known[key], self.holder, state.request.lease_seconds, self._clock()
        )
        self._numbers.pop(key, None)
        return await self.save(replace(state, holder=self.holder))

    async def release(self, namespace: str, service: str) -> bool:
        """Gives the Lease back without a state; False if it was not held."""
        return await leases.release(self.kubernetes, namespace, leases.lease_name(service), self.holder)

    async def give_back(self, state: RolloutState) -> None:
        """Gives the Lease back, with this as its last state."""
        namespace, service = key = state.request.namespace, state.service

        async def write(text: str) -> None:
            name, annotations = leases.lease_name(service), {STATE_ANNOTATION: text}
            known = self._known.get(key)
            await leases.release(self.kubernetes, namespace, name, self.holder, annotations, known)

        await _fitting(state, write)
        self._known.pop(key, None)
        self._numbers.pop(key, None)

    async def undo(self, state: RolloutState, before: RolloutState | None) -> None:
        """Gives the Lease back as it was `before` this rollout, which has not been."""
        key = state.request.namespace, state.service
        annotations = {STATE_ANNOTATION: None if before is None else states.write(before)[1]}
        name = leases.lease_name(state.service)
        await leases.release(self.kubernetes, key[0], name, self.holder, annotations, self._known.pop(key, None))
        self._numbers.pop(key, None)

    async def abandoned(self, namespaces: Iterable[str | None], watched: Iterable[str] = ()) -> Abandoned:
        """Rollouts that are not closed and whose Lease has expired; one that cannot be read is named in the log.

        `namespaces`: None among them is all. `watched`: resourceVersions of Leases that outlasted their time.
        """
        now, watched = self._clock(), set(watched)
        states, doubtful = [], []
        for namespace in namespaces:
            found = await self.kubernetes.list(LEASE, namespace, label_selector=_OURS)
            for lease, state in filter(None, map(_open_rollout, found)):
                if lease.held(now):
                    continue
                if lease.surely_free(now) or lease.resource_version in watched:
                    self._known[lease.namespace, state.service] = lease
                    states.append(state)
                else:
                    doubtful.append(lease)
        return Abandoned(tuple(states), tuple(doubtful))

    async def order(self, namespace: str, service: str, order: Order) -> tuple[RolloutState, Order]:
        """Leaves a person's order on the Lease, after those that stand there: the rollout, and the order as numbered.

        RolloutRefusedError where no rollout is open to obey it. The same DAG run gives one order, however often it
        tries.
        """
        name = leases.lease_name(service)
        for _ in range(_ATTEMPTS):
            lease = await leases.read(self.kubernetes, namespace, name)
            state = _readable(lease)
            if lease is None or state is None:
                raise RolloutRefusedError(f"there has never been a rollout of {service!r}")
            orders = _orders(lease)
            if given := next((each for each in orders if each.given_in and each.given_in == order.given_in), None):
                return state, given
            if reason := steering.objection(state, order.action):
                raise RolloutRefusedError(reason)
            orders = steering.appended(orders, order, state)
            annotations = {STEERING_ANNOTATION: steering.write(orders)}
            patch = {"metadata": {"resourceVersion": lease.resource_version, "annotations": annotations}}
            try:
                await self.kubernetes.merge_patch(LEASE, name, namespace, patch)
            except ConflictError:
                continue  # a look has written meanwhile, or another person
            return state, orders[-1]
        raise RolloutError(f"Lease {name!r} in {namespace!r} changes faster than an order can be written onto it")

    async def obeyed(self, namespace: str, service: str, order: Order, seconds: float) -> bool:
        """Whether the rollout comes to the order within `seconds`; RolloutRefusedError where it was decided before."""
        end = time.monotonic() + seconds
        while True:
            state = await self.load(namespace, service)
            if state is not None and state.steered >= order.number:
                return True
            if state is None or state.decision is not None:
                found = f"is {state.decision}: {state.reason}" if state else "can no longer be read"
                raise RolloutRefusedError(f"the order came too late: the rollout of {service!r} {found}")
            if time.monotonic() > end:
                return False
            await asyncio.sleep(_POLL_SECONDS)


async def _fitting(state: RolloutState, write: Callable[[str], Awaitable[None]]) -> RolloutState:
    """The state as it was written: smaller still where the API refuses it, so that a rollout can always be closed."""
    budget = states.BUDGET
    while True:
        fitted, text = states.write(state, budget)
        try:
            await write(text)
        except InvalidError as refused:
            budget = len(text) - 1
            try:
                states.write(state, budget)
            except StateTooLargeError:
                raise refused from None
            log.warning("the state of %s is cut below %s bytes: %s", state.service, len(text), refused)
        else:
            return fitted


def _number(lease: leases.Lease | None) -> int:
    """Of the driver before; 0 where none can be told."""
    state = _readable(lease)
    return state.driver if state else 0


def _orders(lease: leases.Lease) -> Orders:
    """Those on the Lease; what cannot be read is none."""
    try:
        return steering.read(lease.annotations.get(STEERING_ANNOTATION) or "[]")
    except UnreadableStateError as error:
        log.error("Lease %s in %s: %s", lease.name, lease.namespace, error)  # noqa: TRY400 - it says all
        return ()


def _readable(lease: leases.Lease | None) -> RolloutState | None:
    """The state on a Lease; None where there is none, or none that can be read or that speaks for this service."""
    if lease is None or STATE_ANNOTATION not in lease.annotations:
        return None
    try:
        return _state(lease)
    except UnreadableStateError as error:
        log.error("Lease %s in %s is no state of a rollout, and is left: %s", lease.name, lease.namespace, error)  # noqa: TRY400 - it says all
        return None


def _open_rollout(manifest: Mapping[str, Any]) -> tuple[leases.Lease, RolloutState] | None:
    """A Lease and its rollout that is not closed; whatever is wrong with one Lease ends there."""
    try:
        lease = leases.parse_lease(manifest)
        state = _readable(lease)
    except Exception:
        metadata = manifest.get("metadata") or {}
        log.exception("Lease %s in %s cannot be read, and is left", metadata.get("name"), metadata.get("namespace"))
        return None
    return None if state is None or state.phase is Phase.CLOSED else (lease, state)


def _state(lease: leases.Lease) -> RolloutState:
    """A Lease speaks for the service whose name it bears, in its own namespace, and for nothing else."""
    state = states.read(lease.annotations[STATE_ANNOTATION])
    namespace, model = state.request.namespace, state.service
    if (lease.namespace, lease.name) != (namespace, leases.lease_name(model)):
        raise UnreadableStateError(f"it speaks of {model!r} in {namespace!r}, which is another's")
    return state
