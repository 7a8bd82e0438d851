"""A person's word to an open rollout: let it go on, freeze it, end it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, get_current_context, task

from ml_lifecycle.kserve.operators import SteerRolloutOperator
from ml_lifecycle.params import NAMESPACE, optional, overrides, refusing, required

ACTIONS = {
    "approve": "let a step go on that waits for approval",
    "freeze": "leave the traffic as it is; the looks go on, and a bad verdict still rolls back",
    "resume": "end a freeze",
    "roll_back": "end it now, all traffic to the stable version",
    "promote": "end it now, all traffic to the new version, whatever the evidence says",
}

SETTINGS = {"namespace": "serving.namespace"}

PARAMS = {
    "model": optional("string", "The model whose rollout is open; needed"),
    "action": Param("approve", type="string", enum=list(ACTIONS), values_display=ACTIONS, description="What to do"),
    "reason": optional("string", "Why; it stands in the report and on the version's tags", minLength=1),
    "namespace": optional("string", "Namespace of the InferenceService; null: that of the settings", pattern=NAMESPACE),
}

DOC = """
### Steer a rollout

Leaves an order for the open rollout of `model`, which it obeys at its next look; so a rollout is approved, frozen and
ended from Airflow's own pages, by whoever may trigger this DAG.

- **approve**: a step with `approval` in `rollout.steps` goes on. **freeze** / **resume**: no step up and no promotion
  until resumed, and no deadline meanwhile; the verdict `roll_back` still acts.
- **roll_back** / **promote**: decided now, with who and why as the reason.
- Refused where no rollout of the model is open. To leave a version that is live already, run `roll_back_model`.
"""

with DAG(
    "steer_rollout",
    schedule=None,
    catchup=False,
    params=PARAMS,
    default_args={"owner": "ml-platform", "retries": 1, "retry_delay": timedelta(seconds=5)},
    tags=["ml-lifecycle", "serving"],
    description="Approves, freezes or ends an open rollout",
    doc_md=DOC,
) as dag:

    @task(execution_timeout=timedelta(minutes=5))
    def order(params: dict[str, Any]) -> dict[str, str]:
        """What is ordered, by whom, and where."""
        from ml_lifecycle.settings_variable import read_settings

        with refusing():
            settings = read_settings(required(params, "model"), overrides(params, SETTINGS))
        run = get_current_context()["dag_run"]
        return {
            "kubernetes_conn_id": settings.connections.kubernetes,
            "namespace": settings.serving.namespace,
            "by": getattr(run, "triggering_user_name", None) or run.run_id,
            "reason": params["reason"] or "",
        }

    ordered = order()
    SteerRolloutOperator(
        task_id="steer",
        model="{{ params.model }}",
        action="{{ params.action }}",
        kubernetes_conn_id=ordered["kubernetes_conn_id"],
        namespace=ordered["namespace"],
        by=ordered["by"],
        reason=ordered["reason"],
    )
