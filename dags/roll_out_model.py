"""Rolls a champion out on KServe: smoke test, canary on evidence, promotion or roll-back."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, get_current_context, task, task_group

from ml_lifecycle.assets import CHAMPION_MODEL, LIVE_MODEL, ModelEvent, incoming_models
from ml_lifecycle.deferral import LOST_TRIES
from ml_lifecycle.exceptions import RefusalError
from ml_lifecycle.kserve.operators import CanaryOperator, CloseRolloutOperator, OpenRolloutOperator
from ml_lifecycle.kserve.smoke_test import SmokeTestOperator
from ml_lifecycle.params import NAMESPACE, optional, optional_version, overrides, refusing
from ml_lifecycle.settings_variable import read_settings

if TYPE_CHECKING:
    from ml_lifecycle.kserve.request import RolloutRequest
    from ml_lifecycle.settings import Settings
    from ml_lifecycle.tracking.client import ModelVersion, TrackingClient

log = logging.getLogger(__name__)

SETTINGS = {
    "strategy": "rollout.strategy",
    "steps": "rollout.steps",
    "dwell_seconds": "rollout.dwell_seconds",
    "look_seconds": "rollout.look_seconds",
    "min_requests": "rollout.min_requests",
    "warmup_looks": "rollout.warmup_looks",
    "margin": "rollout.margin",
    "floor": "rollout.floor",
    "latency_ratio": "rollout.latency_ratio",
    "latency_floor_seconds": "rollout.latency_floor_seconds",
    "deadline_minutes": "rollout.deadline_minutes",
    "on_deadline": "rollout.on_deadline",
    "namespace": "serving.namespace",
    "image": "serving.image",
    "min_replicas": "serving.min_replicas",
    "max_replicas": "serving.max_replicas",
}

PARAMS = {
    "model": optional("string", "Registered model and InferenceService; null: those that the asset event names"),
    "version": optional_version("Version; null: the champion"),
    "strategy": optional(
        "string",
        "By steps on evidence, all at once after the checks, or KServe's own replacement checked afterwards",
        section="Canary",
        enum=[None, "canary", "blue_green", "rolling"],
    ),
    "steps": optional(
        "array",
        "Traffic percents of the canary, rising to 100; instead of a number an object, as in "
        '{"percent": 25, "approval": true}; [100] switches at once after the smoke test',
        section="Canary",
        items={"anyOf": [{"type": "integer", "minimum": 0, "maximum": 100}, {"type": "object"}]},
    ),
    "dwell_seconds": optional("number", "A step lasts at least this long", section="Canary", exclusiveMinimum=0),
    "look_seconds": optional("number", "Time between two looks", section="Canary", exclusiveMinimum=0),
    "min_requests": optional("integer", "Canary requests a step needs", section="Canary", minimum=0),
    "warmup_looks": optional(
        "integer",
        "The canary's first looks with requests that only a catastrophe ends: no evidence",
        section="Canary",
        minimum=0,
        maximum=100,
    ),
    "deadline_minutes": optional("number", "The rollout is decided by then", section="Canary", exclusiveMinimum=0),
    "on_deadline": optional(
        "string", "What happens at the deadline", section="Canary", enum=[None, "roll_back", "freeze"]
    ),
    "margin": optional("number", "Ratio of error rates that is harm", section="Verdict", exclusiveMinimum=1),
    "floor": optional(
        "number", "Error rate below which nothing is harm", section="Verdict", minimum=0, exclusiveMaximum=1
    ),
    "latency_ratio": optional(
        "number", "Ratio of latency quantiles that is harm", section="Verdict", exclusiveMinimum=1
    ),
    "latency_floor_seconds": optional(
        "number", "Difference of latency quantiles below which nothing is harm", section="Verdict", minimum=0
    ),
    "namespace": optional("string", "Namespace of the InferenceService", section="Serving", pattern=NAMESPACE),
    "image": optional("string", "The model server's image", section="Serving"),
    "min_replicas": optional("integer", "Replicas at least", section="Serving", minimum=1),
    "max_replicas": optional("integer", "Replicas at most", section="Serving", minimum=1),
}

DOC = """
### Roll a model out

