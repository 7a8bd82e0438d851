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
from ml_lifecycle.kubernetes.resource import REVISION
from ml_lifecycle.scaling.asking_why import look_for
from ml_lifecycle.scaling.budget import each_within, in_parts, within
from ml_lifecycle.scaling.client import ScalerClient, Surroundings, Target
from ml_lifecycle.scaling.conflicts import find_conflicts, rollout_in_progress
from ml_lifecycle.scaling.decision import Decision, decision_of, unlisted_decision
from ml_lifecycle.scaling.exceptions import TargetMissingError, TargetRefusedError
from ml_lifecycle.scaling.forecast import Forecast, Question, forecast
from ml_lifecycle.scaling.hand_over import HandOver, hand_over, scaled_object, taken_over
from ml_lifecycle.scaling.histories import Loads, read_loads
from ml_lifecycle.scaling.history import History
from ml_lifecycle.scaling.measures import measured_before, with_measures
from ml_lifecycle.scaling.measuring import read_measures
from ml_lifecycle.scaling.missing_loads import question_of, service_of, source_of, why
from ml_lifecycle.scaling.picture import draw, look_of, past_questions
from ml_lifecycle.scaling.policy import Cause, Observation, plans
from ml_lifecycle.scaling.queries import ScalerKey, in_turn
from ml_lifecycle.scaling.resource import FINALIZER, INFERENCE_SERVICE_KIND, Scaler, ScalerSpec, within_rights
from ml_lifecycle.scaling.status import Findings, build_status, read_allowance, read_period, read_scaled_up_at
from ml_lifecycle.scaling.steering import Allowance, begun, steered

if TYPE_CHECKING:
    from ml_lifecycle.kubernetes.client import KubernetesClient
    from ml_lifecycle.prometheus.client import PrometheusClient

logger = logging.getLogger(__name__)

