"""scale_replicas: once a minute, every MLScaler's target gets the replicas that its forecast load needs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, Param

from ml_lifecycle.scaling.operators import ScaleReplicasOperator

_CONNECTION = (
    "{{{{ var.json.get('ml_lifecycle', {{}}).get('defaults', {{}}).get('connections', {{}}).get('{0}', '{1}') }}}}"
)

with DAG(
    dag_id="scale_replicas",
    description="Sets the replicas of every service that has a MLScaler, by forecast",
    doc_md="""
### Scale replicas

Each `MLScaler` (ml-lifecycle.io/v1alpha1) names a target, a load metric and what one replica carries. Once a minute
this DAG reads the load's history from Prometheus, forecasts the highest load of the time a replica needs to become
ready, and sets the target's replicas; the result stands on the scaler's status (`kubectl get mlscalers -o wide`) and
in the log as a table.

It leaves a service alone while a rollout holds its Lease or a canary is open, and where an HPA, a KEDA ScaledObject or
a second MLScaler scales the same target. Missing, stale or NaN metrics never take a replica away.

With `pictures` it draws each scaler's last day into a folder: what to look at before a scaler goes from `dryRun` to
`auto`.

`passes` and `interval_seconds` run several passes in one task, for services whose replicas start within seconds.
""",
    schedule="* * * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=1),
    default_args={"owner": "ml-platform", "retries": 0},
    tags=["ml-lifecycle", "scaling"],
    params={
        "dry_run": Param(None, type=["null", "boolean"], description="decide and log, write nothing"),
        "namespace": Param(
            None,
            type=["null", "string"],
            pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$",
            description="only this namespace; all if not given",
        ),
        "passes": Param(
            None, type=["null", "integer"], minimum=1, maximum=600, description="passes in this run; 1 if not given"
        ),
        "interval_seconds": Param(
            None, type=["null", "number"], minimum=1, maximum=60, description="time between two passes; 5 if not given"
        ),
        "pictures": Param(
            None,
            type=["null", "string"],
            pattern=r"^(s3|file)://.+",
            description="folder below the data lake for a picture of each scaler's last day: load, forecast, replicas; "
            "none if not given",
        ),
    },
) as dag:
    ScaleReplicasOperator(
        task_id="scale_replicas",
        kubernetes_conn_id=_CONNECTION.format("kubernetes", "kubernetes_default"),
        prometheus_conn_id=_CONNECTION.format("prometheus", "prometheus_default"),
        namespaces="{{ params.namespace or '' }}",
        dry_run="{{ params.dry_run or False }}",
        passes="{{ params.passes or 1 }}",
        interval_seconds="{{ params.interval_seconds or 5 }}",
        history_cache=(
            "{{ var.json.get('ml_lifecycle', {}).get('defaults', {}).get('scaling', {}).get('history_cache', '') }}"
        ),
        own_queries=(
            "{{ var.json.get('ml_lifecycle', {}).get('defaults', {}).get('scaling', {}).get('own_queries') | tojson }}"
        ),
        pictures="{{ params.pictures or '' }}",
        pictures_below="{{ var.json.get('ml_lifecycle', {}).get('defaults', {}).get('data_lake', '') }}",
        storage_conn_id=_CONNECTION.format("storage", "aws_default"),
        execution_timeout=timedelta(hours=1),
    )
