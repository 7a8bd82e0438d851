"""Train: a ResNet on the prepared dataset, in several processes started by Spark's TorchDistributor.

`spark-submit train.py --specification '<JSON>'`.
"""

from __future__ import annotations

import os
from typing import Any

from spark_jobs import storage
from spark_jobs.exceptions import GpuMissingError, TrainingError
from spark_jobs.job import open_session, run_job, say
from spark_jobs.specification import TrainSpecification, dump

SESSION = {
    # Barrier stages cannot wait for executors that come and go (SPARK-24942).
    "spark.dynamicAllocation.enabled": "false",
}
FAILURE = "failure.json"


def train(specification: TrainSpecification) -> dict[str, Any]:
    """Train a model and report its state's URI."""
    from pyspark.ml.torch.distributor import TorchDistributor

    session = open_session("train", SESSION | _local_paths())
    # With driver and executors in one process a barrier stage adds nothing but the seconds that it takes.
    local = session.sparkContext.master.startswith("local[") or session.sparkContext.master == "local"
    if specification.gpu:
        _require_gpus(session, specification, local=local)
    threads = max(1, _cores() // specification.processes) if local else int(session.conf.get("spark.task.cpus", "1"))
    say(f"{specification.processes} processes of {threads} threads")
    distributor = TorchDistributor(num_processes=specification.processes, local_mode=local, use_gpu=specification.gpu)
    storage.delete(storage.join(specification.checkpoint_uri, FAILURE))
    try:
        result: dict[str, Any] = distributor.run(train_process, dump(specification), threads)
    except Exception as error:  # torchrun fails in one way, a barrier stage in others
        raise _failure(specification, error) from error
    return result


def train_process(specification_text: str, threads: int) -> dict[str, Any]:
    """One training process, which leaves its reason behind when it fails.

    The function travels to it by value, so it imports what it needs; and the driver is spared torch, which takes
    seconds to import.
    """
    from spark_jobs import storage
    from spark_jobs.exceptions import JobError
    from spark_jobs.specification import TrainSpecification, parse
    from spark_jobs.training import run_process

    try:
        return run_process(specification_text, threads)
    except Exception as error:
        uri = storage.join(parse(TrainSpecification, specification_text).checkpoint_uri, "failure.json")
        # The other processes fail when this one does, for no reason of their own.
        if not storage.exists(uri):
            reason = str(error) if isinstance(error, JobError) else f"{type(error).__name__}: {error}"
            storage.write_json(uri, {"reason": reason})
        raise


def _local_paths() -> dict[str, str]:
    """On one host the training processes find the job's code where the driver does; YARN sees to it by itself."""
    on_yarn = "CONTAINER_ID" in os.environ
    return {} if on_yarn else {"spark.executorEnv.PYTHONPATH": os.environ.get("PYTHONPATH", "")}


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _require_gpus(session: Any, specification: TrainSpecification, *, local: bool) -> None:
    if local:
        from spark_jobs.training import choose_device

        choose_device(gpu=True)
    elif not session.conf.get("spark.task.resource.gpu.amount", None):
        raise GpuMissingError(
            f"training.gpu is true for {specification.processes} processes, but Spark hands out no GPUs: set "
            "spark.task.resource.gpu.amount, spark.executor.resource.gpu.amount and a discovery script in "
            "cluster.spark_properties, on compute hosts with a GPU preset; or set training.gpu to false"
        )


def _failure(specification: TrainSpecification, error: Exception) -> TrainingError:
    """The reason that a training process left, because the distributor's own error says only that there is one."""
    uri = storage.join(specification.checkpoint_uri, FAILURE)
    if storage.exists(uri):
        return TrainingError(storage.read_json(uri)["reason"])
    return TrainingError(f"a training process ended without a reason; its output stands above: {error}")


if __name__ == "__main__":
    run_job(TrainSpecification, train)
