"""What every task of a rollout shares: its request, its wait, what it refuses."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException

from ml_lifecycle.deferral import DeferringOperator, Event
from ml_lifecycle.kserve.exceptions import RolloutError, RolloutInterruptedError, RolloutRefusedError
from ml_lifecycle.kserve.triggers import RolloutTrigger
from ml_lifecycle.kubernetes.exceptions import LeaseHeldError, LeaseLostError
from ml_lifecycle.runtimes import DESCRIPTION, GOLDEN, RUNTIMES

if TYPE_CHECKING:
    from ml_lifecycle.kserve.request import RolloutRequest


class RolloutOperator(DeferringOperator):
    """A task of one rollout.

    :param rollout: JSON of a RolloutRequest: model, version and the settings that it runs under. (templated)
    """

    template_fields: Sequence[str] = ("rollout",)
    template_fields_renderers: Mapping[str, str] = {"rollout": "json"}
    ui_color = "#e8eefc"

    def __init__(self, *, rollout: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rollout = rollout

    def request(self) -> RolloutRequest:
        """The rendered request."""
        from ml_lifecycle.kserve.request import RolloutRequest

        return RolloutRequest.model_validate(self.rollout)

    def wait(
        self, trigger: type[RolloutTrigger], context: Mapping[str, Any], *, poll_seconds: float, patience: float = 0.0
    ) -> Any:
        """Ends in `resume`; `patience` as in `wait_for`."""
        request = self.request()
        waiting = trigger(
            kubernetes_conn_id=request.connections.kubernetes,
            namespace=request.namespace,
            service=request.model,
            holder=holder(context),
            poll_seconds=poll_seconds,
        )
        return self.wait_for(waiting, context, patience=patience)

    def resume(self, context: Mapping[str, Any], event: Event) -> Any:  # noqa: ARG002 (Airflow's signature)
        """Called with the trigger's event."""
        raise TypeError(f"{type(self).__name__} does not say how to resume")


def holder(context: Mapping[str, Any]) -> str:
    """Who holds the Lease: the DAG and its run."""
    run = context["dag_run"]
    return f"{run.dag_id}/{run.run_id}"


def verified(request: RolloutRequest) -> tuple[RolloutRequest, str]:
    """The request with the digest of the version's files, which are what was promoted, and their golden cases.

    RolloutRefusedError names the serving files that are missing or have changed.
    """
    from ml_lifecycle.data_lake.client import DataLake
    from ml_lifecycle.data_lake.exceptions import NotPublishedError, PathPartError, ServingFilesChangedError
    from ml_lifecycle.data_lake.layout import join
    from ml_lifecycle.data_lake.published import published

    lake, runtime = DataLake(request.data_lake, request.connections.storage), RUNTIMES[request.serving.runtime]
    try:
        digest = published(lake, request.model, request.version)
    except (NotPublishedError, PathPartError, ServingFilesChangedError) as error:
        raise RolloutRefusedError(str(error)) from error
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
    return request.model_copy(update={"digest": digest}), json.dumps(golden)


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
