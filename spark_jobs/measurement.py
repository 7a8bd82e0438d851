"""How good a network is on a part of the dataset, all processes taking their share; and what it needs before."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from spark_jobs.process_group import ProcessGroup

STATISTICS_BATCHES = 8


@dataclass(frozen=True)
class Score:
    """Mean negative log-likelihood, and accuracy."""

    loss: float = float("nan")
    accuracy: float = float("nan")


def measure(
    network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device, group: ProcessGroup
) -> Score:
    """The score on all processes' batches together."""
    network.eval()
    sums = torch.zeros(3, device=device, dtype=torch.float64)
    with torch.inference_mode():
        for images, labels in batches:
            logits = network(images.to(device, memory_format=torch.channels_last))
            target = labels.to(device)
            loss = nn.functional.cross_entropy(logits, target, reduction="sum")
            correct = (logits.argmax(dim=1) == target).sum()
            sums += torch.stack([loss.double(), correct.double(), torch.tensor(float(len(labels))).to(loss)])
    loss_sum, correct_sum, count = group.sum(sums).tolist()
    return Score(loss_sum / count, correct_sum / count)


def refresh_statistics(
    network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device, group: ProcessGroup
) -> None:
    """Take the statistics of batch normalisation anew, from a few batches and the network as it is now.

    Their running averages lag behind a network that learns fast, badly so in short trainings. Source: "precise
    batch norm", Wu & Johnson, "Rethinking 'Batch' in BatchNorm" (2021), §3. Every process uses its own batches, and
    the processes' statistics are averaged.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
    network.train()
    with torch.no_grad():
        for images, _ in islice(batches, STATISTICS_BATCHES):
            network(images.to(device, memory_format=torch.channels_last))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        for statistic in (layer.running_mean, layer.running_var):
            if isinstance(statistic, Tensor):
                group.sum(statistic).div_(group.size)
