"""The rollout's state on the service's Lease, as one holder reads and writes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from ml_lifecycle.kserve.exceptions import RolloutInterruptedError, RolloutRefusedError
from ml_lifecycle.kserve.request import RolloutRequest
from ml_lifecycle.kserve.rollout import STATE_ANNOTATION, Phase, RolloutState
from ml_lifecycle.kserve.steering import STEERING_ANNOTATION, Order, objection, steered
from ml_lifecycle.kubernetes import leases
from ml_lifecycle.kubernetes.client import KubernetesClient
from ml_lifecycle.kubernetes.exceptions import LeaseHeldError
from ml_lifecycle.kubernetes.resource import LEASE

_RENEW_AFTER = timedelta(minutes=1)

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The present, aware."""
    return datetime.now(UTC)


class RolloutLease:
    """The Leases of services, for one `holder`."""

    def __init__(self, kubernetes: KubernetesClient, holder: str, clock: Clock = utc_now) -> None:
        self.kubernetes = kubernetes
        self.holder = holder
        self._clock = clock
        self._known: dict[tuple[str, str], leases.Lease] = {}

    def now(self) -> float:
        """Unix seconds."""
        return self._clock().timestamp()

    async def load(self, namespace: str, service: str) -> RolloutState | None:
        """The state of the service's last rollout; None if there was none."""
        lease = await leases.read(self.kubernetes, namespace, leases.lease_name(service))
        if lease is not None:
            self._known[namespace, service] = lease
        return _state(lease)

    async def own(self, namespace: str, service: str) -> RolloutState:
        """The state of this holder's rollout, which obeys orders; RolloutInterruptedError where it is another's."""
        state = await self.load(namespace, service)
        if state is None or state.holder != self.holder:
            by = "nobody" if state is None else state.holder
            raise RolloutInterruptedError(
                f"the rollout of {service!r} in {namespace!r} belongs to {by}, not to {self.holder}: "
                "another run has taken it over or closed it"
            )
        return self.obeying(state)

    def obeying(self, state: RolloutState) -> RolloutState:
        """The state that obeys what stands on the Lease, as it was last read or written."""
        return steered(state, _order(self._known[state.request.namespace, state.service]))

    async def save(self, state: RolloutState) -> RolloutState:
        """Writes the state onto the Lease and renews it; LeaseLostError if another has taken it."""
        namespace, service = state.request.namespace, state.service
        self._known[namespace, service] = await leases.renew(
            self.kubernetes,
            namespace,
            leases.lease_name(service),
            self.holder,
            self._clock(),
            _annotations(state),
            self._known.get((namespace, service)),
        )
        return state

    async def keep(self, state: RolloutState) -> RolloutState:
        """As `save`, for waits: writes only a state that has changed, and renews once a minute."""
        known = self._known.get((state.request.namespace, state.service))
        if known is None or known.renewed is None or not _annotations(state).items() <= known.annotations.items():
            return await self.save(state)
        fresh = self._clock() < known.renewed + _RENEW_AFTER
        return state if fresh else await self.save(state)

    async def check_free(self, request: RolloutRequest) -> None:
        """LeaseHeldError where another living holder has it."""
        held = await leases.read(self.kubernetes, request.namespace, leases.lease_name(request.model))
        if held is not None and held.holder != self.holder and held.held(self._clock()):
            raise LeaseHeldError(held.name, held.holder, str(held.expires))

    async def acquire(self, request: RolloutRequest) -> None:
        """Takes the Lease; LeaseHeldError names another living holder."""
        name = leases.lease_name(request.model)
        self._known[request.namespace, request.model] = await leases.acquire(
            self.kubernetes, request.namespace, name, self.holder, request.lease_seconds, self._clock()
        )

    async def take_over(self, state: RolloutState) -> RolloutState:
        """The Lease of an abandoned rollout; LeaseHeldError if it lives again."""
        await self.acquire(state.request)
        return await self.save(replace(state, holder=self.holder))

    async def release(self, namespace: str, service: str) -> bool:
        """Gives the Lease back without a state; False if it was not held."""
        return await leases.release(self.kubernetes, namespace, leases.lease_name(service), self.holder)

    async def give_back(self, state: RolloutState) -> None:
        """Gives the Lease back, with this as its last state."""
        namespace, service = state.request.namespace, state.service
        known = self._known.pop((namespace, service), None)
        name = leases.lease_name(service)
        await leases.release(self.kubernetes, namespace, name, self.holder, _annotations(state), known)

    async def undo(self, state: RolloutState, before: RolloutState | None) -> None:
        """Gives the Lease back as it was `before` this rollout, which has not been."""
        annotations = _annotations(before) if before is not None else {STATE_ANNOTATION: None}
        name = leases.lease_name(state.service)
        await leases.release(self.kubernetes, state.request.namespace, name, self.holder, annotations)

    async def abandoned(self, namespace: str | None) -> list[RolloutState]:
        """Rollouts that are not closed and whose Lease has expired."""
        found = await self.kubernetes.list(LEASE, namespace, label_selector="app.kubernetes.io/managed-by=ml-lifecycle")
        now = self._clock()
        expired = [_state(lease) for lease in map(leases.parse_lease, found) if not lease.held(now)]
        return [state for state in expired if state is not None and state.phase is not Phase.CLOSED]

    async def order(self, namespace: str, service: str, order: Order) -> RolloutState:
        """Leaves a person's order on the Lease; RolloutRefusedError where no rollout is open to obey it."""
        name = leases.lease_name(service)
        lease = await leases.read(self.kubernetes, namespace, name)
        state = _state(lease)
        if state is None or (reason := objection(state, order.action)):
            raise RolloutRefusedError(reason if state else f"there has never been a rollout of {service!r}")
        patch = {"metadata": {"annotations": {STEERING_ANNOTATION: json.dumps(order.to_json())}}}
        await self.kubernetes.merge_patch(LEASE, name, namespace, patch)
        return state


def _annotations(state: RolloutState) -> dict[str, str | None]:
    document = {STATE_ANNOTATION: json.dumps(state.to_json(), separators=(",", ":"))}
    # An order is for the rollout that it was given to.
    return {**document, STEERING_ANNOTATION: None} if state.phase is Phase.CLOSED else {**document}


def _order(lease: leases.Lease) -> Order | None:
    found = lease.annotations.get(STEERING_ANNOTATION)
    return None if found is None else Order.from_json(json.loads(found))


def _state(lease: leases.Lease | None) -> RolloutState | None:
    if lease is None or STATE_ANNOTATION not in lease.annotations:
        return None
    return RolloutState.from_json(json.loads(lease.annotations[STATE_ANNOTATION]))
