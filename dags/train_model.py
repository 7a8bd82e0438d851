"""Trains a model on a Data Processing cluster that lives no longer than the training."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, AssetAlias, Param, get_current_context, task

from ml_lifecycle.assets import CANDIDATE_MODEL, RETRAIN_REQUEST, ModelEvent, requested_models
from ml_lifecycle.dataproc.operators import (
    DeleteClusterOperator,
    PysparkJobOperator,
    SubmitClusterOperator,
    WaitForClusterOperator,
)
from ml_lifecycle.deferral import LOST_TRIES
from ml_lifecycle.params import optional, overrides, refusing
from ml_lifecycle.settings import Settings
from ml_lifecycle.settings_variable import read_settings
from ml_lifecycle.tracking.links import RUN_URL, MlflowRunLink
from ml_lifecycle.training_plan import (
    TrainingRun,
    candidate_tags,
    cost_tags,
    plan_digest,
    plan_training,
    slot_problems,
    specification,
)

if TYPE_CHECKING:
    from ml_lifecycle.data_lake.client import DataLake

log = logging.getLogger(__name__)

# A run trains one model; requests for others that arrived with it are passed on to the next run.
LEFT_REQUESTS = AssetAlias("retrain_requests_left")

SETTINGS = {
    "dataset": "dataset.name",
    "image_size": "dataset.image_size",
    "channels": "dataset.channels",
    "holdout": "dataset.holdout",
    "max_corrupt": "dataset.max_corrupt",
    "encoding": "dataset.encoding",
    "epochs": "training.epochs",
    "fraction": "training.fraction",
    "batch_size": "training.batch_size",
    "accumulation": "training.accumulation",
    "learning_rate": "training.learning_rate",
    "label_smoothing": "training.label_smoothing",
    "class_weights": "training.class_weights",
    "flip": "training.flip",
    "shift": "training.shift",
    "validation": "training.validation",
    "patience": "training.patience",
    "processes": "training.processes",
    "width": "training.width",
    "depth": "training.depth",
    "initial_state": "training.initial_state",
    "precision": "training.precision",
    "seed": "training.seed",
    "gpu": "training.gpu",
    "compute_hosts": "cluster.compute_hosts",
    "compute_preset": "cluster.compute.preset",
    "preemptible": "cluster.preemptible",
    "cost_limit": "cost.limit",
    "experiment": "experiment",
}

PARAMS = {
    "model": Param("digits", type="string", description="Registered model; also the default name of its data set"),
    "dataset": optional("string", "Folder below datasets/ in the data lake", section="Data"),
    "image_size": optional("integer", "Side of the square that the model sees, pixels", section="Data", minimum=8),
    "channels": optional("integer", "1 for grey, 3 for colour", section="Data", enum=[None, 1, 3]),
    "holdout": optional("number", "Share of files held out", section="Data", exclusiveMinimum=0, exclusiveMaximum=1),
    "max_corrupt": optional("number", "Share of unreadable files tolerated", section="Data", minimum=0, maximum=1),
    "encoding": optional("string", "What shards hold", section="Data", enum=[None, "pixels", "files"]),
    "epochs": optional("integer", "Passes over the training split", section="Training", minimum=1),
    "fraction": optional("number", "Share of the training split used", section="Training", maximum=1),
    "batch_size": optional("integer", "Images a process sees in one step", section="Training", minimum=1),
    "accumulation": optional("integer", "Batches whose gradients make one step", section="Training", minimum=1),
    "learning_rate": optional("number", "Peak learning rate", section="Training", exclusiveMinimum=0),
    "label_smoothing": optional("number", "Share of a label given to all", section="Training", minimum=0, maximum=0.9),
    "class_weights": optional("string", "Weights in the loss", section="Training", enum=[None, "none", "balanced"]),
    "flip": optional("boolean", "Mirror half of the images", section="Training"),
    "shift": optional("number", "Move images by up to this share", section="Training", minimum=0, maximum=0.5),
    "validation": optional("number", "Share kept back for early stopping", section="Training", minimum=0, maximum=0.5),
    "patience": optional("integer", "Epochs without a better validation loss", section="Training", minimum=1),
    "processes": optional("integer", "Training processes over all hosts", section="Training", minimum=1),
    "width": optional("integer", "Channels of the network's first stage", section="Training", minimum=4),
    "depth": optional("integer", "Residual blocks in a stage", section="Training", minimum=1, maximum=50),
    "initial_state": optional("string", "URI of a trained state to start from", section="Training"),
    "precision": optional(
        "string", "Of the forward pass", section="Training", enum=[None, "auto", "float32", "bfloat16", "float16"]
    ),
    "seed": optional("integer", "Seed of initialisation and shuffling", section="Training", minimum=0),
    "gpu": optional("boolean", "Train on GPUs", section="Training"),
    "compute_hosts": optional("integer", "Compute hosts", section="Cluster", minimum=1, maximum=32),
    "compute_preset": optional("string", "Resource preset of the compute hosts", section="Cluster"),
    "preemptible": optional("boolean", "Cheaper hosts that may be taken away", section="Cluster"),
    "cost_limit": optional(
        "number", "A run that would cost more is refused or ended", section="Cluster", exclusiveMinimum=0
    ),
    "experiment": optional("string", "MLflow experiment", section="Tracking"),
}

DOC = """
### Train a model

