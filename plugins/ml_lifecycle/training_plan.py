"""What one training run will be called, cost and do, decided before anything is created. Pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ml_lifecycle.data_lake.layout import GPU_SCRIPT, JOB_ARCHIVE, Layout, join, spark_uri
from ml_lifecycle.dataproc import cost
from ml_lifecycle.dataproc.cluster import cluster_name
from ml_lifecycle.dataproc.job import environment_properties
from ml_lifecycle.dataproc.names import digest
from ml_lifecycle.settings import Settings

# Yandex's families of hosts without GPU: s3-c4-m16, m3-c4-m32, c3-…, b3-…, hm3-…, i3-…
CPU_PRESET = re.compile(r"(b|c|hm|i|m|s)\d")


@dataclass(frozen=True)
class TrainingRun:
    """The facts of a run that settings do not hold. `job_code` and `environment` are URIs in the data lake."""

    dag_id: str
    dag_run_id: str
    tracking_uri: str
    run_id: str
    job_code: str
    environment: str | None
    champion: Mapping[str, str] | None


def plan_training(settings: Settings, run: TrainingRun) -> dict[str, Any]:
    """Everything that the tasks after `prepare` template, as flat JSON; holds no secret."""
    key = digest(run.dag_id, run.dag_run_id)
    lives = cost.time_to_live_hours(settings.cluster, settings.cost)
    plan: dict[str, Any] = {
        "model": settings.model,
        "run_id": run.run_id,
        "connections": settings.connections.model_dump(mode="json"),
        "yandex_conn_id": settings.connections.yandex,
        "data_lake": settings.data_lake,
        "data_lake_conn_id": settings.connections.storage,
        "cluster": settings.cluster.model_dump(mode="json") | {"time_to_live_hours": lives},
        "cluster_name": cluster_name(settings.model, run.dag_id, run.dag_run_id),
        "folder_id": settings.cluster.folder_id,
        "labels": {"model": settings.model},
        "hourly_price": asdict(cost.hourly_price(settings.cluster, settings.cost)),
        "create_timeout_minutes": settings.cluster.create_timeout_minutes,
        "job_timeout_minutes": settings.cluster.job_timeout_minutes,
        "poll_seconds": settings.cluster.poll_seconds,
        "python_files": [spark_uri(join(run.job_code, JOB_ARCHIVE))],
        "train_files": [spark_uri(join(run.job_code, GPU_SCRIPT))] if settings.training.gpu else [],
        "results": Layout(settings.data_lake).results(key),
    }
    for job, known in _jobs(settings, run).items():
        plan[f"{job}_name"] = f"{job}-{key}"
        plan[f"{job}_file"] = spark_uri(join(run.job_code, f"{job}.py"))
        plan[f"{job}_properties"] = properties(settings, run.environment) | (_slots(settings) if job == "train" else {})
        plan[f"{job}_specification"] = known
    return plan


def plan_digest(settings: Settings) -> str:
    """Changes with every setting that a training cannot change on its way, as the train job knows them too."""
    dataset = settings.dataset.model_dump(mode="json", exclude={"name", "max_corrupt"})
    training = settings.training.model_dump(mode="json", exclude={"loader_workers", "checkpoint_minutes", "gpu"})
    return digest(settings.dataset_name, json.dumps([dataset, training], sort_keys=True))


def cost_tags(settings: Settings) -> dict[str, str]:
    """What the MLflow run says of its cost before there is any."""
    expected = cost.expected_cost(settings.cluster, settings.cost)
    estimate = str(expected) if expected.most is None else f"{expected.most:.2f}"
    return {"cost.estimate": estimate, "cost.currency": settings.cost.currency}


def specification(known: Mapping[str, Any], result_uri: str, found: Mapping[str, Any]) -> str:
    """A job's JSON: what was known before, and what the jobs before it `found`."""
    return json.dumps({**known, **found, "result_uri": spark_uri(result_uri)})


