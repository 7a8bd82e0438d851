"""What rank 0 says of a training: in the driver's log, and on the MLflow run if there is one."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from spark_jobs.job import say
from spark_jobs.measurement import Score
from spark_jobs.prepared import PreparedDataset
from spark_jobs.run_log import RunLog

LOG_SECONDS = 1.0


class TrainingReport:
    """Metrics of steps, at most one set a second, under the step's number; of epochs, as `epoch_…`, under theirs."""

    def __init__(self, run_log: RunLog | None) -> None:
        self._run_log = run_log
        self._logged = time.monotonic()
        self._images = 0

    def beginning(self, params: Mapping[str, Any], dataset: PreparedDataset) -> None:
        """What is trained, and on what. Raises what the MLflow run has against it, before the first step."""
        if self._run_log is not None:
            self._run_log.params(
                {**params, "optimizer": "AdamW", "schedule": "cosine with warm-up", "network": "ResNet"}
            )
            profile = {
                "train_images": dataset.train_images,
                "holdout_images": dataset.holdout_images,
                "classes": len(dataset.classes),
            }
            self._run_log.dataset(dataset, json.dumps(profile))
            self._run_log.begun()

    def step(self, step: int, *, loss: float, images: int, learning_rate: float, gradient_norm: Tensor) -> None:
        """The steps up to `step` since the last call: their mean loss, and images of all processes."""
        self._images += images
        now = time.monotonic()
        if self._run_log is None or now - self._logged < LOG_SECONDS:
            return
        metrics = {
            "train_loss": loss,
            "learning_rate": learning_rate,
            "images_per_second": self._images / (now - self._logged),
            "gradient_norm": gradient_norm.item(),
        }
        self._run_log.metrics(metrics, step)
        self._logged, self._images = now, 0

    def epoch(
        self, epoch: int, epochs: int, *, part: str, train_loss: float, score: Score, rate: float, seconds: float
    ) -> None:
        """An epoch with its score on `part`, its images a second, and the seconds that measuring took.

        Raises what has gone wrong with the MLflow run.
        """
        say(
            f"epoch {epoch}/{epochs}: train loss {train_loss:.4f}, {part} loss {score.loss:.4f}, "
            f"accuracy {score.accuracy:.4f}, {rate:.0f} images/s, measured in {seconds:.1f} s"
        )
        if self._run_log is not None:
            metrics = {
                "epoch_train_loss": train_loss,
                f"epoch_{part}_loss": score.loss,
                f"epoch_{part}_accuracy": score.accuracy,
                "epoch_images_per_second": rate,
            }
            self._run_log.metrics(metrics, epoch)
            self._run_log.check()
        # Measuring is no training.
        self._logged, self._images = time.monotonic(), 0
