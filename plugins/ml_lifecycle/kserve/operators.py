"""The tasks of a rollout: open it at 0 %, step the traffic on evidence, close it whatever happened."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException
from airflow.sdk import BaseOperator
from airflow.sdk.configuration import conf

from ml_lifecycle.exceptions import LifecycleError
from ml_lifecycle.kserve.exceptions import (
    RolloutError,
    RolloutInterruptedError,
    RolloutRefusedError,
    RolloutStuckError,
)
from ml_lifecycle.kserve.triggers import CanaryTrigger, CloseTrigger, Event, RevisionReadyTrigger, RolloutTrigger
from ml_lifecycle.kubernetes.exceptions import LeaseHeldError, LeaseLostError
from ml_lifecycle.runtimes import DESCRIPTION, GOLDEN, RUNTIMES

if TYPE_CHECKING:
    from ml_lifecycle.kserve.client import RolloutClient
    from ml_lifecycle.kserve.request import RolloutRequest
    from ml_lifecycle.kserve.rollout import RolloutState

log = logging.getLogger(__name__)


class RolloutOperator(BaseOperator):
    """A task of one rollout.

    :param rollout: JSON of a RolloutRequest: model, version and the settings that it runs under. (templated)
    :param deferrable: wait in the triggerer, holding no worker slot; false drives the same trigger in the task.
    """

    template_fields: Sequence[str] = ("rollout",)
    template_fields_renderers: Mapping[str, str] = {"rollout": "json"}
    ui_color = "#e8eefc"

    def __init__(
        self,
        *,
        rollout: Mapping[str, Any],
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.rollout = rollout
        self.deferrable = deferrable

    def request(self) -> RolloutRequest:
        """The rendered request."""
        from ml_lifecycle.kserve.request import RolloutRequest

        return RolloutRequest.model_validate(self.rollout)

    def wait(self, trigger: type[RolloutTrigger], context: Mapping[str, Any], *, poll_seconds: float) -> Any:
        """Ends in `resume`, by way of the triggerer or at once."""
        request = self.request()
        built = trigger(
            kubernetes_conn_id=request.connections.kubernetes,
            namespace=request.namespace,
            service=request.model,
            holder=holder(context),
            poll_seconds=poll_seconds,
        )
        if self.deferrable:
            self.defer(trigger=built, method_name="resume")
        return self.resume(context, asyncio.run(_first_event(built)))

    def resume(self, context: Mapping[str, Any], event: Event) -> Any:  # noqa: ARG002 (Airflow's signature)
        """Called with the trigger's event."""
        raise TypeError(f"{type(self).__name__} does not say how to resume")


class OpenRolloutOperator(RolloutOperator):
    """Opens the canary at 0 % and waits until the new revision is ready.

    Refuses before anything is changed: serving files that are missing, a Prometheus that does not answer, a service
    that another rollout holds, that is not ours, or whose traffic cannot be split. Returns
    `{"revision", "url", "kind": "canary" | "first" | "unchanged"}`; the URL reaches the new revision alone.
    """

    def execute(self, context: Mapping[str, Any]) -> Any:
        """Opens, then waits."""
        with _refusing():
            request = self.request()
            golden = _golden(request)
            state = asyncio.run(_open(request, golden, holder(context)))
        self.log.info(
            "%s: version %s (%s), now version %s", request.model, request.version, state.kind.value, _stable(state)
        )
        return self.wait(RevisionReadyTrigger, context, poll_seconds=min(5.0, request.rollout.look_seconds / 2))

    def resume(self, context: Mapping[str, Any], event: Event) -> dict[str, Any]:  # noqa: ARG002
        """The new revision's name and address."""
        _check(event, "ready")
        request = self.request()
        path = RUNTIMES[request.serving.runtime].predict_path(request.model)
        self.log.info("revision %s is ready: POST %s%s", event["revision"], event["url"], path)
        return {key: event[key] for key in ("revision", "url", "kind")}


