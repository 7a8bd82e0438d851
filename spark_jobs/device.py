"""Where a process computes, and with what numbers."""

from __future__ import annotations

import os

import torch

from spark_jobs.exceptions import GpuMissingError, TrainingError

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(*, gpu: bool) -> torch.device:
    """The device of this process; raises GpuMissingError if a GPU is asked for and there is none for it.

    Spark gives each task a GPU by CUDA_VISIBLE_DEVICES and then LOCAL_RANK is 0; on one host without Spark's help all
    GPUs are seen, and LOCAL_RANK tells the processes apart.
    """
    if not gpu:
        return torch.device("cpu")
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    require_gpus(local_rank + 1)
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def require_gpus(processes: int) -> None:
    """Raise GpuMissingError unless each of so many processes on this host can have a GPU of its own."""
    host = os.uname().nodename
    if not torch.cuda.is_available():
        raise GpuMissingError(
            f"training.gpu is true, but torch {torch.__version__} finds no GPU on host {host}: choose "
            "a GPU preset for the cluster's compute hosts, install the driver by an initialization action, ship an "
            "environment with a CUDA build of torch, and let Spark hand out GPUs (spark.task.resource.gpu.amount); "
            "or set training.gpu to false"
        )
    if processes > torch.cuda.device_count():
        raise GpuMissingError(
            f"{processes} training processes on host {host}, but torch sees {torch.cuda.device_count()} GPUs, and each "
            "needs one: lower training.processes, or take more or larger compute hosts"
        )


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The type that the network computes in; raises TrainingError for one that the device is no good at."""
    if name == "auto":
        if device.type == "cpu":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if name == "float16" and device.type == "cpu":
        raise TrainingError(
            "training.precision = 'float16' needs a GPU: set training.gpu to true, or training.precision to 'auto'"
        )
    return PRECISIONS[name]
