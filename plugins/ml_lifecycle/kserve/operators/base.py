"""What every task of a rollout shares: its request, its wait, what it refuses."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import BaseOperator
from airflow.sdk.configuration import conf

from ml_lifecycle.kserve.exceptions import RolloutError, RolloutInterruptedError, RolloutRefusedError
from ml_lifecycle.kserve.triggers import Event, RolloutTrigger
from ml_lifecycle.kubernetes.exceptions import LeaseHeldError, LeaseLostError
from ml_lifecycle.runtimes import DESCRIPTION, GOLDEN, RUNTIMES

if TYPE_CHECKING:
    from ml_lifecycle.kserve.request import RolloutRequest


# By then Airflow's scheduler has seen that the task is deferred.
_BOOKED_SECONDS = 8.0


# Closing is mostly a matter of seconds.
PATIENCE = 15.0


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

    def wait(
        self, trigger: type[RolloutTrigger], context: Mapping[str, Any], *, poll_seconds: float, patience: float = 0.0
    ) -> Any:
        """Ends in `resume`, by way of the triggerer or at once.

        `patience`: the seconds that a wait may last in the task before it is deferred. What is mostly over by then is
        so spared the way through scheduler and triggerer; all state is on the Lease, so it may be cut off anywhere.
        """
        request = self.request()
        build = partial(
            trigger,
            kubernetes_conn_id=request.connections.kubernetes,
            namespace=request.namespace,
            service=request.model,
            holder=holder(context),
            poll_seconds=poll_seconds,
        )
        if not self.deferrable:
            return self.resume(context, asyncio.run(first_event(build())))
        if patience and (event := asyncio.run(event_within(build(), patience))):
            return self.resume(context, event)
        return self.defer(trigger=build(not_before=time.time() + _BOOKED_SECONDS), method_name="resume")

    def resume(self, context: Mapping[str, Any], event: Event) -> Any:  # noqa: ARG002 (Airflow's signature)
        """Called with the trigger's event."""
        raise TypeError(f"{type(self).__name__} does not say how to resume")


def holder(context: Mapping[str, Any]) -> str:
    """Who holds the Lease: the DAG and its run."""
    run = context["dag_run"]
    return f"{run.dag_id}/{run.run_id}"


async def first_event(trigger: RolloutTrigger) -> Event:
    """What a trigger has to say, driven here."""
    async for event in trigger.run():
        return dict(event.payload)
    return {"status": "failed", "reason": f"{type(trigger).__name__} ended without an event"}


async def event_within(trigger: RolloutTrigger, seconds: float) -> Event | None:
    """The same; None if it says nothing in time."""
    with suppress(TimeoutError):
        return await asyncio.wait_for(first_event(trigger), seconds)
    return None


def golden_cases(request: RolloutRequest) -> str:
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


@contextmanager
def refusing() -> Iterator[None]:
    """What no retry can mend fails the task at once."""
    try:
        yield
    except (RolloutRefusedError, RolloutInterruptedError, LeaseHeldError, LeaseLostError) as error:
        raise AirflowFailException(str(error)) from error


def check(event: Event, wanted: str) -> None:
    """Fails the task with the event's reason where it is not `wanted`; only a transient one is tried again."""
    if event["status"] == wanted:
        return
    if event.get("transient"):
        raise RolloutError(event["reason"])
    raise AirflowFailException(event["reason"])