class CanaryOperator(RolloutOperator):
    """Steps the traffic while looking at both sides, until the evidence, or the deadline, decides.

    Returns `{"decision", "reason"}` when the version is to be promoted, and fails with the reason otherwise. What was
    decided is carried out by CloseRolloutOperator. A pause is told once; the looks go on meanwhile.
    """

    def execute(self, context: Mapping[str, Any]) -> Any:
        """Begins, or goes on after a kill; says how many requests the verdict needs."""
        request = self.request()
        with _refusing():
            state = asyncio.run(_begin(request, holder(context)))
        if state.decision is not None:
            return self.resume(context, {"status": "decided", "decision": str(state.decision), "reason": state.reason})
        return self.wait(CanaryTrigger, context, poll_seconds=request.rollout.look_seconds)

    def resume(self, context: Mapping[str, Any], event: Event) -> Any:
        """The decision, or after a pause was told the next looks."""
        if event["status"] == "paused":
            self._tell(event["report"], context)
            return self.wait(CanaryTrigger, context, poll_seconds=self.request().rollout.look_seconds)
        _check(event, "decided")
        if event["decision"] != "promoted":
            raise AirflowFailException(f"{event['decision']}: {event['reason']}")
        return {"decision": event["decision"], "reason": event["reason"]}

    def _tell(self, report: Mapping[str, Any], context: Mapping[str, Any]) -> None:
        """Whom settings name; who cannot be told must not end the rollout."""
        from ml_lifecycle.kserve.exceptions import NotifierError
        from ml_lifecycle.kserve.message import Links, write
        from ml_lifecycle.kserve.notifiers import run_page, send

        message = write(report, Links(airflow=run_page(context)))
        self.log.warning("%s", message.text)
        try:
            send(self.request().rollout.notifiers, message, context)
        except NotifierError as error:
            self.log.error("the rollout waits, and not everybody was told: %s", error)  # noqa: TRY400 - it says all


class CloseRolloutOperator(RolloutOperator):
    """Carries out what was decided, and rolls back what nobody decided; make it the teardown.

    Returns the report of the rollout: outcome, reason, revisions and the steps with what was seen on them. A run
    whose rollout never opened has `{"outcome": "not_opened"}`.
    """

    def execute(self, context: Mapping[str, Any]) -> Any:
        """Closes."""
        return self.wait(CloseTrigger, context, poll_seconds=min(2.0, self.request().rollout.look_seconds))

    def resume(self, context: Mapping[str, Any], event: Event) -> dict[str, Any]:  # noqa: ARG002
        """The report."""
        if event["status"] == "absent":
            request = self.request()
            self.log.info("this run holds no rollout of %s: nothing to close", request.model)
            reason = "it was refused, could not open, or was taken over: see the log of the task open"
            return {"model": request.model, "version": request.version, "outcome": "not_opened", "reason": reason}
        if event["status"] != "closed":
            raise RolloutError(event["reason"])
        report: dict[str, Any] = event["report"]
        self.log.info("%s version %s %s: %s", report["model"], report["version"], report["outcome"], report["reason"])
        return report


