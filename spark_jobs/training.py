"""What every training process runs: distributed data parallel training, from a checkpoint if there is one."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from spark_jobs import storage
from spark_jobs.checkpoints import read_checkpoint, write_checkpoint, write_state
from spark_jobs.exceptions import GpuMissingError, TrainingError
from spark_jobs.loading import Part, ShardBatches, loader
from spark_jobs.lockbox import export_secret
from spark_jobs.network import ResNet
from spark_jobs.prepared import PreparedDataset, read_dataset
from spark_jobs.run_log import RunLog
from spark_jobs.schedule import rate_factor
from spark_jobs.specification import TrainSpecification, parse

WEIGHT_DECAY = 0.05
STATISTICS_BATCHES = 8
STATE = "state.pt"
MIN_ROWS = 2


def run_process(specification_text: str, threads: int) -> dict[str, Any]:
    """Train; the caller gets the dictionary of rank 0. torchrun has set RANK, WORLD_SIZE and the rendezvous."""
    specification = parse(TrainSpecification, specification_text)
    export_secret(specification.secret_id)
    torch.set_num_threads(threads)
    part = Part(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
    run_log = RunLog(specification.tracking_uri, specification.run_id) if part.rank == 0 else None
    device = choose_device(gpu=specification.gpu)
    distributed.init_process_group("nccl" if specification.gpu else "gloo", rank=part.rank, world_size=part.processes)
    try:
        result = Training(specification, part, device, run_log).run()
    finally:
        distributed.destroy_process_group()
    if run_log is not None:
        run_log.close()
    sys.stdout.flush()
    return result


def choose_device(*, gpu: bool) -> torch.device:
    """The device of this process; raises GpuMissingError if a GPU is asked for and there is none."""
    if not gpu:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise GpuMissingError(
            f"training.gpu is true, but torch {torch.__version__} finds no GPU on host {os.uname().nodename}: choose "
            "a GPU preset for the cluster's compute hosts, install the driver by an initialization action, ship an "
            "environment with a CUDA build of torch, and let Spark hand out GPUs (spark.task.resource.gpu.amount); "
            "or set training.gpu to false"
        )
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


@dataclass(frozen=True)
class Score:
    """Loss and accuracy on the hold-out."""

    loss: float
    accuracy: float


class Training:
    """One process's share of one training."""

    def __init__(
        self, specification: TrainSpecification, part: Part, device: torch.device, run_log: RunLog | None
    ) -> None:
        self.specification = specification
        self.part = part
        self.device = device
        self.run_log = run_log
        self.dataset = read_dataset(
            specification.prepared_uri, image_size=specification.image_size, channels=specification.channels
        )
        self.limit = max(1, round(specification.fraction * self.dataset.train_images))
        self.train_batches = ShardBatches(
            self.dataset.train,
            self.dataset.preprocessing,
            batch_size=specification.batch_size,
            limit=self.limit,
            part=part,
            seed=specification.seed,
        )
        if self.train_batches.rows < MIN_ROWS:
            raise TrainingError(
                f"{self.limit} training images are too few for {part.processes} processes: raise training.fraction or "
                "lower training.processes"
            )
        torch.manual_seed(specification.seed)
        self.network = ResNet(
            classes=len(self.dataset.classes),
            channels=specification.channels,
            width=specification.width,
            image_size=specification.image_size,
        ).to(device)
        self.model = DistributedDataParallel(self.network, device_ids=[device.index] if specification.gpu else None)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=specification.learning_rate, weight_decay=WEIGHT_DECAY
        )
        steps = specification.epochs * self.train_batches.steps
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: rate_factor(step, steps))

    def run(self) -> dict[str, Any]:
        """Train all epochs that are left; returns what the job reports."""
        first, loss, score = self._resume()
        if self.run_log is not None:
            self._describe(self.run_log)
        for epoch in range(first, self.specification.epochs):
            started = time.monotonic()
            loss = self._train_epoch(epoch)
            refresh_statistics(self.network, self.train_batches, self.device)
            score = self._evaluate()
            seconds = time.monotonic() - started
            if self.part.rank == 0:
                self._report(epoch + 1, loss, score, seconds)
                write_checkpoint(self.specification.checkpoint_uri, epoch + 1, self._checkpoint(epoch + 1, loss, score))
        state_uri = storage.join(self.specification.checkpoint_uri, STATE)
        if self.part.rank == 0:
            state = {key: value.cpu() for key, value in self.network.state_dict().items()}
            write_state(state_uri, {"configuration": self.network.configuration, "state": state})
        distributed.barrier()
        return {
            "state_uri": state_uri,
            "train_images": self.limit,
            "epochs": self.specification.epochs,
            "train_loss": loss,
            "holdout_accuracy": score.accuracy,
            "processes": self.part.processes,
        }

    def _train_epoch(self, epoch: int) -> float:
        self.model.train()  # type: ignore[no-untyped-call]
        self.train_batches.set_epoch(epoch)
        total = torch.zeros((), device=self.device)
        for images, labels in loader(self.train_batches, gpu=self.specification.gpu):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.specification.gpu):
                logits = self.model(images.to(self.device, non_blocking=True))
            loss = nn.functional.cross_entropy(logits.float(), labels.to(self.device, non_blocking=True))
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.scheduler.step()
            total += loss.detach() * len(labels)
        total /= self.train_batches.rows
        distributed.all_reduce(total)
        mean = total.item() / self.part.processes
        if not mean < float("inf"):
            raise TrainingError(
                f"the loss of epoch {epoch + 1} is {mean}: lower training.learning_rate "
                f"({self.specification.learning_rate})"
            )
        return mean

    def _evaluate(self) -> Score:
        """The hold-out's score, each process taking its share."""
        self.network.eval()
        batches = ShardBatches(
            self.dataset.holdout, self.dataset.preprocessing, batch_size=self.specification.batch_size, part=self.part
        )
        sums = torch.zeros(3, device=self.device, dtype=torch.float64)
        with torch.inference_mode():
            for images, labels in loader(batches):
                logits = self.network(images.to(self.device))
                target = labels.to(self.device)
                loss = nn.functional.cross_entropy(logits, target, reduction="sum")
                correct = (logits.argmax(dim=1) == target).sum()
                sums += torch.stack([loss.double(), correct.double(), torch.tensor(float(len(labels))).to(loss)])
        distributed.all_reduce(sums)
        loss_sum, correct_sum, count = sums.tolist()
        return Score(loss_sum / count, correct_sum / count)

    def _resume(self) -> tuple[int, float, Score]:
        checkpoint = read_checkpoint(self.specification.checkpoint_uri, self._plan())
        if checkpoint is None:
            return 0, float("nan"), Score(float("nan"), float("nan"))
        self.network.load_state_dict(checkpoint["state"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.scheduler.load_state_dict(checkpoint["scheduler"])
        if self.part.rank == 0:
            print(f"resumed after epoch {checkpoint['epoch']}", flush=True)
        return checkpoint["epoch"], checkpoint["train_loss"], Score(*checkpoint["score"])

    def _checkpoint(self, epoch: int, loss: float, score: Score) -> dict[str, Any]:
        return {
            "plan": self._plan(),
            "epoch": epoch,
            "train_loss": loss,
            "score": [score.loss, score.accuracy],
            "state": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }

    def _plan(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to be continued."""
        names = ("epochs", "fraction", "batch_size", "learning_rate", "processes", "seed")
        return {
            **{name: getattr(self.specification, name) for name in names},
            **self.network.configuration,
            "dataset": self.dataset.digest,
        }

    def _describe(self, run_log: RunLog) -> None:
        parameters = sum(parameter.numel() for parameter in self.network.parameters())
        run_log.params(
            {
                **self._plan(),
                "optimizer": "AdamW",
                "weight_decay": WEIGHT_DECAY,
                "schedule": "cosine with warm-up",
                "network": "ResNet",
                "parameters": parameters,
                "gpu": self.specification.gpu,
                "train_images": self.limit,
            }
        )
        run_log.dataset(self.dataset, profile=_profile(self.dataset))

    def _report(self, epoch: int, loss: float, score: Score, seconds: float) -> None:
        rate = self.train_batches.rows * self.part.processes / seconds
        print(
            f"epoch {epoch}/{self.specification.epochs}: train loss {loss:.4f}, hold-out loss {score.loss:.4f}, "
            f"accuracy {score.accuracy:.4f}, {rate:.0f} images/s",
            flush=True,
        )
        if self.run_log is not None:
            metrics = {
                "train_loss": loss,
                "epoch_holdout_loss": score.loss,
                "epoch_holdout_accuracy": score.accuracy,
                "images_per_second": rate,
                "learning_rate": float(self.scheduler.get_last_lr()[0]),
            }
            self.run_log.metrics(metrics, epoch)
            self.run_log.check()


def refresh_statistics(network: nn.Module, batches: ShardBatches, device: torch.device) -> None:
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
        for step, (images, _) in enumerate(loader(batches)):
            if step == STATISTICS_BATCHES:
                break
            network(images.to(device))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        for statistic in (layer.running_mean, layer.running_var):
            if isinstance(statistic, Tensor):
                distributed.all_reduce(statistic)
                statistic /= distributed.get_world_size()


def _profile(dataset: PreparedDataset) -> str:
    return (
        f'{{"train_images": {dataset.train_images}, "holdout_images": {dataset.holdout_images}, '
        f'"classes": {len(dataset.classes)}}}'
    )