MEASURING_SHARE = 0.3  # of the time left, that measuring may take
SURROUNDINGS_SHARE = 0.3  # of the time left, that listing what else is there may take
TARGETS_SHARE = 0.4  # of the time left, that reading the targets may take
READING_SHARE = 0.5  # of the time left, that the reading of loads may take
WHY_SHARE = 0.1  # of the time left, that finding out why there are no loads may take
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
    own_queries: Sequence[str] | None = None  # the namespaces whose scalers may ask by metric.query; None: all
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
        self._capacity_of: dict[ScalerKey, str] = {}
        self._questions: dict[ScalerKey, Question] = {}
        self._allowances: dict[ScalerKey, Allowance] = {}
        self._end = 0.0  # of the pass, by the loop's clock

    async def run(self) -> list[Decision]:
        """Reads, decides, writes."""
        self._end = asyncio.get_running_loop().time() + self._options.deadline_seconds
        async with asyncio.timeout_at(self._end):
            listed, unlisted = await self._client.scalers()
            scalers = [within_rights(scaler, self._options.own_queries) for scaler in listed]
            missing = [unlisted_decision(place, reason, self._now) for place, reason in unlisted.items()]
            if not scalers:
                return missing
            seconds = SURROUNDINGS_SHARE * self._seconds_left()
            self._surroundings = await self._client.surroundings(scalers, seconds)
            findings, targets = await self._decide(scalers)
        decisions = await self._carry_out(scalers, findings, targets)
        if self._options.show is not None:
            await asyncio.to_thread(self._draw, scalers, decisions, self._options.show)
        return [*decisions, *missing]

    def _seconds_left(self) -> float:
        return max(0.0, self._end - asyncio.get_running_loop().time())

    def _draw(
        self, scalers: Sequence[Scaler], decisions: Sequence[Decision], show: Callable[[Scaler, str], None]
    ) -> None:
        """Last, so that no scaler waits for it."""
        for scaler, decision in zip(scalers, decisions, strict=True):
            if question := self._questions.get(scaler.key):
                try:
                    asked = past_questions(question)
                    found = forecast(asked, threads=THREADS)
                    looks = [look_of(*pair) for pair in zip(asked, found, strict=True)]
                    show(scaler, draw(str(scaler), question, looks, decision.why))
                except Exception:
                    logger.exception("%s: it could not be drawn", scaler)

    async def _decide(self, scalers: Sequence[Scaler]) -> tuple[dict[ScalerKey, Findings], dict[ScalerKey, Target]]:
        surroundings = self._surroundings
        conflicts = find_conflicts(
            scalers, surroundings.autoscalers, surroundings.scaled_objects, surroundings.inference_services
        )
        findings = {scaler.key: self._beforehand(scaler, conflicts.get(scaler.key, "")) for scaler in scalers}
        free = [scaler for scaler in scalers if findings[scaler.key].free and not scaler.deleting]
        seconds = TARGETS_SHARE / 2 * self._seconds_left()
        self._surroundings = await self._client.list_targets(free, surroundings, seconds)
        targets = await self._targets(free, findings)
        served = await self._measured([scaler for scaler in free if scaler.key in targets], targets, findings)
        loads = await self._loads(served)
        self._allowances = self._steered(served, targets, loads)
        forecasts = await self._forecasts(served, loads)
        findings |= self._plans(served, targets, loads, forecasts)
        findings |= await self._explained([scaler for scaler in free if _lacks_load(findings[scaler.key])], findings)
        return findings, targets

    def _beforehand(self, scaler: Scaler, conflict: str) -> Findings:
        """What is known of a scaler before its target is read."""
        if scaler.invalid or conflict:
            return Findings(invalid=scaler.invalid, conflict=conflict)
        if unknown := self._surroundings.unknown(scaler):
            return Findings(error=f"held: {unknown}", error_reason="SurroundingsUnreadable")
        try:
            return Findings(rollout=self._rollout(scaler) or "")
        except Exception as error:
            return _failed(scaler, error, "SurroundingsUnreadable")

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
        """Those that could be read; of the others `findings` say why not."""

        async def read(scaler: Scaler) -> Target:
            async with self._gate:
                return await self._client.target(scaler, self._surroundings)

        named = {scaler.key: scaler for scaler in scalers}
        seconds = TARGETS_SHARE * self._seconds_left()
        targets, errors = await each_within(seconds, {key: read(scaler) for key, scaler in named.items()})
        for key, error in errors.items():
            if isinstance(error, TargetRefusedError):
                findings[key] = Findings(conflict=str(error))
            else:
                reason = "TargetMissing" if isinstance(error, TargetMissingError) else "TargetUnreadable"
                findings[key] = _failed(named[key], error, reason)
        return targets

    async def _measured(
        self,
        scalers: Sequence[Scaler],
        targets: Mapping[ScalerKey, Target],
        findings: dict[ScalerKey, Findings],
    ) -> list[Scaler]:
        """The scalers with what their specs leave to be measured; of those without capacity `findings` say why."""
        services = self._surroundings.inference_services

        async def measure(scaler: Scaler) -> Scaler:
            async with self._gate:
                measures = await read_measures(
                    scaler, targets[scaler.key], self._client, self._prometheus, self._now, services
                )
            self._capacity_of[scaler.key] = measures.capacity_of
            return with_measures(scaler, measures)

        seconds = MEASURING_SHARE * self._seconds_left()
        turns = in_turn((scaler.namespace, scaler) for scaler in scalers)
        known, errors = await each_within(seconds, {scaler.key: measure(scaler) for scaler in turns})
        for scaler in scalers:
            if (error := errors.get(scaler.key)) is None:
                continue
            before = with_measures(scaler, measured_before(scaler.status))
            if before.spec is not None and before.spec.capacity_per_replica is not None:
                logger.warning("%s: it is not measured anew: %r", scaler, error)
                known[scaler.key] = before
            elif isinstance(error, TimeoutError):
                why = f"capacityPerReplica was not measured within {seconds:.1f} s; a later pass will"
                findings[scaler.key] = Findings(error=why, error_reason="CapacityUnknown")
            else:
                findings[scaler.key] = _failed(scaler, error, "CapacityUnknown")
        return [known[scaler.key] for scaler in scalers if scaler.key in known]

    async def _loads(self, scalers: Sequence[Scaler]) -> Loads:
        asked = [scaler for scaler in scalers if scaler.spec is not None and scaler.spec.mode != "off"]
        folder = self._options.history_cache
        seconds = READING_SHARE * self._seconds_left()
        return await read_loads(
            asked,
            self._prometheus,
            self._now.timestamp(),
            gate=self._gate,
            seconds=seconds,
            cache_folder=folder,
            services=self._surroundings.inference_services,
        )

    def _steered(
        self, scalers: Sequence[Scaler], targets: Mapping[ScalerKey, Target], loads: Loads
    ) -> dict[ScalerKey, Allowance]:
        """How often peaks may surpass the forecast, of the scalers with a SLO."""
        now, found = self._now.timestamp(), {}
        for scaler in scalers:
            if scaler.spec is None or scaler.spec.allowed is None:
                continue
            short = self._is_short(scaler, scaler.spec, targets[scaler.key], loads)
            before = read_allowance(scaler.status) or begun(scaler.spec.allowed, now)
            found[scaler.key] = steered(
                before, scaler.spec.allowed, now, short=short, seconds=self._options.tick_seconds
            )
        return found

    def _is_short(self, scaler: Scaler, spec: ScalerSpec, target: Target, loads: Loads) -> bool:
        """Whether the load is more than what is ready carries, and more could have been asked for."""
        load = loads.histories[scaler.key].load if scaler.key in loads.histories else None
        serving = target.running if target.ready is None else target.ready
        most = spec.max_replicas if target.ceiling is None else min(spec.max_replicas, target.ceiling)
        if load is None or not serving or target.replicas >= most or self._hand_over(scaler, target) is not None:
            return False
        return load > serving * spec.load_per_replica

    async def _forecasts(self, scalers: Sequence[Scaler], loads: Loads) -> dict[ScalerKey, Forecast]:
        """What could be forecast; where it could not, by the load alone."""
        self._questions = {
            scaler.key: self._question(scaler, scaler.spec, loads.histories[scaler.key])
            for scaler in scalers
            if scaler.spec is not None and scaler.spec.mode in {"auto", "dryRun"} and scaler.key in loads.histories
        }

        def answers(asked: Sequence[Question]) -> Sequence[Forecast]:
            return forecast(list(asked), threads=THREADS)

        found = await asyncio.to_thread(in_parts, list(self._questions.values()), answers)
        forecasts: dict[ScalerKey, Forecast] = {}
        for key, one in zip(self._questions, found, strict=True):
            if isinstance(one, Exception):
                logger.error("%s: it could not be forecast", "/".join(key), exc_info=one)
            else:
                forecasts[key] = one
        return forecasts

    def _question(self, scaler: Scaler, spec: ScalerSpec, history: History) -> Question:
        now, allowance = self._now.timestamp(), self._allowances.get(scaler.key)
        quantile = spec.covered
        if allowance is not None and spec.allowed is not None:
            quantile = 1 - allowance.grown(spec.allowed, now)
        return Question(
            loads=history.loads,
            scale=spec.load_per_replica,
            horizon=spec.horizon_steps(self._options.tick_seconds),
            quantile=quantile,
            lookback=spec.stabilization_steps,
            step_seconds=spec.step_seconds,
            at=now,
            model=spec.forecast_model,
        )

    def _plans(
        self,
        scalers: Sequence[Scaler],
        targets: Mapping[ScalerKey, Target],
        loads: Loads,
        forecasts: Mapping[ScalerKey, Forecast],
    ) -> dict[ScalerKey, Findings]:
        """All plans of the pass in one call."""

        def planned(batch: Sequence[Scaler]) -> Sequence[Findings]:
            specs = [scaler.spec for scaler in batch if scaler.spec is not None]
            handed = [self._hand_over(scaler, targets[scaler.key]) for scaler in batch]
            seen = [
                _observation(scaler, spec, targets[scaler.key], before, loads, forecasts.get(scaler.key))
                for scaler, spec, before in zip(batch, specs, handed, strict=True)
            ]
            made = plans(specs, seen, self._now.timestamp())
            return [
                Findings(
                    plan=one if before is None else taken_over(one, targets[scaler.key].replicas, before),
                    load=observed.load,
                    forecast=forecasts.get(scaler.key),
                    observed_replicas=targets[scaler.key].running,
                    horizon_seconds=spec.horizon_steps(self._options.tick_seconds) * spec.step_seconds,
                    metric_error=loads.errors.get(scaler.key, ""),
                    spec=spec,
                    target=_named(scaler, targets[scaler.key]),
                    allowance=self._allowances.get(scaler.key),
                    capacity_of=self._capacity_of.get(scaler.key, scaler.status.get("capacityOf", "")),
                )
                for scaler, spec, before, observed, one in zip(batch, specs, handed, seen, made, strict=True)
            ]

        valid = [scaler for scaler in scalers if scaler.spec is not None]
        return {
            scaler.key: _failed(scaler, one, "Failed") if isinstance(one, Exception) else one
            for scaler, one in zip(valid, in_parts(valid, planned), strict=True)
        }

    async def _explained(
        self, scalers: Sequence[Scaler], findings: Mapping[ScalerKey, Findings]
    ) -> dict[ScalerKey, Findings]:
        """The findings of scalers without a load, with what was asked for and what there is instead."""
        seconds = WHY_SHARE * self._seconds_left()
        seen = await look_for(scalers, self._prometheus, self._now.timestamp(), seconds) if scalers else {}
        explained = {}
        for scaler in scalers:
            source, found = source_of(scaler), findings[scaler.key]
            there = why(scaler, seen[source]) if source in seen else ""
            if found.plan is None:  # a load alone does not give the capacity
                known = source in seen and service_of(scaler) in seen[source].samples
                explained[scaler.key] = dataclasses.replace(found, error=_joined(found.error, "" if known else there))
            else:
                said = _joined(found.plan.reason, question_of(scaler), there)
                explained[scaler.key] = dataclasses.replace(found, plan=dataclasses.replace(found.plan, reason=said))
        return explained

    def _hand_over(self, scaler: Scaler, target: Target) -> HandOver | None:
        """A target that is scaled to zero is switched off, and takes nothing over."""
        before = hand_over(scaler, _named(scaler, target)) if target.replicas else None
        return before if before is not None and before.replicas > target.replicas else None

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
                failed = _failed(scaler, error, "Failed")
                done[scaler.key] = dataclasses.replace(found, error=failed.error, error_reason=failed.error_reason)

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
        except Exception as error:
            failed = _failed(scaler, error, "WriteFailed")
            found = dataclasses.replace(found, error=failed.error, error_reason=failed.error_reason)
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
        before = hand_over(scaler, _named(scaler, target))
        if not found.plan.changes and before is None:
            return found
        # A rollout may have begun since the lists were read.
        if rollout := await self._rollout_now(scaler, scaler.spec):
            return dataclasses.replace(found, rollout=rollout)
        if found.plan.changes:
            await self._client.write_replicas(target, found.plan.desired)
            found = dataclasses.replace(found, written=True)
        if before is not None and before.kind == REVISION.kind:
            service = self._surroundings.inference_services[scaler.namespace, scaler.spec.target_ref.name]
            await self._client.give_back(scaler.namespace, before.name, before.replicas, service)
        return found

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
        if found.error:  # what else is there is not known: the deletion waits
            await self._client.write_status(scaler, build_status(scaler, found, self._now))
            return found
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


