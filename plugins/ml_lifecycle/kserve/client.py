"""Drives one service's rollout over the Kubernetes API: the Lease with the state, the manifests, the closing acts."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import shlex
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from ml_lifecycle.canary.evidence import Window
from ml_lifecycle.canary.snapshot import Gap, Snapshot
from ml_lifecycle.kserve.exceptions import RolloutInterruptedError, RolloutRefusedError, RolloutStuckError
from ml_lifecycle.kserve.manifest import Predictor, Templates, is_ours, picked, predictor
from ml_lifecycle.kserve.queries import PRESETS, history, snapshot
from ml_lifecycle.kserve.request import RolloutRequest
from ml_lifecycle.kserve.revisions import Readiness, Service, crashed, read, readiness
from ml_lifecycle.kserve.rollout import (
    STATE_ANNOTATION,
    Act,
    Closing,
    Decision,
    Kind,
    Phase,
    RolloutState,
    begin_testing,
    edited,
    ended,
    left_serving,
    next_closing,
    noted,
    opened,
    report,
)
from ml_lifecycle.kubernetes import leases
from ml_lifecycle.kubernetes.client import KubernetesClient
from ml_lifecycle.kubernetes.conditions import pause
from ml_lifecycle.kubernetes.exceptions import ConflictError, ForbiddenError, LeaseHeldError, NotFoundError
from ml_lifecycle.kubernetes.resource import CONFIG_MAP, INFERENCE_SERVICE, LEASE, MLSCALER, NAMESPACE, POD, REVISION
from ml_lifecycle.prometheus.client import PrometheusClient
from ml_lifecycle.prometheus.exceptions import PrometheusError, PrometheusUnavailableError
from ml_lifecycle.resources import resource

log = logging.getLogger(__name__)

FIELD_MANAGER = "ml-lifecycle-rollout"
_FIRST_WINDOW_SECONDS = 60.0
_RENEW_AFTER = timedelta(minutes=1)

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The present, aware."""
    return datetime.now(UTC)


@functools.cache
def _templates() -> Templates:
    """Compiled once in a process: each takes as long as a look."""
    return Templates(resource("k8s_templates"))


@asynccontextmanager
async def connect(connection_id: str, holder: str) -> AsyncIterator[RolloutClient]:
    """The client of an Airflow connection of type kubernetes, writing Leases as `holder`."""
    from ml_lifecycle.kubernetes.client import connect as connect_kubernetes

    async with connect_kubernetes(connection_id) as kubernetes:
        yield RolloutClient(kubernetes, holder)