def candidate_tags(ingest: Mapping[str, Any], evaluation: Mapping[str, Any]) -> dict[str, str]:
    """What a version carries of its data and its evaluation, for people."""
    champion = evaluation.get("champion") or {}
    return {
        **{key: str(ingest[key]) for key in ("images", "corrupt", "duplicates")},
        "compared_with": str(champion.get("version", "none")),
        "holdout_accuracy": f"{evaluation['accuracy']:.6g}",
        "holdout_loss": f"{evaluation['loss']:.6g}",
        "holdout_images": str(evaluation["holdout_images"]),
    }


def properties(settings: Settings, environment: str | None) -> dict[str, str]:
    """Spark properties of every job; the setting `cluster.spark_properties` has the last word."""
    shipped = environment_properties(environment and spark_uri(environment))
    return shipped | settings.cluster.spark_properties


def slot_problems(settings: Settings, cores: Mapping[str, int]) -> list[str]:
    """Why the hosts cannot hold the training processes; cores: of a host, by resource preset."""
    cluster, training = settings.cluster, settings.training
    preset = cluster.compute.preset
    found = []
    on_each = _processes_on_each(settings)
    if on_each > cores.get(preset, on_each):
        found.append(
            f"training.processes = {training.processes} on cluster.compute_hosts = {cluster.compute_hosts}: {on_each} "
            f"on each, but cluster.compute.preset = {preset!r} has {cores[preset]} cores, and training would wait for "
            "ever; name a larger preset, more hosts, or fewer processes"
        )
    if training.gpu and CPU_PRESET.match(preset):
        found.append(
            f"training.gpu is true, but cluster.compute.preset = {preset!r} is a preset without GPU; name one that has "
            "GPUs (g1.small, or what Yandex offers in your folder), or set training.gpu to false"
        )
    return found


def _processes_on_each(settings: Settings) -> int:
    hosts = min(settings.cluster.compute_hosts, settings.training.processes)
    return math.ceil(settings.training.processes / hosts)


def _slots(settings: Settings) -> dict[str, str]:
    """A barrier stage needs all its slots at once and refuses dynamic allocation (SPARK-24942, SPARK-24819)."""
    on_each = _processes_on_each(settings)
    found = {
        "spark.dynamicAllocation.enabled": "false",
        "spark.executor.instances": str(min(settings.cluster.compute_hosts, settings.training.processes)),
        "spark.executor.cores": str(on_each),
        "spark.task.cpus": "1",
    }
    if settings.training.gpu:
        # YARN tells an executor nothing of its GPUs, and makes every file that it brings executable.
        found |= {
            "spark.executor.resource.gpu.amount": str(on_each),
            "spark.executor.resource.gpu.discoveryScript": f"./{GPU_SCRIPT}",
            "spark.task.resource.gpu.amount": "1",
        }
    return found | settings.cluster.spark_properties


def _jobs(settings: Settings, run: TrainingRun) -> dict[str, dict[str, Any]]:
    """Each job's specification, as far as it is known before the first job has run."""
    lake = Layout(settings.data_lake)
    dataset, training = settings.dataset, settings.training
    secret = {"secret_id": settings.cluster.secret_id}
    image = {"image_size": dataset.image_size, "channels": dataset.channels}
    tracking = {"tracking_uri": run.tracking_uri, "run_id": run.run_id}
    champion = run.champion and {**run.champion, "storage_uri": spark_uri(run.champion["storage_uri"])}
    return {
        "ingest": {
            "dataset_uri": spark_uri(lake.dataset(settings.dataset_name)),
            "prepared_base_uri": spark_uri(lake.prepared(settings.dataset_name)),
            "holdout": dataset.holdout,
            "max_corrupt": dataset.max_corrupt,
            "shard_rows": dataset.shard_rows,
            "encoding": dataset.encoding,
            **image,
            **secret,
        },
        "train": {
            "checkpoint_uri": spark_uri(lake.checkpoints(run.run_id)),
            **training.model_dump(mode="json"),
            **tracking,
            **image,
            **secret,
        },
        "evaluate": {
            "model": settings.model,
            "champion": champion,
            "batch_size": training.batch_size,
            **tracking,
            **image,
            **secret,
        },
    }
