"""What every training process runs: all epochs, from the newest checkpoint if there is one.

Nothing here draws on a global source of chance: order and augmentation of the images follow from seed, epoch and
row. So a training that goes on from a checkpoint ends with the very weights of one that was never interrupted.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from spark_jobs import storage
from spark_jobs.augmentation import Augmentation
from spark_jobs.checkpoints import newest_checkpoint, read_checkpoint, write_checkpoint, write_state
from spark_jobs.class_weights import balanced, count_labels
from spark_jobs.device import choose_device, choose_precision
from spark_jobs.early_stopping import EarlyStopping
from spark_jobs.epochs import divide
from spark_jobs.exceptions import PreemptedError, TrainingError
from spark_jobs.initial_state import STATE, load_initial_state
from spark_jobs.job import say
from spark_jobs.learner import Learner
from spark_jobs.loading import ShardBatches, loader
from spark_jobs.lockbox import export_secret
from spark_jobs.measurement import Score, measure, refresh_statistics
from spark_jobs.network import ResNet
from spark_jobs.preemption import Preemption
from spark_jobs.prepared import Shard, read_dataset
from spark_jobs.process_group import ProcessGroup, join
from spark_jobs.run_log import RunLog
from spark_jobs.specification import TrainSpecification, parse
from spark_jobs.system_metrics import SystemMetrics

MIN_ROWS = 2
# The processes speak to each other, and checkpoints are written, only after every so many steps.
MEETING_STEPS = 10
LOG_SECONDS = 1.0
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
        run_log = RunLog(specification.tracking_uri, specification.run_id) if group.rank == 0 else None
        training = Training(specification, group, device, preemption, run_log)
        system_metrics = SystemMetrics(
            specification.tracking_uri, specification.run_id, rank=group.rank, resumed=training.resumed_from is not None
        )
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
        run_log: RunLog | None,
    ) -> None:
        self.specification = specification
        self.group = group
        self.device = device
        self.preemption = preemption
        self.run_log = run_log
        self.dataset = read_dataset(
            specification.prepared_uri, image_size=specification.image_size, channels=specification.channels
        )
        division = divide(
            [shard.rows for shard in self.dataset.train],
            fraction=specification.fraction,
            validation=specification.validation,
        )
        self.images = sum(piece.rows for piece in division.training)
        augmentation = Augmentation(specification.flip, specification.shift)
        self.train_batches = self._batches(
            self.dataset.train,
            pieces=division.training,
            seed=specification.seed,
            augmentation=augmentation if specification.flip or specification.shift else None,
        )
        self.validation_batches = self._batches(self.dataset.train, pieces=division.validation)
        self.holdout_batches = self._batches(self.dataset.holdout)
        # These follow from the rows alone, and the loop asks for them often.
        self.rows, self.batches = self.train_batches.rows, self.train_batches.steps
        if self.rows < MIN_ROWS:
            raise TrainingError(
                f"{self.images} training images are too few for {group.size} processes: raise training.fraction or "
                "lower training.processes"
            )
        self.precision = choose_precision(specification.precision, device)
        torch.manual_seed(specification.seed)
        network = ResNet(
            classes=len(self.dataset.classes),
            channels=specification.channels,
            width=specification.width,
            image_size=specification.image_size,
            depth=specification.depth,
        )
        self.plan = self._plan(network)
        self.progress = Progress()
        self.stopping = EarlyStopping(specification.patience)
        self.best: dict[str, torch.Tensor] | None = None
        checkpoint = self._find_checkpoint()
        if specification.initial_state is not None and checkpoint is None:
            load_initial_state(network, specification.initial_state, self.dataset.classes)
        weights = None
        if specification.class_weights == "balanced":
            counts = count_labels(self.dataset.train, division.training, len(self.dataset.classes))
            weights = torch.from_numpy(balanced(counts))
        self.steps = -(-self.batches // specification.accumulation)
        self.learner = Learner(
            network,
            specification,
            steps=specification.epochs * self.steps,
            class_weights=weights,
            precision=self.precision,
            device=device,
            group=group,
        )
        self.resumed_from = self._resume(checkpoint)
        self._written = self._logged = time.monotonic()
        self._logged_rows = 0

    def run(self) -> dict[str, Any]:
        """Train all epochs that are left; returns what the job reports."""
        if self.run_log is not None:
            self._describe(self.run_log)
        while not self._ended():
            self._train_epoch()
        if self.best is not None:
            self.learner.network.load_state_dict(self.best)
            self.progress = replace(self.progress, score=self._measure(self.holdout_batches))
        state_uri = storage.join(self.specification.checkpoint_uri, STATE)
        if self.group.rank == 0:
            write_state(state_uri, {**self._model(), "state": self._weights()})
        self.group.wait()
        return {
            "state_uri": state_uri,
            "train_images": self.images,
            "epochs": self.progress.epoch,
            "train_loss": self.progress.train_loss,
            "holdout_accuracy": self.progress.score.accuracy,
            "processes": self.group.size,
            "stopped_early": self.progress.epoch < self.specification.epochs,
            "best_epoch": self.stopping.best_epoch or self.progress.epoch,
            "resumed_from": self.resumed_from,
        }

    def _ended(self) -> bool:
        return self.progress.epoch == self.specification.epochs or self.stopping.stops_after(self.progress.epoch)

    def _train_epoch(self) -> None:
        """From where the epoch stands to its end, with the measurements and the checkpoint that follow it."""
        started, first = time.monotonic(), self.progress.batch
        self._train_batches(first)
        trained = time.monotonic()
        epoch, loss = self.progress.epoch + 1, self.progress.loss_sum / (self.rows * self.group.size)
        self.train_batches.set_epoch(epoch - 1)
        refresh_statistics(self.learner.network, self._load(self.train_batches), self.device, self.group)
        validated = self.specification.validation > 0
        score = self._measure(self.validation_batches if validated else self.holdout_batches)
        self.progress = Progress(epoch=epoch, train_loss=loss, score=score)
        if validated:
            self.stopping = self.stopping.after(epoch, score.loss)
            if self.stopping.best_epoch == epoch:
                self.best = self._weights()
        if self.group.rank == 0:
            self._write_checkpoint()
            rate = (1 - first / self.batches) * self.rows * self.group.size / (trained - started)
            self._report("validation" if validated else "holdout", rate, time.monotonic() - trained)

    def _train_batches(self, first: int) -> None:
        """The batches of the epoch from the `first`; each `accumulation` of them make a step."""
        accumulation = self.specification.accumulation
        network, learner = self.learner.network, self.learner
        network.train()
        self.train_batches.set_epoch(self.progress.epoch, first_batch=first)
        loss_sum = torch.zeros((), device=self.device, dtype=torch.float64)
        rows = 0
        for batch, (images, labels) in enumerate(self._load(self.train_batches), start=first):
            # The last step of an epoch may be made of fewer batches.
            size = min(accumulation, self.batches - batch // accumulation * accumulation)
            last = batch % accumulation == size - 1
            loss_sum += learner.add(images, labels, share=1 / size, last=last) * len(labels)
            rows += len(labels)
            if last:
                norm = learner.step()
                if (batch // accumulation + 1) % MEETING_STEPS == 0 or batch + 1 == self.batches:
                    self._meet(batch + 1, loss_sum, rows, norm)
                    loss_sum, rows = torch.zeros_like(loss_sum), 0

    def _meet(self, batch: int, loss_sum: torch.Tensor, rows: int, norm: torch.Tensor) -> None:
        """All processes agree on the loss of the last steps, and whether one of them has been told to end."""
        told = torch.tensor(float(self.preemption.told), device=self.device, dtype=torch.float64)
        summed, told_to_end = self.group.sum(torch.stack([loss_sum, told])).tolist()
        self.progress = replace(self.progress, batch=batch, loss_sum=self.progress.loss_sum + summed)
        mean = summed / (rows * self.group.size)
        if not mean < float("inf"):
            raise TrainingError(
                f"the loss of epoch {self.progress.epoch + 1} is {mean}: lower training.learning_rate "
                f"({self.specification.learning_rate})"
            )
        now = time.monotonic()
        if self.group.rank == 0:
            # The others wait for it at their next exchange of gradients.
            if told_to_end or now - self._written >= self.specification.checkpoint_minutes * 60:
                self._write_checkpoint()
            self._log_step(mean, rows, norm, now)
        if told_to_end:
            self.group.wait()
            raise PreemptedError(
                f"told to end in epoch {self.progress.epoch + 1} after batch {batch} of {self.batches}; a checkpoint "
                "is written, and the same job started again goes on from it"
            )

    def _measure(self, batches: ShardBatches) -> Score:
        return measure(self.learner.network, self._load(batches), self.device, self.group)

    def _load(self, batches: ShardBatches) -> Any:
        return loader(batches, gpu=self.specification.gpu, workers=self.specification.loader_workers)

    def _batches(self, shards: Sequence[Shard], **options: Any) -> ShardBatches:
        size = self.specification.batch_size
        return ShardBatches(shards, self.dataset.preprocessing, batch_size=size, part=self.group.part, **options)

    def _find_checkpoint(self) -> dict[str, Any] | None:
        """The newest checkpoint that rank 0 can read, so that all processes go on from the same."""
        uri = self.specification.checkpoint_uri
        name = self.group.from_first(newest_checkpoint(uri, self.plan) if self.group.rank == 0 else None)
        return None if name is None else read_checkpoint(uri, name, self.plan)

    def _resume(self, checkpoint: dict[str, Any] | None) -> dict[str, int] | None:
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
        return {"configuration": self.learner.network.configuration, "classes": list(self.dataset.classes)}

    def _weights(self) -> dict[str, torch.Tensor]:
        """A copy of the network's weights."""
        state = self.learner.network.state_dict()
        return {
            name: value.detach().to("cpu", memory_format=torch.contiguous_format, copy=True)
            for name, value in state.items()
        }

    def _plan(self, network: ResNet) -> dict[str, Any]:
        """What must be the same for a checkpoint to be continued."""
        planned = {key: value for key, value in asdict(self.specification).items() if key not in NOT_PLANNED}
        return {
            **planned,
            **network.configuration,
            "precision": str(self.precision).removeprefix("torch."),
            "dataset": self.dataset.digest,
        }

    def _describe(self, run_log: RunLog) -> None:
        parameters = sum(parameter.numel() for parameter in self.learner.network.parameters())
        run_log.params(
            {
                **self.plan,
                "optimizer": "AdamW",
                "schedule": "cosine with warm-up",
                "network": "ResNet",
                "parameters": parameters,
                "gpu": self.specification.gpu,
                "train_images": self.images,
            }
        )
        run_log.dataset(
            self.dataset,
            profile=(
                f'{{"train_images": {self.dataset.train_images}, "holdout_images": {self.dataset.holdout_images}, '
                f'"classes": {len(self.dataset.classes)}}}'
            ),
        )

    def _log_step(self, loss: float, rows: int, norm: torch.Tensor, now: float) -> None:
        self._logged_rows += rows
        if self.run_log is None or now - self._logged < LOG_SECONDS:
            return
        metrics = {
            "train_loss": loss,
            "learning_rate": self.learner.learning_rate,
            "images_per_second": self._logged_rows * self.group.size / (now - self._logged),
            "gradient_norm": norm.item(),
        }
        step = self.progress.epoch * self.steps + -(-self.progress.batch // self.specification.accumulation)
        self.run_log.metrics(metrics, step)
        self._logged, self._logged_rows = now, 0

    def _report(self, part: str, rate: float, seconds: float) -> None:
        """An epoch, in the driver's log and on the MLflow run."""
        progress = self.progress
        say(
            f"epoch {progress.epoch}/{self.specification.epochs}: train loss {progress.train_loss:.4f}, "
            f"{part.replace('holdout', 'hold-out')} loss {progress.score.loss:.4f}, accuracy "
            f"{progress.score.accuracy:.4f}, {rate:.0f} images/s, then measured in {seconds:.1f} s"
        )
        if self.run_log is not None:
            metrics = {
                "epoch_train_loss": progress.train_loss,
                f"epoch_{part}_loss": progress.score.loss,
                f"epoch_{part}_accuracy": progress.score.accuracy,
                "epoch_images_per_second": rate,
            }
            self.run_log.metrics(metrics, progress.epoch)
            self.run_log.check()
