"""Train: a ResNet on the prepared dataset, in several processes started by Spark's TorchDistributor.

`spark-submit train.py --specification '<JSON>'`.
"""

from __future__ import annotations

import os
from typing import Any

from spark_jobs.exceptions import GpuMissingError, JobError, TrainingError
from spark_jobs.job import open_session, run_job, say
from spark_jobs.specification import TrainSpecification, dump

SESSION = {
    # Barrier stages cannot wait for executors that come and go (SPARK-24942).
    "spark.dynamicAllocation.enabled": "false",
}
REASONS = tuple(f"{kind.__name__}: " for kind in JobError.__subclasses__())


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
    try:
        result: dict[str, Any] = distributor.run(train_process, dump(specification), threads)
    except RuntimeError as error:
        raise _explained(error) from error
    return result


def train_process(specification_text: str, threads: int) -> dict[str, Any]:
    """One training process; the driver itself has no need of torch, which takes seconds to import."""
    from spark_jobs.training import run_process

    return run_process(specification_text, threads)


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


def _explained(error: RuntimeError) -> JobError:
    """The reason that a training process gave, if it gave one, else all that torchrun printed."""
    for line in str(error).splitlines():
        start = line.find("spark_jobs.exceptions.")
        text = line[start + len("spark_jobs.exceptions.") :]
        if start >= 0 and text.startswith(REASONS):
            return TrainingError(text)
    return TrainingError(str(error))


if __name__ == "__main__":
    run_job(TrainSpecification, train)