Creates a Data Processing cluster, prepares the data set, trains, evaluates on the hold-out beside the reigning
champion, and registers the version in MLflow under the alias `challenger`. The cluster is deleted whatever happened.

- **Starts** by hand, or when `retrain_request` is updated. **Emits** `candidate_model`, which starts `promote_model`.
- **Params** override the settings of the model for this run; null means "not given".
- **`prepare`** refuses bad settings, a missing or one-class data set and unreachable services before anything is made.
- **Cost**: `prepare` logs the estimate and refuses a run above `cost_limit`; `close_run` puts the real figure on the
  MLflow run (metric `cost`), and marks the run failed where it failed. What a crash leaves, `clean_up` deletes in time.
"""


async def check_cluster(settings: Settings) -> None:
    """ClusterRefusedError if the cloud would refuse the cluster, UnavailableError within seconds if it is away."""
    from ml_lifecycle.dataproc.client import BackOff, connect
    from ml_lifecycle.dataproc.cluster import problems
    from ml_lifecycle.dataproc.cost import describe, refusal
    from ml_lifecycle.dataproc.exceptions import ClusterRefusedError

    log.info(describe(settings.cluster, settings.cost))
    async with connect(settings.connections.yandex, BackOff(patience=20)) as cloud:
        account = settings.cluster.service_account_id or cloud.service_account_id
        cluster = settings.cluster.model_copy(update={"service_account_id": account})
        folder = cluster.folder_id or cloud.folder_id
        presets = await cloud.list_presets()
    found = problems(cluster, "ml-lifecycle", {}, folder, presets)
    found += slot_problems(settings, {preset.id: preset.cores for preset in presets})
    if too_dear := refusal(settings.cluster, settings.cost):
        found.append(too_dear)
    if found:
        raise ClusterRefusedError(found)


def reigning(lake: DataLake, model: str, version: str) -> dict[str, str] | None:
    """The champion that the candidate is compared with, its files read once; None where it was never published."""
    from ml_lifecycle.data_lake.exceptions import NotPublishedError
    from ml_lifecycle.data_lake.published import published

    try:
        published(lake, model, version)
    except NotPublishedError as error:
        log.warning("nothing to compare with: %s", error)
        return None
    return {"version": version, "storage_uri": lake.layout.serving_files(model, version)}


def job(name: str, found: str = "{}") -> PysparkJobOperator:
    """A Spark job, whose specification is the one known in `prepare` and what earlier jobs `found`."""
    result = f"ti.xcom_pull('prepare', key='results') ~ '/' ~ ti.xcom_pull('submit_cluster') ~ '/{name}.json'"
    known = f"ti.xcom_pull('prepare', key='{name}_specification')"
    return PysparkJobOperator(
        task_id=name,
        cluster_id=submit_cluster.output,
        job_name=plan[f"{name}_name"],
        main_python_file_uri=plan[f"{name}_file"],
        python_file_uris=plan["python_files"],
        file_uris=plan["train_files"] if name == "train" else (),
        args=["--specification", f"{{{{ specification({known}, {result}, {found}) }}}}"],
        properties=plan[f"{name}_properties"],
        result_uri=f"{{{{ {result} }}}}",
        data_lake_conn_id=plan["data_lake_conn_id"],
        yandex_conn_id=plan["yandex_conn_id"],
        poll_seconds=plan["poll_seconds"],
        timeout_minutes=plan["job_timeout_minutes"],
        retries=LOST_TRIES,
    )


with DAG(
    "train_model",
    schedule=[RETRAIN_REQUEST],
    catchup=False,
    max_active_runs=8,
    params=PARAMS,
    default_args={"owner": "ml-platform", "retries": 1, "retry_delay": timedelta(seconds=15)},
    user_defined_macros={"specification": specification},
    tags=["ml-lifecycle", "training"],
    description="Trains a model on a cluster of its own and registers the version as challenger",
    doc_md=DOC,
) as dag:

    @task(multiple_outputs=True, outlets=[LEFT_REQUESTS], execution_timeout=timedelta(hours=1))
    def prepare(params: dict[str, Any]) -> dict[str, Any]:
        """Validate everything, upload the job code, start the MLflow run, plan the rest."""
        from ml_lifecycle.data_lake.client import DataLake
        from ml_lifecycle.data_lake.job_code import (
            check_environment,
            code_version,
            pack_job_code,
            upload_environment,
            upload_job_code,
        )
        from ml_lifecycle.tracking.client import CHAMPION, connect

        context = get_current_context()
        model, *left = requested_models(context) or [params["model"]]
        with refusing():
            settings = read_settings(model, overrides(params, SETTINGS))
            lake = DataLake(settings.data_lake, settings.connections.storage)
            classes = lake.check_dataset(settings.dataset_name)
            check_environment(settings.cluster.environment)
            asyncio.run(check_cluster(settings))
        with connect(settings.connections.tracking) as tracking:
            job_code = upload_job_code(lake, pack_job_code())
            environment = upload_environment(lake, settings.cluster.environment)
            dag_run = context["dag_run"]
            champion = tracking.find_alias(model, CHAMPION)
            served = reigning(lake, model, champion.version) if champion else None
            run = tracking.start_run(
                settings.experiment,
                dag_id=dag_run.dag_id,
                dag_run_id=dag_run.run_id,
                name=f"{model} {dag_run.run_id}",
                tags={"model": model, "dataset": settings.dataset_name, "mlflow.source.git.commit": code_version()},
                plan=plan_digest(settings),
            )
            tracking.tag_run(run.run_id, cost_tags(settings))
        log.info("%s: classes %s; MLflow run %s", settings.dataset_name, ", ".join(classes), run.url)
        context["ti"].xcom_push(RUN_URL, run.url)
        for other in left:
            context["outlet_events"][LEFT_REQUESTS].add(RETRAIN_REQUEST, extra={"model": other})
        facts = TrainingRun(
            dag_id=dag_run.dag_id,
            dag_run_id=dag_run.run_id,
            tracking_uri=tracking.uri,
            run_id=run.run_id,
            job_code=job_code,
            environment=environment,
            champion=served,
        )
        return plan_training(settings, facts)

    @task(outlets=[CANDIDATE_MODEL], execution_timeout=timedelta(minutes=15))
    def register(plan: dict[str, Any], ingested: dict[str, Any], evaluation: dict[str, Any]) -> dict[str, Any]:
        """Keep the evaluation for the gate, register the version under the alias challenger and tell promote_model."""
        from ml_lifecycle.data_lake.client import DataLake
        from ml_lifecycle.data_lake.published import keep_evaluation
        from ml_lifecycle.tracking.client import CHALLENGER, connect

        model, run_id = plan["model"], plan["run_id"]
        asked_by = getattr(get_current_context()["dag_run"], "triggering_user_name", None) or ""
        keep_evaluation(DataLake(plan["data_lake"], plan["data_lake_conn_id"]), run_id, evaluation, asked_by=asked_by)
        with connect(plan["connections"]["tracking"]) as tracking:
            version = tracking.register_version(
                model, run_id=run_id, source=evaluation["model_uri"], tags=candidate_tags(ingested, evaluation)
            )
            tracking.set_alias(model, CHALLENGER, version.version)
            log.info(
                "%s version %s is challenger: %s", model, version.version, tracking.version_url(model, version.version)
            )
        event = ModelEvent(
            model=model,
            version=version.version,
            run_id=run_id,
            metrics={"accuracy": evaluation["accuracy"], "loss": evaluation["loss"]},
        )
        get_current_context()["outlet_events"][CANDIDATE_MODEL].extra = event.model_dump()
        return event.model_dump()

    @task(execution_timeout=timedelta(minutes=15))
    def close_run() -> None:
        """Log the cost and end the MLflow run: finished if the version was registered, else failed."""
        from ml_lifecycle.tracking.client import connect
        from ml_lifecycle.tracking.run_cost import record_cost

        context = get_current_context()
        pull, run = context["ti"].xcom_pull, context["dag_run"]
        begun = pull("prepare")
        with connect(begun["connections"]["tracking"]) as tracking:
            record_cost(tracking, begun["run_id"], pull("delete_cluster"))
            if pull("register") is not None:
                tracking.end_run(begun["run_id"])
            else:
                reason = f"Airflow run {run.run_id} of {run.dag_id} failed; its task log says why"
                tracking.fail_run(begun["run_id"], reason)

    plan = prepare()
    plan.operator.operator_extra_links = (MlflowRunLink(),)
    submit_cluster = SubmitClusterOperator(
        task_id="submit_cluster",
        cluster=plan["cluster"],
        cluster_name=plan["cluster_name"],
        labels=plan["labels"],
        yandex_conn_id=plan["yandex_conn_id"],
        poll_seconds=plan["poll_seconds"],
    )
    wait_for_cluster = WaitForClusterOperator(
        task_id="wait_for_cluster",
        cluster_id=submit_cluster.output,
        operation_id=submit_cluster.output["operation_id"],
        timeout_minutes=plan["create_timeout_minutes"],
        yandex_conn_id=plan["yandex_conn_id"],
        poll_seconds=plan["poll_seconds"],
        retries=LOST_TRIES,
    )
    ingest = job("ingest")
    train = job("train", "{'prepared_uri': ti.xcom_pull('ingest')['prepared_uri']}")
    evaluate = job(
        "evaluate",
        "{'prepared_uri': ti.xcom_pull('ingest')['prepared_uri'], 'state_uri': ti.xcom_pull('train')['state_uri']}",
    )
    delete_cluster = DeleteClusterOperator(
        task_id="delete_cluster",
        cluster_id=submit_cluster.output,
        cluster_name=plan["cluster_name"],
        folder_id=plan["folder_id"],
        created_at="{{ ti.xcom_pull('submit_cluster', key='created_at') or '' }}",
        hourly_price=plan["hourly_price"],
        yandex_conn_id=plan["yandex_conn_id"],
        poll_seconds=plan["poll_seconds"],
        retries=LOST_TRIES,
    )
    registered = register(plan, ingest.output, evaluate.output)

    plan >> submit_cluster >> wait_for_cluster >> ingest >> train >> evaluate >> delete_cluster
    # `prepare` is a setup too: a failed setup alone would keep the teardown from running, and a submission that
    # failed half-way may have made a cluster. The wait is one so that a job cleared on its own waits for a new cluster.
    setups = [plan.operator, submit_cluster, wait_for_cluster]
    delete_cluster.as_teardown(setups=setups, on_failure_fail_dagrun=True)
    [registered, delete_cluster] >> close_run().as_teardown(setups=[plan.operator])
