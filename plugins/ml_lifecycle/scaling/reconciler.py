"""One pass over all MLScalers: one list, batched queries, one batch of forecasts, patches where something changes.

What fails for one scaler ends on its own status and touches no other. Nothing that counts is kept between passes: what
a pass needs to know stands in Prometheus and in status.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ml_lifecycle.exceptions import LifecycleError
from ml_lifecycle.kubernetes.leases import lease_name
from ml_lifecycle.scaling.budget import within
from ml_lifecycle.scaling.client import ScalerClient, Surroundings, Target
from ml_lifecycle.scaling.conflicts import find_conflicts, rollout_in_progress
from ml_lifecycle.scaling.decision import Decision, decision_of
from ml_lifecycle.scaling.exceptions import TargetMissingError, TargetRefusedError
from ml_lifecycle.scaling.forecast import Forecast, Question, forecast
from ml_lifecycle.scaling.histories import Loads, read_loads
from ml_lifecycle.scaling.history import History
from ml_lifecycle.scaling.measures import measured_before, with_measures
from ml_lifecycle.scaling.measuring import read_measures
from ml_lifecycle.scaling.picture import draw, look_of, past_questions
from ml_lifecycle.scaling.policy import Observation, Period, plans
from ml_lifecycle.scaling.queries import ScalerKey
from ml_lifecycle.scaling.resource import FINALIZER, INFERENCE_SERVICE_KIND, Scaler, ScalerSpec
from ml_lifecycle.scaling.status import Findings, build_status, read_period, read_scaled_up_at

if TYPE_CHECKING:
    from ml_lifecycle.kubernetes.client import KubernetesClient
    from ml_lifecycle.prometheus.client import PrometheusClient

logger = logging.getLogger(__name__)

MEASURING_SHARE = 0.3  # of the time left, that measuring may take
READING_SHARE = 0.5  # of the time left, that the reading of loads may take
THREADS = len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class PassOptions:
    """How a pass is run; times in seconds."""

    namespaces: Sequence[str] | None = None  # None: all
    dry_run: bool = False  # writes nothing, not even status
    tick_seconds: float = 60.0  # time to the next pass
    deadline_seconds: float = 45.0
    concurrency: int = 16  # requests at a time
    history_cache: Path | None = None  # folder on this machine; None: every pass reads whole histories
    show: Callable[[Scaler, str], None] | None = None  # is given a picture (SVG) of each scaler that is forecast


async def reconcile(
    kubernetes: KubernetesClient, prometheus: PrometheusClient, now: datetime, options: PassOptions
) -> list[Decision]:
    """One pass at `now` (aware); a decision for each scaler, in order of namespace and name.

    Raises where the MLScalers cannot be listed, and TimeoutError where the deadline passes before anything is decided.
    """
    return await _Pass(ScalerClient(kubernetes, options.namespaces), prometheus, now, options).run()


class _Pass:
    def __init__(self, client: ScalerClient, prometheus: PrometheusClient, now: datetime, options: PassOptions) -> None:
        self._client = client
        self._prometheus = prometheus
        self._now = now
        self._options = options
        self._gate = asyncio.Semaphore(options.concurrency)
        self._surroundings = Surroundings({}, {}, (), ())
        self._questions: dict[ScalerKey, Question] = {}
        self._end = 0.0  # of the pass, by the loop's clock

    async def run(self) -> list[Decision]:
        """Reads, decides, writes."""
        self._end = asyncio.get_running_loop().time() + self._options.deadline_seconds
        async with asyncio.timeout_at(self._end):
            scalers = await self._client.scalers()
            if not scalers:
                return []
            self._surroundings = await self._client.surroundings()
            findings, targets = await self._decide(scalers)
        decisions = await self._carry_out(scalers, findings, targets)
        if self._options.show is not None:
            await asyncio.to_thread(self._draw, scalers, decisions, self._options.show)
        return decisions

    def _seconds_left(self) -> float:
        return max(0.0, self._end - asyncio.get_running_loop().time())

    def _draw(
        self, scalers: Sequence[Scaler], decisions: Sequence[Decision], show: Callable[[Scaler, str], None]
    ) -> None:
        """Last, so that no scaler waits for it."""
        for scaler, decision in zip(scalers, decisions, strict=True):
            if question := self._questions.get(scaler.key):
                asked = past_questions(question)
                found = forecast(asked, threads=THREADS)
                looks = [look_of(*pair) for pair in zip(asked, found, strict=True)]
                show(scaler, draw(str(scaler), question, looks, decision.why))

    async def _decide(self, scalers: Sequence[Scaler]) -> tuple[dict[ScalerKey, Findings], dict[ScalerKey, Target]]:
        surroundings = self._surroundings
        conflicts = find_conflicts(
            scalers, surroundings.autoscalers, surroundings.scaled_objects, surroundings.inference_services
        )
        findings: dict[ScalerKey, Findings] = {}
        for scaler in scalers:
            found = Findings(
                invalid=scaler.invalid, conflict=conflicts.get(scaler.key, ""), rollout=self._rollout(scaler) or ""
            )
            findings[scaler.key] = found
        free = [scaler for scaler in scalers if findings[scaler.key] == Findings() and not scaler.deleting]
        self._surroundings = await self._client.list_targets(free, surroundings)
        targets = await self._targets(free, findings)
        served, unmeasured = await self._measured([scaler for scaler in free if scaler.key in targets], targets)
        findings |= {key: Findings(error=error, error_reason="CapacityUnknown") for key, error in unmeasured.items()}
        loads = await self._loads(served)
        forecasts = await self._forecasts(served, loads.histories)
        findings |= self._plans(served, targets, loads, forecasts)
        return findings, targets

    def _rollout(self, scaler: Scaler) -> str | None:
        if scaler.spec is None or scaler.spec.target_ref.kind != INFERENCE_SERVICE_KIND:
            return None
        service = scaler.spec.target_ref.name
        return rollout_in_progress(
            service,
            self._surroundings.inference_services.get((scaler.namespace, service)),
            self._surroundings.leases.get((scaler.namespace, lease_name(service))),
            self._now,
        )

    async def _targets(self, scalers: Iterable[Scaler], findings: dict[ScalerKey, Findings]) -> dict[ScalerKey, Target]:
        targets: dict[ScalerKey, Target] = {}

        async def read(scaler: Scaler) -> None:
            try:
                async with self._gate:
                    targets[scaler.key] = await self._client.target(scaler, self._surroundings)
            except TargetRefusedError as error:
                findings[scaler.key] = Findings(conflict=str(error))
            except LifecycleError as error:
                reason = "TargetMissing" if isinstance(error, TargetMissingError) else "TargetUnreadable"
                findings[scaler.key] = Findings(error=str(error), error_reason=reason)
            except Exception as error:
                logger.exception("%s: its target could not be understood", scaler)
                findings[scaler.key] = Findings(error=repr(error), error_reason="TargetUnreadable")

        await asyncio.gather(*(read(scaler) for scaler in scalers))
        return targets

    async def _measured(
        self, scalers: Sequence[Scaler], targets: Mapping[ScalerKey, Target]
    ) -> tuple[list[Scaler], dict[ScalerKey, str]]:
        """The scalers with what their specs leave to be measured, and why others have no capacity."""
        known: dict[ScalerKey, Scaler] = {}
        errors: dict[ScalerKey, str] = {}

        async def measure(scaler: Scaler) -> None:
            try:
                async with self._gate:
                    measures = await read_measures(
                        scaler, targets[scaler.key], self._client, self._prometheus, self._now
                    )
                known[scaler.key] = with_measures(scaler, measures)
            except LifecycleError as error:
                errors[scaler.key] = str(error)

        seconds = MEASURING_SHARE * self._seconds_left()
        tasks = {asyncio.create_task(measure(scaler)): scaler for scaler in scalers}
        for task in await within(seconds, tasks):
            scaler = tasks[task]
            before = with_measures(scaler, measured_before(scaler.status))
            if before.spec is not None and before.spec.capacity_per_replica is not None:
                known[scaler.key] = before
            else:
                errors[scaler.key] = f"capacityPerReplica was not measured within {seconds:.1f} s; a later pass will"
        return [known[scaler.key] for scaler in scalers if scaler.key in known], errors

    async def _loads(self, scalers: Sequence[Scaler]) -> Loads:
        asked = [scaler for scaler in scalers if scaler.spec is not None and scaler.spec.mode != "off"]
        folder = self._options.history_cache
        seconds = READING_SHARE * self._seconds_left()
        return await read_loads(
            asked, self._prometheus, self._now.timestamp(), gate=self._gate, seconds=seconds, cache_folder=folder
        )

    async def _forecasts(
        self, scalers: Sequence[Scaler], histories: Mapping[ScalerKey, History]
    ) -> dict[ScalerKey, Forecast]:
        self._questions = {
            scaler.key: _question(scaler.spec, histories[scaler.key], self._options.tick_seconds, self._now)
            for scaler in scalers
            if scaler.spec is not None and scaler.spec.mode in {"auto", "dryRun"} and scaler.key in histories
        }
        answers = await asyncio.to_thread(forecast, list(self._questions.values()), threads=THREADS)
        return dict(zip(self._questions, answers, strict=True))

    def _plans(
        self,
        scalers: Sequence[Scaler],
        targets: Mapping[ScalerKey, Target],
        loads: Loads,
        forecasts: Mapping[ScalerKey, Forecast],
    ) -> dict[ScalerKey, Findings]:
        """All plans of the pass in one call."""
        named = {scaler.key: (scaler, scaler.spec) for scaler in scalers if scaler.spec is not None}
        seen = {
            key: _observation(scaler, spec, targets[key], loads, forecasts.get(key), self._now)
            for key, (scaler, spec) in named.items()
        }
        made = plans([spec for _, spec in named.values()], list(seen.values()), self._now.timestamp())
        return {
            key: Findings(
                plan=one,
                load=seen[key].load,
                forecast=forecasts.get(key),
                observed_replicas=targets[key].running,
                horizon_seconds=spec.horizon_steps(self._options.tick_seconds) * spec.step_seconds,
                metric_error=loads.errors.get(key, ""),
                spec=spec,
            )
            for (key, (_, spec)), one in zip(named.items(), made, strict=True)
        }

    async def _carry_out(
        self,
        scalers: Sequence[Scaler],
        findings: dict[ScalerKey, Findings],
        targets: Mapping[ScalerKey, Target],
    ) -> list[Decision]:
        """Writes what must be written, within the deadline; whoever is not reached says so."""
        done: dict[ScalerKey, Findings] = {}

        async def write(scaler: Scaler) -> None:
            found = findings[scaler.key]
            try:
                async with self._gate:
                    done[scaler.key] = await self._write(scaler, found, targets.get(scaler.key))
            except Exception as error:
                logger.exception("%s: unexpected", scaler)
                done[scaler.key] = dataclasses.replace(found, error=repr(error), error_reason="Failed")

        if self._options.dry_run:
            done = findings
        else:
            # Whoever needs replicas comes first, and a status that only says something new comes last.
            urgent = sorted(scalers, key=lambda scaler: -_added(findings[scaler.key]))
            await within(self._seconds_left(), [asyncio.create_task(write(scaler)) for scaler in urgent])
        missed = Findings(error="the pass ended before this scaler's turn", error_reason="NotReached")
        return [decision_of(scaler, done.get(scaler.key, missed), self._now) for scaler in scalers]

    async def _write(self, scaler: Scaler, found: Findings, target: Target | None) -> Findings:
        try:
            if scaler.deleting:
                return await self._finish(scaler, found)
            if target is not None and found.plan is not None:
                found = await self._scale(scaler, found, target)
        except LifecycleError as error:
            logger.warning("%s: %s", scaler, error)
            found = dataclasses.replace(found, error=str(error), error_reason="WriteFailed")
        try:
            await self._client.write_status(scaler, build_status(scaler, found, self._now))
        except LifecycleError as error:
            logger.warning("%s: its status could not be written: %s", scaler, error)
            found = dataclasses.replace(found, error=found.error or str(error), error_reason="StatusNotWritten")
        return found

    async def _scale(self, scaler: Scaler, found: Findings, target: Target) -> Findings:
        if scaler.spec is None or found.plan is None or not scaler.spec.writes:
            return found
        if FINALIZER not in scaler.finalizers and scaler.spec.deletion_policy == "ReturnToMin":
            await self._client.add_finalizer(scaler)
        if not found.plan.changes:
            return found
        # A rollout may have begun since the lists were read.
        if rollout := await self._rollout_now(scaler, scaler.spec):
            return dataclasses.replace(found, rollout=rollout)
        await self._client.write_replicas(target, found.plan.desired)
        return dataclasses.replace(found, written=True)

    async def _rollout_now(self, scaler: Scaler, spec: ScalerSpec) -> str | None:
        if spec.target_ref.kind != INFERENCE_SERVICE_KIND:
            return None
        lease = await self._client.lease(scaler.namespace, spec.target_ref.name)
        return rollout_in_progress(spec.target_ref.name, None, lease, self._now)

    async def _finish(self, scaler: Scaler, found: Findings) -> Findings:
        """Returns the target to minReplicas and lets the deletion go on; a target that is gone is no obstacle."""
        if FINALIZER not in scaler.finalizers:
            return found
        spec = scaler.spec
        if spec is not None and spec.writes and spec.deletion_policy == "ReturnToMin" and not found.conflict:
            if found.rollout:
                waiting = f"deletion waits: {found.rollout}"
                await self._client.write_status(
                    scaler, build_status(scaler, dataclasses.replace(found, rollout=waiting), self._now)
                )
                return found
            try:
                target = await self._client.target(scaler, self._surroundings)
                if target.replicas != spec.min_replicas:
                    await self._client.write_replicas(target, spec.min_replicas)
            except (TargetMissingError, TargetRefusedError) as error:
                logger.info("%s is deleted without returning replicas: %s", scaler, error)
        await self._client.remove_finalizer(scaler)
        return found


def _added(found: Findings) -> float:
    """Replicas that are added, a change of any other kind counting as half of one."""
    if found.plan is None or not found.plan.changes:
        return 0.0
    return max(0.5, float(found.plan.desired - found.plan.current))


def _question(spec: ScalerSpec, history: History, tick_seconds: float, now: datetime) -> Question:
    return Question(
        loads=history.loads,
        scale=spec.load_per_replica,
        horizon=spec.horizon_steps(tick_seconds),
        quantile=spec.covered,
        lookback=spec.stabilization_steps,
        step_seconds=spec.step_seconds,
        at=now.timestamp(),
        model=spec.forecast_model,
    )


def _observation(
    scaler: Scaler,
    spec: ScalerSpec,
    target: Target,
    loads: Loads,
    predicted: Forecast | None,
    now: datetime,
) -> Observation:
    steps = spec.stabilization_steps
    # What could not be read is missing, however short a time ago it was known: only a forecast goes on from there.
    history = None if scaler.key in loads.errors else loads.histories.get(scaler.key)
    return Observation(
        replicas=target.replicas,
        load=history.load if history else None,
        recent_load=history.highest(steps) if history else None,
        coverage=history.coverage(steps) if history else 0.0,
        forecast=predicted,
        period=_handed_over(scaler, target, now) or read_period(scaler.status),
        ceiling=target.ceiling,
        scaled_up_at=read_scaled_up_at(scaler.status),
    )


def _handed_over(scaler: Scaler, target: Target, now: datetime) -> Period | None:
    """After a rollout the pace counts from the replicas that the Revision before had: the load did not begin anew."""
    before = int(scaler.status.get("desiredReplicas") or 0)
    if not target.new or before <= target.replicas:
        return None
    return Period(up=True, start=now.timestamp(), replicas=before)