class ReturnOperator(RolloutOperator):
    """Returns to an earlier version at once: traffic first where Knative still has its revision, then the spec.

    `rollout` is the request of the version that comes back. Refuses before anything is changed: serving files that are
    gone, an open rollout, a version that serves already. Returns the report, as CloseRolloutOperator does.

    :param reason: why, for the registry's tags and the log. (templated)
    """

    template_fields: Sequence[str] = ("rollout", "reason")

    def __init__(self, *, reason: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reason = reason

    def execute(self, context: Mapping[str, Any]) -> Any:
        """Decides, then closes."""
        with _refusing():
            request = self.request()
            _golden(request)
            state = asyncio.run(_open_return(request, self.reason, holder(context)))
        way = f"traffic goes to {state.kept_revision} first" if state.kept_revision else "it gets a new revision"
        self.log.info("%s: from version %s back to %s; %s", request.model, state.request.version, request.version, way)
        return self.wait(CloseTrigger, context, poll_seconds=min(2.0, request.rollout.look_seconds))

    def resume(self, context: Mapping[str, Any], event: Event) -> dict[str, Any]:  # noqa: ARG002
        """The report."""
        _check(event, "closed")
        report: dict[str, Any] = event["report"]
        self.log.info("%s: version %s serves again", report["model"], report["stable_version"])
        return report


class SteerRolloutOperator(BaseOperator):
    """Leaves a person's order for an open rollout, which obeys it at its next look.

    :param action: approve, freeze, resume, roll_back or promote. (templated)
    :param by: who orders it. (templated)
    :param reason: why. (templated)
    """

    template_fields: Sequence[str] = ("kubernetes_conn_id", "namespace", "model", "action", "by", "reason")

    def __init__(
        self,
        *,
        model: str,
        namespace: str,
        action: str,
        by: str,
        reason: str = "",
        kubernetes_conn_id: str = "kubernetes_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.kubernetes_conn_id = kubernetes_conn_id
        self.namespace = namespace
        self.model = model
        self.action = action
        self.by = by
        self.reason = reason

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """The order, and where the rollout stood."""
        with _refusing():
            state = asyncio.run(self._order(holder(context)))
        self.log.info("%s: version %s at %s %%", self.action, state.request.version, state.percent)
        return {"version": state.request.version, "phase": state.phase.value, "percent": state.percent}

    async def _order(self, held_by: str) -> RolloutState:
        from ml_lifecycle.kserve.client import connect
        from ml_lifecycle.kserve.steering import Action, Order

        async with connect(self.kubernetes_conn_id, held_by) as client:
            order = Order(Action(self.action), self.by, self.reason, client.now())
            return await client.order(self.namespace, self.model, order)


class SweepRolloutsOperator(BaseOperator):
    """Closes rollouts whose Lease nobody has renewed for ten minutes, as their settings' `on_deadline` says.

    :param namespace: one namespace, or all of them. (templated)
    :param dry_run: only say what would be closed. (templated)
    Returns the reports of those closed, and skips its downstream where nothing was. One that cannot be closed fails
    the task, but not at the price of the reports of others: then it is logged, and the next sweep meets it again.
    """

    template_fields: Sequence[str] = ("kubernetes_conn_id", "namespace", "dry_run")

    def __init__(
        self,
        *,
        kubernetes_conn_id: str = "kubernetes_default",
        namespace: str | None = None,
        dry_run: bool | str = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.kubernetes_conn_id = kubernetes_conn_id
        self.namespace = namespace
        # `dry_run` is a method of every operator.
        self.dry_run = dry_run

    def execute(self, context: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Sweeps."""
        dry = str(self.dry_run).lower() == "true"
        swept, left = asyncio.run(_sweep(self.kubernetes_conn_id, self.namespace, holder(context), dry=dry))
        for rollout in swept:
            self.log.info("abandoned rollout of %s: %s", rollout["model"], rollout)
        if left and not swept:
            raise RolloutStuckError("; ".join(left))
        for reason in left:
            self.log.error("could not be closed, the next sweep tries again: %s", reason)
        if dry or not swept:
            would = ", ".join(rollout["model"] for rollout in swept)
            raise AirflowSkipException(f"dry run: would close {would}" if would else "no abandoned rollout")
        return swept


def holder(context: Mapping[str, Any]) -> str:
    """Who holds the Lease: the DAG and its run."""
    run = context["dag_run"]
    return f"{run.dag_id}/{run.run_id}"


async def _first_event(trigger: RolloutTrigger) -> Event:
    async for event in trigger.run():
        return dict(event.payload)
    return {"status": "failed", "reason": f"{type(trigger).__name__} ended without an event"}


async def _open(request: RolloutRequest, golden: str, held_by: str) -> RolloutState:
    from ml_lifecycle.kserve.client import check_prometheus, connect
    from ml_lifecycle.prometheus.client import connect as connect_prometheus

    async with connect(request.connections.kubernetes, held_by) as client:
        async with connect_prometheus(request.connections.prometheus) as prometheus:
            await check_prometheus(prometheus, request, client.now())
        return await client.open(request, golden)


async def _begin(request: RolloutRequest, held_by: str) -> RolloutState:
    from ml_lifecycle.kserve.client import connect
    from ml_lifecycle.kserve.rollout import begin_canary

    async with connect(request.connections.kubernetes, held_by) as client:
        state = await client.own(request.namespace, request.model)
        return await client.save(begin_canary(state))


async def _open_return(request: RolloutRequest, reason: str, held_by: str) -> RolloutState:
    from ml_lifecycle.kserve.client import connect

    async with connect(request.connections.kubernetes, held_by) as client:
        return await client.open_return(request, reason)


async def _sweep(
    connection_id: str, namespace: str | None, held_by: str, *, dry: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """Reports of what was closed, and why the rest could not be."""
    from ml_lifecycle.kserve.client import connect

    swept, left = [], []
    async with connect(connection_id, held_by) as client:
        for state in await client.abandoned(namespace):
            if dry:
                swept.append({"model": state.service, "version": state.request.version, "phase": state.phase.value})
                continue
            try:
                swept.append(await _close_abandoned(client, state))
            except LeaseHeldError as error:
                log.info("%s lives again: %s", state.service, error)
            except LifecycleError as error:
                left.append(f"{state.service}: {error}")
    return swept, left


async def _close_abandoned(client: RolloutClient, state: RolloutState) -> dict[str, Any]:
    from ml_lifecycle.kserve.rollout import Decision

    freeze = state.request.rollout.on_deadline == "freeze"
    decision = Decision.FROZEN if freeze else Decision.ROLLED_BACK
    taken = await client.take_over(state)
    return await client.close(taken.decide(decision, f"{state.holder} abandoned the rollout"))


def _golden(request: RolloutRequest) -> str:
    """The golden cases of the version; RolloutRefusedError names the serving files that are missing."""
    from ml_lifecycle.data_lake.client import DataLake
    from ml_lifecycle.data_lake.layout import join

    lake, runtime = DataLake(request.data_lake, request.connections.storage), RUNTIMES[request.serving.runtime]
    looked_for = {GOLDEN, DESCRIPTION, *itertools.chain.from_iterable(runtime.needed(request.model))}
    present = {name for name in looked_for if lake.exists(join(request.storage_uri, name))}
    if missing := runtime.missing(request.model, present):
        raise RolloutRefusedError(
            f"version {request.version} of {request.model!r} has no {', '.join(missing)} in {request.storage_uri}, as "
            f"serving.runtime = {request.serving.runtime!r} needs: promote_model writes what stands below `serving` in "
            "the version's run, so set the runtime before it publishes, or name the one that the version was made for"
        )
    golden = lake.read_json(join(request.storage_uri, GOLDEN)) if GOLDEN in present else {"cases": []}
    if runtime.cases == "tensors" and DESCRIPTION in present:
        golden["model"] = lake.read_json(join(request.storage_uri, DESCRIPTION))
    return json.dumps(golden)


def _stable(state: RolloutState) -> str:
    return state.stable.version if state.stable else "none"


@contextmanager
def _refusing() -> Iterator[None]:
    """What no retry can mend fails the task at once."""
    try:
        yield
    except (RolloutRefusedError, RolloutInterruptedError, LeaseHeldError, LeaseLostError) as error:
        raise AirflowFailException(str(error)) from error


def _check(event: Event, wanted: str) -> None:
    """Fails the task with the event's reason where it is not `wanted`; only a transient one is tried again."""
    if event["status"] == wanted:
        return
    if event.get("transient"):
        raise RolloutError(event["reason"])
    raise AirflowFailException(event["reason"])