class RolloutClient:
    """What the rollout's tasks do to the cluster, as one `holder` of the service's Lease."""

    def __init__(self, kubernetes: KubernetesClient, holder: str, clock: Clock = utc_now) -> None:
        self.kubernetes = kubernetes
        self.holder = holder
        self._clock = clock
        self._known: dict[tuple[str, str], leases.Lease] = {}
        self._templates = _templates()

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
        """The state of this holder's rollout; RolloutInterruptedError where it is another's or nobody's."""
        state = await self.load(namespace, service)
        if state is None or state.holder != self.holder:
            by = "nobody" if state is None else state.holder
            raise RolloutInterruptedError(
                f"the rollout of {service!r} in {namespace!r} belongs to {by}, not to {self.holder}: "
                "another run has taken it over or closed it"
            )
        return state

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

    async def service(self, state: RolloutState) -> Service | None:
        """The InferenceService as it stands; None if absent."""
        found = await self.kubernetes.find(INFERENCE_SERVICE, state.service, state.request.namespace)
        return None if found is None else read(found)

    async def open(self, request: RolloutRequest, golden: str) -> RolloutState:
        """Takes the Lease and opens the canary at 0 %; goes on with what this or a dead run has begun.

        RolloutRefusedError before anything is changed: somebody else's rollout, service, namespace or mode.
        """
        namespace, name = request.namespace, request.model
        live = await self._check(request)
        await self._acquire(request, {})
        left = await self.load(namespace, name)
        if left is not None and _goes_on(left, request):
            return await self._resume(left, request, golden)
        if left is not None and (left.phase is not Phase.CLOSED or _still_frozen(left, live)):
            await self._clear(left)
            live = await self._live(request)
        if live is not None and live.canary_percent is not None:
            await self.release(namespace, name)
            raise RolloutRefusedError(
                f"InferenceService {name!r} in {namespace!r} has a canary open ({live.canary_percent} % of "
                f"{live.predictor.storage_uri!r}) that no rollout knows: promote it or restore the good storageUri, "
                "and remove canaryTrafficPercent"
            )
        return await self._begin(request, live, golden)

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
        """Closes what another rollout left open; a frozen one is rolled back."""
        log.info("closing what %s left: version %s", left.holder, left.request.version)
        if left.decision is Decision.FROZEN:
            left = replace(left, decision=None, phase=Phase.CANARY, closing_since=None)
        await self.close(await self.save(replace(left, holder=self.holder)), release=False)

    async def _begin(self, request: RolloutRequest, live: Service | None, golden: str) -> RolloutState:
        runtime = self._templates.serving_runtime(request.serving)
        candidate = predictor(request.serving, request.storage_uri, runtime["metadata"]["name"])
        if await self._scaled(request):
            candidate = candidate.without_replicas()
        left = await self.load(request.namespace, request.model)
        state = await self.save(opened(request, self.holder, candidate, live, self.now()))
        await self._apply_candidate(state, left, golden)
        return state

    async def _apply_candidate(self, state: RolloutState, left: RolloutState | None, golden: str) -> None:
        """The golden cases, the runtime and the candidate at 0 %; the same again changes nothing."""
        request = state.request
        cases = self._templates.golden_config_map(request.golden_name, request.namespace, request.model, golden)
        await self.kubernetes.apply(cases, field_manager=FIELD_MANAGER, force=True)
        if state.kind is Kind.UNCHANGED:
            return
        await self.kubernetes.apply(self._templates.serving_runtime(request.serving), field_manager=FIELD_MANAGER)
        # Percent and storageUri in one request: a percent alone would move traffic to an older revision.
        percent = 0 if state.kind is Kind.CANARY else None
        try:
            await self.apply(state, state.candidate, percent)
        except ConflictError as conflict:
            await self._check_disputed(state, left, conflict)
            await self.apply(state, state.candidate, percent, force=True)

    async def _check_disputed(self, state: RolloutState, left: RolloutState | None, conflict: ConflictError) -> None:
        """RolloutRefusedError unless what others own is as the last rollout `left` it: so no change of theirs is lost.

        After the refusal the Lease is as before: this rollout has not been.
        """
        name, namespace = state.service, state.request.namespace
        wanted, found = None, await self.kubernetes.find(INFERENCE_SERVICE, name, namespace) or {}
        if left is not None and (serving := left_serving(left)):
            wanted = picked(self._templates.inference_service(name, namespace, serving, None), conflict.owners)
        if wanted and wanted == picked(found, conflict.owners):
            log.info("taking over what others own, for it is as the last rollout left it: %s", conflict.message)
            return
        await self.kubernetes.delete(CONFIG_MAP, state.request.golden_name, namespace)
        before = _annotations(left) if left is not None else {STATE_ANNOTATION: None}
        await leases.release(self.kubernetes, namespace, leases.lease_name(name), self.holder, before)
        version = state.stable.version if state.stable else ""
        raise RolloutRefusedError(_disputed(name, namespace, conflict, wanted, version))

    async def apply(
        self, state: RolloutState, predictor: Predictor, percent: int | None, *, force: bool = False
    ) -> None:
        """Server-side apply of the InferenceService."""
        manifest = self._templates.inference_service(state.service, state.request.namespace, predictor, percent)
        await self.kubernetes.apply(manifest, field_manager=FIELD_MANAGER, force=force)

    async def readiness(self, state: RolloutState) -> tuple[RolloutState, Readiness]:
        """Whether the new revision may be begin_testing; the state follows."""
        service = await self.service(state)
        if service is None:
            return state, Readiness(failed=True, reason=f"InferenceService {state.service!r} was deleted")
        if reason := edited(state, service):
            return state, Readiness(failed=True, reason=reason)
        state = noted(state, service)
        pods = await self._pods(state, service.latest_created) if service.latest_created != state.before else []
        found = readiness(service, pods, before=state.before)
        return (begin_testing(state, service) if found.ready and state.phase is Phase.OPENING else state), found

    async def address(self, state: RolloutState) -> str:
        """The new revision's own URL; the service's where KServe gives none (it has no tag, and takes all traffic)."""
        service = await self.service(state)
        if service is None:
            raise RolloutInterruptedError(
                f"InferenceService {state.service!r} was deleted in the middle of the rollout"
            )
        url = service.tag_url(state.revision)
        if not url and state.kind is Kind.CANARY:
            raise RolloutInterruptedError(
                f"revision {state.revision} has no address of its own: InferenceService {state.service!r} lacks the "
                'annotation serving.kserve.io/enable-tag-routing: "true"'
            )
        return url or service.url

    async def counters(self, state: RolloutState, prometheus: PrometheusClient) -> Snapshot | Gap:
        """Both sides' counters now; a Gap with the reason where Prometheus does not answer."""
        now = self.now()
        window = now - state.snapshot.at if state.snapshot else _FIRST_WINDOW_SECONDS
        try:
            return await snapshot(
                prometheus,
                PRESETS[state.request.rollout.metrics],
                service=state.service,
                namespace=state.request.namespace,
                canary=state.revision,
                stable=state.stable_revision,
                at=now,
                window_seconds=window,
            )
        except PrometheusUnavailableError as error:
            return Gap(str(error))

    async def crashed(self, state: RolloutState, counters: Snapshot | Gap) -> str:
        """Why the new revision does not serve; empty where it does.

        A pod that crashes counts no errors, so the pods are looked at where nothing new was counted.
        """
        if not isinstance(counters, Gap) and (state.snapshot is None or counters.canary != state.snapshot.canary):
            return ""
        reason = crashed(await self._pods(state, state.revision))
        return f"revision {state.revision}: {reason}" if reason else ""

    async def history(self, state: RolloutState, prometheus: PrometheusClient) -> tuple[Window, ...]:
        """The stable side's looks before now; PrometheusUnavailableError where they cannot be read."""
        return await history(
            prometheus,
            PRESETS[state.request.rollout.metrics],
            service=state.service,
            namespace=state.request.namespace,
            stable=state.stable_revision,
            end=self.now(),
            step=state.request.rollout.look_seconds,
        )

    async def close(self, state: RolloutState, *, poll_seconds: float = 2, release: bool = True) -> dict[str, Any]:
        """Brings the service to what was decided, deletes the golden cases, gives the Lease back; the report.

        RolloutStuckError if KServe does not follow within `ready_timeout_minutes`; the next close goes on.
        """
        state = await self.save(ended(state, await self.service(state), self.now()))
        said = ""
        while True:
            service = await self.service(state)
            closing = next_closing(state, service)
            if closing.reason != said:
                log.info("%s: %s", closing.act.value, closing.reason)
                said = closing.reason
            if closing.act is Act.DONE:
                break
            await self._act(state, closing)
            if closing.act is Act.WAIT:
                self._check_patience(state, closing)
                state = await self.keep(noted(state, service))
                await asyncio.sleep(pause(self.now() - (state.closing_since or 0), poll_seconds))
        await self.kubernetes.delete(CONFIG_MAP, state.request.golden_name, state.request.namespace)
        now = self.now()
        summary = report(state, service, now)
        closed = state.close(now)
        if release:
            await self._release(closed)
        else:
            await self.save(closed)
        return summary

    async def report(self, state: RolloutState) -> dict[str, Any]:
        """Of a rollout that is closed already."""
        return report(state, await self.service(state), state.closed_at or self.now())

    async def abandoned(self, namespace: str | None) -> list[RolloutState]:
        """Rollouts that are not closed and whose Lease has expired."""
        found = await self.kubernetes.list(LEASE, namespace, label_selector="app.kubernetes.io/managed-by=ml-lifecycle")
        now = self._clock()
        expired = [_state(lease) for lease in map(leases.parse_lease, found) if not lease.held(now)]
        return [state for state in expired if state is not None and state.phase is not Phase.CLOSED]

    async def release(self, namespace: str, service: str) -> bool:
        """Gives the Lease back without a state; False if it was not held."""
        return await leases.release(self.kubernetes, namespace, leases.lease_name(service), self.holder)

    async def _release(self, state: RolloutState) -> None:
        namespace, service = state.request.namespace, state.service
        known = self._known.pop((namespace, service), None)
        name = leases.lease_name(service)
        await leases.release(self.kubernetes, namespace, name, self.holder, _annotations(state), known)

    async def take_over(self, state: RolloutState) -> RolloutState:
        """The Lease of an abandoned rollout; LeaseHeldError if it lives again."""
        await self._acquire(state.request, {})
        return await self.save(replace(state, holder=self.holder))

    async def _act(self, state: RolloutState, closing: Closing) -> None:
        if closing.act is Act.APPLY and closing.predictor is not None:
            await self.apply(state, closing.predictor, closing.percent, force=True)
        if closing.act is Act.DELETE:
            await self.kubernetes.delete(INFERENCE_SERVICE, state.service, state.request.namespace)

    def _check_patience(self, state: RolloutState, closing: Closing) -> None:
        minutes = state.request.rollout.ready_timeout_minutes
        if self.now() - (state.closing_since or 0) > 60 * minutes:
            raise RolloutStuckError(
                f"InferenceService {state.service!r} is not {state.decision} after {minutes:g} minutes: "
                f"{closing.reason}; look at its revisions and pods, then clear this task"
            )

    async def _acquire(self, request: RolloutRequest, annotations: dict[str, str | None]) -> None:
        name = leases.lease_name(request.model)
        await leases.acquire(
            self.kubernetes,
            request.namespace,
            name,
            self.holder,
            request.lease_seconds,
            self._clock(),
            annotations,
        )

    async def _check(self, request: RolloutRequest) -> Service | None:
        try:
            if await self.kubernetes.find(NAMESPACE, request.namespace) is None:
                raise RolloutRefusedError(
                    f"serving.namespace = {request.namespace!r}: there is no such namespace; create it, or name another"
                )
        except ForbiddenError:
            log.info("namespaces may not be read: %r is taken on trust", request.namespace)
        held = await leases.read(self.kubernetes, request.namespace, leases.lease_name(request.model))
        if held is not None and held.holder != self.holder and held.held(self._clock()):
            raise LeaseHeldError(held.name, held.holder, str(held.expires))
        return await self._live(request)

    async def _live(self, request: RolloutRequest) -> Service | None:
        name, namespace = request.model, request.namespace
        found = await self.kubernetes.find(INFERENCE_SERVICE, name, namespace)
        if found is None:
            await self._check_kserve(namespace)
            return None
        service = read(found)
        if not is_ours(found):
            raise RolloutRefusedError(
                f"InferenceService {name!r} in {namespace!r} was not made by ml-lifecycle: delete it, or choose "
                "another model name or serving.namespace"
            )
        if "transformer" in found["spec"]:
            raise RolloutRefusedError(
                f"InferenceService {name!r} has a transformer, whose traffic KServe splits apart from the predictor's: "
                "remove it"
            )
        if service.unsplittable:
            raise RolloutRefusedError(f"InferenceService {name!r} {service.unsplittable}")
        if service.rolled_out and await self.kubernetes.find(REVISION, service.rolled_out, namespace) is None:
            raise RolloutRefusedError(
                f"revision {service.rolled_out} of InferenceService {name!r} no longer exists, so traffic cannot go "
                "back to it: delete the service and roll out again"
            )
        return service

    async def _check_kserve(self, namespace: str) -> None:
        try:
            await self.kubernetes.list(INFERENCE_SERVICE, namespace)
        except NotFoundError as error:
            raise RolloutRefusedError("this cluster has no InferenceServices: install KServe 0.15 or newer") from error

    async def _scaled(self, request: RolloutRequest) -> bool:
        """Whether an MLScaler owns the service's replicas."""
        try:
            scalers = await self.kubernetes.list(MLSCALER, request.namespace)
        except NotFoundError:
            return False
        targets = [scaler.get("spec", {}).get("targetRef") or {} for scaler in scalers]
        return any(t.get("kind") == INFERENCE_SERVICE.kind and t.get("name") == request.model for t in targets)

    async def _pods(self, state: RolloutState, revision: str) -> list[dict[str, Any]]:
        selector = f"serving.knative.dev/revision={revision}"
        return await self.kubernetes.list(POD, state.request.namespace, label_selector=selector)


async def check_prometheus(prometheus: PrometheusClient, at: float) -> None:
    """RolloutRefusedError where Prometheus does not answer: a canary could not be judged."""
    try:
        await prometheus.instant("vector(1)", at)
    except PrometheusError as error:
        raise RolloutRefusedError(f"the canary could not be judged: {error}") from error


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


def _still_frozen(left: RolloutState, live: Service | None) -> bool:
    open_still = live is not None and live.canary_percent is not None
    return (
        open_still
        and left.decision is Decision.FROZEN
        and live is not None
        and (live.predictor.storage_uri == left.candidate.storage_uri)
    )


def _annotations(state: RolloutState) -> dict[str, str | None]:
    return {STATE_ANNOTATION: json.dumps(state.to_json(), separators=(",", ":"))}


def _state(lease: leases.Lease | None) -> RolloutState | None:
    if lease is None or STATE_ANNOTATION not in lease.annotations:
        return None
    return RolloutState.from_json(json.loads(lease.annotations[STATE_ANNOTATION]))
