"""The training processes as one: who this is, and the few words they exchange. A single process exchanges none."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from spark_jobs.loading import Part

T = TypeVar("T")


@dataclass(frozen=True)
class ProcessGroup:
    """Rank `rank` of `size` processes."""

    rank: int = 0
    size: int = 1

    @property
    def part(self) -> Part:
        """This process's part of every dataset."""
        return Part(self.rank, self.size)

    def sum(self, tensor: Tensor) -> Tensor:
        """`tensor`, in place, becomes the sum over the processes."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def from_first(self, value: T) -> T:
        """What rank 0 gave: a small value that can be pickled."""
        if self.size == 1:
            return value
        values: list[Any] = [value]
        distributed.broadcast_object_list(values)
        return values[0]

    def wait(self) -> None:
        """Until all processes have come here."""
        if self.size > 1:
            distributed.barrier()

    def wrap(self, network: nn.Module, device: torch.device) -> nn.Module:
        """`network` with gradients that are means over the processes.

        Buffers stay apart, because batch normalisation takes its statistics anew after every epoch.
        """
        if self.size == 1:
            return network
        ids = [device.index] if device.type == "cuda" else None
        return DistributedDataParallel(
            network, device_ids=ids, forward_sync_buffers=False, gradient_as_bucket_view=True
        )

    def on_this_host(self) -> int:
        """How many of the processes run on this host."""
        if self.size == 1:
            return 1
        hosts: list[Any] = [None] * self.size
        distributed.all_gather_object(hosts, os.uname().nodename)
        return hosts.count(os.uname().nodename)


@contextlib.contextmanager
def join(device: torch.device) -> Iterator[ProcessGroup]:
    """Meet the other processes where torchrun has said (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT)."""
    group = ProcessGroup(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
    if group.size > 1:
        distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", rank=group.rank, world_size=group.size
        )
    yield group
    # After an error there is nobody left to take leave from: the process ends and takes its connections along.
    if group.size > 1:
        distributed.destroy_process_group()
