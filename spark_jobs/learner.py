"""The network and all that changes it: the loss, its gradients, the optimizer and the learning rate."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from spark_jobs.network import ResNet
from spark_jobs.process_group import ProcessGroup
from spark_jobs.schedule import rate_factor
from spark_jobs.specification import TrainSpecification

# Far above the norms of a healthy training: it takes the force from a single bad batch.
MAX_GRADIENT_NORM = 5.0


class Learner:
    """Learns in `steps` steps; a step is made of one batch, or of several whose gradients are accumulated."""

    def __init__(
        self,
        network: ResNet,
        specification: TrainSpecification,
        *,
        steps: int,
        class_weights: Tensor | None,
        precision: torch.dtype,
        device: torch.device,
        group: ProcessGroup,
    ) -> None:
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = group.wrap(self.network, device)
        self._device = device
        self._precision = precision
        self._class_weights = None if class_weights is None else class_weights.to(device)
        self._label_smoothing = specification.label_smoothing
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(network, specification.weight_decay), lr=specification.learning_rate, fused=True
        )
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: rate_factor(step, steps))
        # float16 has so few exponents that small gradients vanish unless the loss is scaled up.
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)

    @property
    def learning_rate(self) -> float:
        """The rate of the coming step."""
        return float(self.scheduler.get_last_lr()[0])

    def add(self, images: Tensor, labels: Tensor, *, share: float, last: bool) -> Tensor:
        """Add a batch's gradients, which are the `share` of its step; returns the batch's mean loss.

        Only with the `last` batch of a step do the processes exchange gradients.
        """
        images = images.to(self._device, non_blocking=True, memory_format=torch.channels_last)
        labels = labels.to(self._device, non_blocking=True)
        exchange = last or not isinstance(self.model, DistributedDataParallel)
        with contextlib.nullcontext() if exchange else self.model.no_sync():  # type: ignore[operator]
            with torch.autocast(self._device.type, self._precision, enabled=self._precision != torch.float32):
                logits = self.model(images)
            loss = self._loss(logits.float(), labels)
            self.scaler.scale(loss * share).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def step(self) -> Tensor:
        """Change the network by the gradients that were added; returns their norm."""
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), MAX_GRADIENT_NORM)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def state(self) -> dict[str, Any]:
        """What another process needs to go on with the very same steps."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        # Divided by the images and not by their weights, so that means over batches and processes are what they
        # would be over one large batch.
        loss = nn.functional.cross_entropy(
            logits, labels, weight=self._class_weights, label_smoothing=self._label_smoothing, reduction="sum"
        )
        return loss / len(labels)


def _parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Biases and normalisation do not decay: they have no scale that could grow (He et al. 2019, §3.1)."""
    parameters = list(network.parameters())
    return [
        {"params": [one for one in parameters if one.ndim > 1], "weight_decay": weight_decay},
        {"params": [one for one in parameters if one.ndim <= 1], "weight_decay": 0.0},
    ]