Opens a canary at 0 %, smoke-tests the new revision at its own address, steps the traffic while comparing errors and
latency of both sides, and promotes or rolls back. The first version of a service goes live after its smoke test.

- **Starts** by hand (`model`, and `version` if not the champion), or when `champion_model` is updated; several events
  become several rollouts. **Emits** `live_model`.
- **`open`** refuses what cannot work before anything is changed, and a second rollout of a service that has one.
- **Both modes of KServe**: Knative by `canaryTrafficPercent`, Standard by `spec.canary` and the HTTPRoute. A KServe
  that does not split traffic is refused before users' traffic is touched; `strategy: rolling` asks nothing of it.
- **`canary`** logs a line for each look. A step with `approval` waits for a person: run `steer_rollout`, which freezes
  and ends rollouts too. Its state stands on the Lease `ml-lifecycle-<model>`: a killed task goes on.
- **`close`** runs whatever happened. After a roll-back the spec names the good version again, `champion` returns to
  `live`, and this run fails with the reason. A first version that fails is no longer champion.
- **`notify`** tells whom the setting `rollout.notifiers` names, whatever the outcome.
- **`publish`** leaves a picture of the evidence over time on the version's MLflow run: `rollout/version-<n>.svg`.
"""


def named(params: dict[str, Any]) -> list[ModelEvent]:
    """The version that the params name; its number is empty for "the champion"."""
    return [ModelEvent(model=params["model"], version=params["version"] or "")] if params["model"] else []


def request_of(event: ModelEvent, params: dict[str, Any]) -> RolloutRequest:
    """What is asked of a rollout: the version, and the settings that it runs under."""
    from ml_lifecycle.kserve.request import RolloutRequest

    settings = read_settings(event.model, overrides(params, SETTINGS))
    version = registered_version(settings, event.version)
    return RolloutRequest.of(settings, version=version.version, run_id=version.run_id)


def registered_version(settings: Settings, version: str) -> ModelVersion:
    """The version, or the champion if none is given; RolloutRefusedError where there is none."""
    from ml_lifecycle.kserve.exceptions import RolloutRefusedError
    from ml_lifecycle.tracking.client import CHAMPION, connect

    with connect(settings.connections.tracking) as tracking:
        found = tracking.version(settings.model, version) if version else tracking.find_alias(settings.model, CHAMPION)
    if found is None:
        raise RolloutRefusedError(f"{settings.model!r} has no champion: run promote_model, or give the param `version`")
    return found


def log_picture(tracking: TrackingClient, report: dict[str, Any]) -> None:
    """The evidence as a picture on the version's MLflow run; a run that is gone must not keep a version from `live`."""
    from ml_lifecycle.exceptions import LifecycleError
    from ml_lifecycle.kserve.picture import draw

    picture = draw(report)
    if not (picture and report["run_id"]):
        return
    try:
        tracking.log_text(report["run_id"], f"rollout/version-{report['version']}.svg", picture)
    except LifecycleError as error:
        log.warning("the rollout has no picture: %s", error)


def tracking_page(request: RolloutRequest) -> str:
    """Address of the version's MLflow run; empty where MLflow does not say: a message must not wait for it."""
    from ml_lifecycle.exceptions import LifecycleError
    from ml_lifecycle.tracking.client import connect

    if not request.run_id:
        return ""
    try:
        with connect(request.connections.tracking) as tracking:
            return tracking.run_url(request.run_id)
    except LifecycleError as error:
        log.warning("the message goes without the MLflow run: %s", error)
        return ""


