"""Train: a ResNet on the prepared dataset, in several processes started by Spark's TorchDistributor.

`spark-submit train.py --specification '<JSON>'`.
"""

from __future__ import annotations

import os
import time
from typing import Any

from spark_jobs import storage
from spark_jobs.exceptions import FileMissingError, GpuMissingError, StorageError, TrainingError
from spark_jobs.job import open_session, run_job, say
from spark_jobs.specification import TrainSpecification, dump

SESSION = {
    # Barrier stages cannot wait for executors that come and go (SPARK-24942).
    "spark.dynamicAllocation.enabled": "false",
}
FAILURE = "failure.json"
GPU_AMOUNT = "spark.task.resource.gpu.amount"
# Executors come one by one, some minutes after the hosts of an autoscaled subcluster.
SLOT_SECONDS = 300.0


def train(specification: TrainSpecification) -> dict[str, Any]:
    """Train a model and report its state's URI."""
    from pyspark.ml.torch.distributor import TorchDistributor

    session = open_session("train", SESSION | _local_paths())
    # With driver and executors in one process a barrier stage adds nothing but the seconds that it takes.
    local = session.sparkContext.master.startswith("local[") or session.sparkContext.master == "local"
    if specification.gpu:
        _require_gpus(session, specification.processes, local=local)
    if not local:
        _wait_for_slots(session, specification.processes)
    say(f"{specification.processes} training processes")
    # On this host alone the processes share the GPUs out by themselves.
    gpu = specification.gpu and not local
    distributor = TorchDistributor(num_processes=specification.processes, local_mode=local, use_gpu=gpu)
    storage.delete(storage.join(specification.checkpoint_uri, FAILURE))
    try:
        result: dict[str, Any] = distributor.run(train_process, dump(specification))
    except Exception as error:  # torchrun fails in one way, a barrier stage in others
        raise _failure(specification, error) from error
    return result


def train_process(specification_text: str) -> dict[str, Any]:
    """One training process, which leaves its reason behind when it fails.

    The function travels to it by value, so it imports what it needs; and the driver is spared torch, which takes
    seconds to import.
    """
    from spark_jobs import storage
    from spark_jobs.exceptions import JobError, PreemptedError, StorageError, StorageUnreachableError, TrainingError
    from spark_jobs.specification import TrainSpecification, parse
    from spark_jobs.training import run_process

    uri = storage.join(parse(TrainSpecification, specification_text).checkpoint_uri, "failure.json")
    if storage.exists(uri) and storage.read_json(uri)["final"]:
        # Spark starts a failed barrier stage again, which helps where a host was lost, and not here.
        raise TrainingError(storage.read_json(uri)["reason"])
    try:
        return run_process(specification_text)
    except Exception as error:
        final = isinstance(error, JobError) and not isinstance(error, (PreemptedError, StorageUnreachableError))
        reason = str(error) if isinstance(error, JobError) else f"{type(error).__name__}: {error}"
        try:
            # The other processes fail when this one does, for no reason of their own.
            if final or not storage.exists(uri):
                storage.write_json(uri, {"reason": reason, "final": final})
        except StorageError as unheard:
            print(f"the reason could not be left for the driver ({unheard}): {reason}", flush=True)
        raise


def _local_paths() -> dict[str, str]:
    """On one host the training processes find the job's code where the driver does; YARN sees to it by itself."""
    on_yarn = "CONTAINER_ID" in os.environ
    return {} if on_yarn else {"spark.executorEnv.PYTHONPATH": os.environ.get("PYTHONPATH", "")}


def _require_gpus(session: Any, processes: int, *, local: bool) -> None:
    if local:
        from spark_jobs.device import require_gpus

        require_gpus(processes)
    # TorchDistributor makes too few tasks where one has several GPUs, and they wait for the others (SPARK-41916).
    elif (amount := session.conf.get(GPU_AMOUNT, None)) != "1":
        raise GpuMissingError(
            f"training.gpu is true for {processes} processes, but {GPU_AMOUNT} is {amount or 'not set'}: set it to 1, "
            "and spark.executor.resource.gpu.amount and a discovery script, in cluster.spark_properties, on compute "
            "hosts with a GPU preset; or set training.gpu to false"
        )


def _wait_for_slots(session: Any, processes: int, *, seconds: float = SLOT_SECONDS) -> None:
    """Wait until all processes can run at once, as they must: Spark itself says nothing for ten minutes."""
    context = session.sparkContext._jsc.sc()  # noqa: SLF001
    profile = context.resourceProfileManager().defaultResourceProfile()
    deadline = time.monotonic() + seconds
    while (slots := context.maxNumConcurrentTasks(profile)) < processes:
        if time.monotonic() > deadline:
            raise TrainingError(
                f"training.processes = {processes}, but Spark has room for {slots} at once: lower it, or raise "
                "spark.executor.instances or spark.executor.cores in cluster.spark_properties as far as the hosts allow"
            )
        time.sleep(0.5)


def _failure(specification: TrainSpecification, error: Exception) -> TrainingError:
    """The reason that a training process left, because the distributor's own error says only that there is one."""
    uri = storage.join(specification.checkpoint_uri, FAILURE)
    try:
        return TrainingError(storage.read_json(uri)["reason"])
    except FileMissingError:
        pass
    except StorageError as unheard:
        say(f"a reason that a training process left cannot be read: {unheard}")
    return TrainingError(
        "a training process ended without a reason, as one does that is killed, by the kernel for its memory perhaps; "
        f"its output stands above. Started again, the job goes on from its newest checkpoint: {error}"
    )


if __name__ == "__main__":
    run_job(TrainSpecification, train)
