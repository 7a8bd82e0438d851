"""Returns a service to an earlier version at once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, get_current_context, task

from ml_lifecycle.assets import LIVE_MODEL, ModelEvent
from ml_lifecycle.deferral import LOST_TRIES
from ml_lifecycle.kserve.operators import RollBackOperator
from ml_lifecycle.params import NAMESPACE, optional, optional_version, overrides, refusing, required

SETTINGS = {"namespace": "serving.namespace", "image": "serving.image"}

PARAMS = {
    "model": optional("string", "Registered model and InferenceService; needed"),
    "version": optional_version("Version to return to; null: the one that was live before"),
    "reason": optional("string", "Why; it stands on the version's tags", minLength=1),
    "namespace": optional("string", "Namespace of the InferenceService", section="Serving", pattern=NAMESPACE),
    "image": optional("string", "The model server's image", section="Serving"),
}

DOC = """
### Roll a model back

For a live version that turns out bad: returns the service to an earlier one now, without canary and smoke test.

- **Which**: `version`, or the one that was live before. Its serving files must still exist: checked before anything is
  changed.
- **How**: where Knative still has the revision before, traffic goes back to it first, within seconds; then the spec
  names the version again. Else, and in Standard mode, KServe starts it and moves the traffic once it is ready.
- **After**: `live` and `champion` name the version that serves again; **emits** `live_model`.
- An open rollout is ended by `steer_rollout` with the action `roll_back`, not here.
"""

with DAG(
    "roll_back_model",
    schedule=None,
    catchup=False,
    max_active_runs=8,
    params=PARAMS,
    default_args={"owner": "ml-platform", "retries": 2, "retry_delay": timedelta(seconds=5)},
    tags=["ml-lifecycle", "serving"],
    description="Returns a service to an earlier version at once",
    doc_md=DOC,
) as dag:

    @task(execution_timeout=timedelta(minutes=5))
    def earlier(params: dict[str, Any]) -> dict[str, Any]:
        """The request of the version to return to."""
        from ml_lifecycle.kserve.request import RolloutRequest
        from ml_lifecycle.settings_variable import read_settings
        from ml_lifecycle.tracking.rollout_aliases import earlier_version

        with refusing():
            settings = read_settings(required(params, "model"), overrides(params, SETTINGS))
            version = earlier_version(settings.connections.tracking, settings.model, params["version"])
            request = RolloutRequest.of(settings, version=version.version, run_id=version.run_id)
        return request.to_json()

    @task(outlets=[LIVE_MODEL], execution_timeout=timedelta(minutes=5))
    def publish(rollout: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
        """Aliases follow what serves."""
        from ml_lifecycle.tracking.client import connect
        from ml_lifecycle.tracking.rollout_aliases import follow_rollout

        with refusing(), connect(rollout["connections"]["tracking"]) as tracking:
            follow_rollout(tracking, report)
        event = ModelEvent(
            model=rollout["model"],
            version=rollout["version"],
            run_id=rollout["run_id"],
            storage_uri=rollout["storage_uri"],
        ).model_dump()
        get_current_context()["outlet_events"][LIVE_MODEL].extra = event
        return event

    target = earlier()
    returned = RollBackOperator(
        task_id="roll_back",
        rollout=target,
        reason="{{ params.reason or 'rolled back by hand: ' ~ run_id }}",
        retries=LOST_TRIES,
    )
    publish(target, returned.output)