with DAG(
    "roll_out_model",
    schedule=[CHAMPION_MODEL],
    catchup=False,
    max_active_runs=8,
    params=PARAMS,
    default_args={"owner": "ml-platform", "retries": 2, "retry_delay": timedelta(seconds=15)},
    tags=["ml-lifecycle", "serving"],
    description="Rolls a champion out on KServe by canary, judged on evidence",
    doc_md=DOC,
) as dag:

    @task(inlets=[CHAMPION_MODEL], execution_timeout=timedelta(minutes=5))
    def champions(params: dict[str, Any]) -> list[dict[str, Any]]:
        """What to roll out, one request for each model; settings are refused here.

        What is wrong with one model ends on it: `refused` names it, and the others are rolled out.
        """
        context = get_current_context()
        by_hand = named(params)
        events, refusals = (by_hand, []) if by_hand else incoming_models(CHAMPION_MODEL, context)
        requests = []
        for event in events:
            try:
                requests.append(request_of(event, params).to_json())
            except RefusalError as error:
                log.error("%s is not rolled out: %s", event.model, error)  # noqa: TRY400 - it says all
                refusals.append(f"{event.model}: {error}")
        context["ti"].xcom_push("refused", refusals)
        if not requests and not refusals:
            log.warning("no champion_model event has ever arrived: give the param `model`")
        return requests

    @task(retries=0, execution_timeout=timedelta(minutes=5))
    def refused() -> None:
        """Fails with the reasons why models are not rolled out, if there are any."""
        from airflow.providers.common.compat.sdk import AirflowFailException

        if reasons := get_current_context()["ti"].xcom_pull("champions", key="refused"):
            raise AirflowFailException("; ".join(reasons))

    @task(outlets=[LIVE_MODEL], execution_timeout=timedelta(minutes=5))
    def publish(rollout: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
        """Aliases follow what serves; fails with the reason where that is not the new version."""
        from airflow.providers.common.compat.sdk import AirflowFailException

        from ml_lifecycle.tracking.client import connect
        from ml_lifecycle.tracking.rollout_aliases import follow_rollout

        model, version, outcome = report["model"], report["version"], report["outcome"]
        if outcome != "not_opened":
            with refusing(), connect(rollout["connections"]["tracking"]) as tracking:
                follow_rollout(tracking, report)
                log_picture(tracking, report)
        if outcome != "promoted":
            raise AirflowFailException(f"{model} version {version} {outcome.replace('_', ' ')}: {report['reason']}")
        event = ModelEvent(
            model=model, version=version, run_id=report["run_id"], storage_uri=report["storage_uri"]
        ).model_dump()
        get_current_context()["outlet_events"][LIVE_MODEL].extra = event
        return event

    @task(retries=0, execution_timeout=timedelta(minutes=5))
    def notify(rollout: dict[str, Any], report: dict[str, Any] | None) -> None:
        """Tells whom settings name how it ended; what fails here changes nothing of the outcome."""
        from ml_lifecycle.kserve.message import Links, write
        from ml_lifecycle.kserve.notifiers import run_page, send
        from ml_lifecycle.kserve.request import RolloutRequest

        request = RolloutRequest.model_validate(rollout)
        notifiers = read_settings(request.model).rollout.notifiers
        if not notifiers:
            log.info("rollout.notifiers names nobody to be told")
            return
        closed = report or request.unclosed("the task close failed: see its log")
        context = get_current_context()
        links = Links(airflow=run_page(context), tracking=tracking_page(request))
        send(notifiers, write(closed, links), context)

    @task_group
    def roll_out(rollout: dict[str, Any]) -> None:
        """One model."""
        opened = OpenRolloutOperator(task_id="open", rollout=rollout, retries=LOST_TRIES)
        smoke_test = SmokeTestOperator(
            task_id="smoke_test", rollout=rollout, revision=opened.output, retries=LOST_TRIES
        )
        canary = CanaryOperator(task_id="canary", rollout=rollout, retries=LOST_TRIES)
        closed = CloseRolloutOperator(task_id="close", rollout=rollout, retries=LOST_TRIES)
        opened >> smoke_test >> canary >> closed
        # `open` may fail half-way, and a failed setup skips its teardown: so the setup is the task before it.
        closed.as_teardown(setups=requests.operator, on_failure_fail_dagrun=True)
        published = publish(rollout, closed.output)
        told = notify(rollout, closed.output)
        published >> told
        # A teardown runs whatever happened, and its own failure is seen but does not fail the run.
        told.as_teardown(setups=requests.operator)

    requests = champions()
    requests >> refused()
    roll_out.expand(rollout=requests)