def _lacks_load(found: Findings) -> bool:
    """Whether Prometheus answered and had no load, be it to scale by or to measure the capacity by."""
    if found.plan is None:
        return found.error_reason == "CapacityUnknown"
    return found.load is None and found.plan.cause not in {Cause.OFF, Cause.ZERO} and not found.metric_error


def _joined(*sentences: str) -> str:
    return "; ".join(filter(None, sentences))


def _added(found: Findings) -> float:
    """Replicas that are added, a change of any other kind counting as half of one."""
    if found.plan is None or not found.plan.changes:
        return 0.0
    return max(0.5, float(found.plan.desired - found.plan.current))


def _observation(
    scaler: Scaler,
    spec: ScalerSpec,
    target: Target,
    before: HandOver | None,
    loads: Loads,
    predicted: Forecast | None,
) -> Observation:
    steps = spec.stabilization_steps
    # What could not be read is missing, however short a time ago it was known: only a forecast goes on from there.
    history = None if scaler.key in loads.errors else loads.histories.get(scaler.key)
    return Observation(
        replicas=target.replicas if before is None else before.replicas,
        load=history.load if history else None,
        recent_load=history.highest(steps) if history else None,
        coverage=history.coverage(steps) if history else 0.0,
        forecast=predicted,
        period=read_period(scaler.status),
        ceiling=target.ceiling,
        scaled_up_at=read_scaled_up_at(scaler.status),
    )


def _named(scaler: Scaler, target: Target) -> dict[str, str]:
    return scaled_object(scaler, target.kind.kind, target.name)


def _failed(scaler: Scaler, error: Exception, reason: str) -> Findings:
    """The end of whatever went wrong with one scaler: on its own status, and in the log."""
    if isinstance(error, LifecycleError | TimeoutError):
        logger.warning("%s: %s", scaler, error)
        return Findings(error=str(error), error_reason=reason)
    logger.error("%s: unexpected", scaler, exc_info=error)
    return Findings(error=f"unexpected: {error!r}", error_reason=reason)
