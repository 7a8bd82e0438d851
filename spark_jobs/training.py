"""What every training process runs: all epochs, from the newest checkpoint if there is one.

Nothing here draws on a global source of chance: order and augmentation of the images follow from seed, epoch and
row. So a training that goes on from a checkpoint ends with the very weights of one that was never interrupted.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from spark_jobs import storage
from spark_jobs.checkpoints import newest_checkpoint, read_checkpoint, write_checkpoint, write_state
from spark_jobs.device import choose_device, choose_precision
from spark_jobs.early_stopping import EarlyStopping
from spark_jobs.exceptions import PreemptedError, TrainingError
from spark_jobs.initial_state import STATE, load_initial_state
from spark_jobs.job import say
from spark_jobs.learner import Learner
from spark_jobs.loading import ShardBatches
from spark_jobs.lockbox import export_secret
from spark_jobs.measurement import Score, measure, refresh_statistics
from spark_jobs.network import ResNet
from spark_jobs.preemption import Preemption
from spark_jobs.process_group import ProcessGroup, join
from spark_jobs.run_log import RunLog
from spark_jobs.specification import TrainSpecification, parse
from spark_jobs.system_metrics import SystemMetrics
from spark_jobs.training_data import TrainingData
from spark_jobs.training_report import TrainingReport

# The processes speak to each other, and checkpoints are written, only after every so many steps.
MEETING_STEPS = 10
# What may differ between a training and its continuation.
NOT_PLANNED = {
    "prepared_uri", "checkpoint_uri", "tracking_uri", "run_id", "loader_workers", "checkpoint_minutes", "gpu",
    "result_uri", "secret_id",
}  # fmt: skip


def run_process(specification_text: str) -> dict[str, Any]:
    """Train; the caller gets the dictionary of rank 0. torchrun has set RANK, WORLD_SIZE and the rendezvous."""
    specification = parse(TrainSpecification, specification_text)
    export_secret(specification.secret_id)
    device = choose_device(gpu=specification.gpu)
    with Preemption() as preemption, join(device) as group:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // group.on_this_host()))
        tracking = specification.tracking_uri, specification.run_id
        run_log = RunLog(*tracking) if group.rank == 0 else None
        training = Training(specification, group, device, preemption, TrainingReport(run_log))
        system_metrics = SystemMetrics(*tracking, rank=group.rank, resumed=training.resumed_from is not None)
        result = training.run()
        system_metrics.close()
    if run_log is not None:
        run_log.close()
    sys.stdout.flush()
    return result


@dataclass(frozen=True)
class Progress:
    """How far a training is: complete epochs, batches of the next one and their summed loss, and the last score."""

    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    train_loss: float = float("nan")
    score: Score = field(default_factory=Score)


class Training:
    """One process's share of one training."""

    def __init__(
        self,
        specification: TrainSpecification,
        group: ProcessGroup,
        device: torch.device,
        preemption: Preemption,
        report: TrainingReport,
    ) -> None:
        self.specification = specification
        self.group = group
        self.device = device
        self.preemption = preemption
        self.report = report
        self.data = TrainingData(specification, group.part)
        self.classes = list(self.data.dataset.classes)
        torch.manual_seed(specification.seed)
        network = ResNet(
            classes=len(self.classes),
            channels=specification.channels,
            width=specification.width,
            image_size=specification.image_size,
            depth=specification.depth,
        )
        precision = choose_precision(specification.precision, device)
        self.plan = self._plan(network, precision)
        self.progress = Progress()
        self.stopping = EarlyStopping(specification.patience)
        self.best: dict[str, Tensor] | None = None
        checkpoint = self._find_checkpoint()
        if specification.initial_state is not None and checkpoint is None:
            load_initial_state(network, specification.initial_state, self.classes)
        self.steps = -(-self.data.batches // specification.accumulation)
        self.learner = Learner(
            network,
            specification,
            steps=specification.epochs * self.steps,
            class_weights=self.data.class_weights(),
            precision=precision,
            device=device,
            group=group,
        )
        self.resumed_from = self._resume(checkpoint)
        self._written = time.monotonic()

    def run(self) -> dict[str, Any]:
        """Train all epochs that are left; returns what the job reports."""
        parameters = sum(parameter.numel() for parameter in self.learner.network.parameters())
        known = {"parameters": parameters, "gpu": self.specification.gpu, "train_images": self.data.images}
        self.report.beginning({**self.plan, **known}, self.data.dataset)
        while not self._ended():
            self._train_epoch()
        score = self.progress.score
        if self.best is not None:
            self.learner.network.load_state_dict(self.best)
            score = self._measure(self.data.holdout)
        state_uri = storage.join(self.specification.checkpoint_uri, STATE)
        if self.group.rank == 0:
            write_state(state_uri, {**self._model(), "state": self._weights()})
        self.group.wait()
        return {
            "state_uri": state_uri,
            "train_images": self.data.images,
            "epochs": self.progress.epoch,
            "train_loss": self.progress.train_loss,
            "holdout_accuracy": score.accuracy,
            "processes": self.group.size,
            "stopped_early": self.progress.epoch < self.specification.epochs,
            "best_epoch": self.stopping.best_epoch or self.progress.epoch,
            "resumed_from": self.resumed_from,
        }

    def _ended(self) -> bool:
        return self.progress.epoch == self.specification.epochs or self.stopping.stops_after(self.progress.epoch)

    def _train_epoch(self) -> None:
        """From where the epoch stands to its end, with the measurements and the checkpoint that follow it."""
        data, started, first = self.data, time.monotonic(), self.progress.batch
        self._train_batches(first)
        trained = time.monotonic()
        train_loss = self.progress.loss_sum / (data.rows * self.group.size)
        data.training.set_epoch(self.progress.epoch)
        refresh_statistics(self.learner.network, data.load(data.training), self.device, self.group)
        validated = self.specification.validation > 0
        score = self._measure(data.validation if validated else data.holdout)
        epoch = self.progress.epoch + 1
        self.progress = Progress(epoch=epoch, train_loss=train_loss, score=score)
        if validated:
            self.stopping = self.stopping.after(epoch, score.loss)
            if self.stopping.best_epoch == epoch:
                self.best = self._weights()
        if self.group.rank == 0:
            self._write_checkpoint()
            self.report.epoch(
                epoch,
                self.specification.epochs,
                part="validation" if validated else "holdout",
                train_loss=train_loss,
                score=score,
                rate=(1 - first / data.batches) * data.rows * self.group.size / (trained - started),
                seconds=time.monotonic() - trained,
            )

    def _train_batches(self, first: int) -> None:
        """The batches of the epoch from the `first` on; each `accumulation` of them make a step."""
        accumulation, batches, learner = self.specification.accumulation, self.data.batches, self.learner
        learner.network.train()
        self.data.training.set_epoch(self.progress.epoch, first_batch=first)
        loss_sum, rows = torch.zeros((), device=self.device, dtype=torch.float64), 0
        for batch, (images, labels) in enumerate(self.data.load(self.data.training), start=first):
            # The last step of an epoch may be made of fewer batches.
            size = min(accumulation, batches - batch // accumulation * accumulation)
            last = batch % accumulation == size - 1
            loss_sum += learner.add(images, labels, share=1 / size, last=last) * len(labels)
            rows += len(labels)
            if not last:
                continue
            norm = learner.step()
            if (batch // accumulation + 1) % MEETING_STEPS == 0 or batch + 1 == batches:
                self._meet(batch + 1, loss_sum, rows, norm)
                loss_sum, rows = torch.zeros_like(loss_sum), 0

    def _meet(self, batches: int, loss_sum: Tensor, rows: int, norm: Tensor) -> None:
        """All processes agree on the loss of the last steps, and whether one of them has been told to end."""
        told = torch.tensor(float(self.preemption.told), device=self.device, dtype=torch.float64)
        summed, told_to_end = self.group.sum(torch.stack([loss_sum, told])).tolist()
        epoch, images = self.progress.epoch, rows * self.group.size
        self.progress = replace(self.progress, batch=batches, loss_sum=self.progress.loss_sum + summed)
        mean = summed / images
        if not mean < float("inf"):
            raise TrainingError(
                f"the loss of epoch {epoch + 1} is {mean}: lower training.learning_rate "
                f"({self.specification.learning_rate})"
            )
        if self.group.rank == 0:
            # The others wait for it at their next exchange of gradients.
            if told_to_end or time.monotonic() - self._written >= self.specification.checkpoint_minutes * 60:
                self._write_checkpoint()
            step = epoch * self.steps + -(-batches // self.specification.accumulation)
            rate = self.learner.learning_rate
            self.report.step(step, loss=mean, images=images, learning_rate=rate, gradient_norm=norm)
        if told_to_end:
            self.group.wait()
            raise PreemptedError(
                f"told to end in epoch {epoch + 1} after batch {batches} of {self.data.batches}; a checkpoint is "
                "written, and the same job started again goes on from it"
            )

    def _measure(self, batches: ShardBatches) -> Score:
        return measure(self.learner.network, self.data.load(batches), self.device, self.group)

    def _find_checkpoint(self) -> dict[str, Any] | None:
        """The newest checkpoint that rank 0 can read, so that all processes go on from the same."""
        uri = self.specification.checkpoint_uri
        name = self.group.from_first(newest_checkpoint(uri, self.plan) if self.group.rank == 0 else None)
        return None if name is None else read_checkpoint(uri, name, self.plan)

    def _resume(self, checkpoint: dict[str, Any] | None) -> dict[str, int] | None:
        """Where it goes on, both counted from 1."""
        if checkpoint is None:
            return None
        self.learner.load(checkpoint["learner"])
        progress = checkpoint["progress"]
        self.progress = Progress(**{**progress, "score": Score(**progress["score"])})
        self.stopping = EarlyStopping(**checkpoint["stopping"])
        self.best = checkpoint["best"]
        place = {"epoch": self.progress.epoch + 1, "batch": self.progress.batch + 1}
        if self.group.rank == 0:
            ended = ", where all is done" if self._ended() else ""
            say(f"resumed at epoch {place['epoch']}, batch {place['batch']}{ended}")
        return place

    def _write_checkpoint(self) -> None:
        content = {
            "plan": self.plan,
            "model": self._model(),
            "progress": asdict(self.progress),
            "learner": self.learner.state(),
            "stopping": asdict(self.stopping),
            "best": self.best,
        }
        uri = self.specification.checkpoint_uri
        write_checkpoint(uri, epoch=self.progress.epoch, batch=self.progress.batch, content=content)
        self._written = time.monotonic()

    def _model(self) -> dict[str, Any]:
        return {"configuration": self.learner.network.configuration, "classes": self.classes}

    def _weights(self) -> dict[str, Tensor]:
        """A copy of the network's weights."""
        form = torch.contiguous_format
        state = self.learner.network.state_dict()
        return {name: value.to("cpu", copy=True, memory_format=form) for name, value in state.items()}

    def _plan(self, network: ResNet, precision: torch.dtype) -> dict[str, Any]:
        """What must be the same for a checkpoint to be continued."""
        planned = {key: value for key, value in asdict(self.specification).items() if key not in NOT_PLANNED}
        precisely = {"precision": str(precision).removeprefix("torch."), "dataset": self.data.dataset.digest}
        return {**planned, **network.configuration, **precisely}
