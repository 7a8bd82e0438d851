"""What a training writes onto its MLflow run, from a thread of its own: a slow server does not stop the training."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from spark_jobs.exceptions import TrainingError
from spark_jobs.job import say
from spark_jobs.prepared import PreparedDataset

CLOSE_SECONDS = 120.0
# MLflow's client tries for some four minutes.
BEGIN_SECONDS = 360.0
# MLflow's limit of metrics in one request.
MOST_METRICS = 1000


class RunLog:
    """Logs params, metrics and the dataset of one run, in order.

    `begun` waits for params and dataset, which come first, and raises what went wrong with them: then nothing can be
    logged at all, and no step should be spent. `check` raises the same without waiting.
    Metrics that the server refuses are kept and sent again with the next ones. `close` waits, and raises what is left.
    """

    def __init__(self, tracking_uri: str, run_id: str) -> None:
        self._run_id = run_id
        self._client: Any = None
        self._actions: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._metrics: list[tuple[str, float, int, int]] = []
        self._error: Exception | None = None
        self._metrics_error: Exception | None = None
        # Ends with the process, whatever it waits for.
        self._thread = threading.Thread(target=self._work, name="run-log", daemon=True)
        self._thread.start()
        self._actions.put(lambda: self._connect(tracking_uri))

    def params(self, params: Mapping[str, Any]) -> None:
        """Log params; TrainingError at `begun` or `check` where the run has other values of them already."""

        def log() -> None:
            from mlflow.entities import Param
            from mlflow.exceptions import MlflowException

            try:
                self._client.log_batch(self._run_id, params=[Param(key, str(value)) for key, value in params.items()])
            except MlflowException as error:
                if error.error_code != "INVALID_PARAMETER_VALUE":
                    raise
                raise TrainingError(
                    f"MLflow run {self._run_id} began with other values, and they cannot change: {error.message}. "
                    "Nothing was trained. Trigger train_model anew, or clear it from prepare on after a change of "
                    "settings; a data set that has changed needs a new run"
                ) from error

        self._actions.put(log)

    def metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics of one step, with the time of this call."""
        now = int(time.time() * 1000)
        values = [(key, float(value), now, step) for key, value in metrics.items()]

        def log() -> None:
            self._metrics += values
            # What waits behind a slow request goes into the next one.
            if self._actions.empty():
                self._send_metrics()

        self._actions.put(log)

    def dataset(self, dataset: PreparedDataset, profile: str) -> None:
        """Log the training split as an MLflow dataset, whose digest names the prepared data."""

        def log() -> None:
            from mlflow.entities import Dataset, DatasetInput, InputTag

            entity = Dataset(
                name=dataset.uri.rstrip("/").split("/")[-2],
                digest=dataset.digest,
                source_type="uri",
                source=f'{{"uri": "{dataset.uri}"}}',
                profile=profile,
            )
            tags = [InputTag("mlflow.data.context", "training")]
            self._client.log_inputs(self._run_id, [DatasetInput(entity, tags)])

        self._actions.put(log)

    def begun(self) -> None:
        """Wait until what was asked so far is logged; raises what went wrong, TrainingError if nobody answers."""
        logged = threading.Event()
        self._actions.put(logged.set)
        deadline = time.monotonic() + BEGIN_SECONDS
        while not logged.wait(0.05):
            self.check()
            if time.monotonic() > deadline:
                raise TrainingError(
                    f"the tracking server has not taken the params of run {self._run_id} for {BEGIN_SECONDS:.0f} s: "
                    "nothing was trained; start the job again when it answers"
                )
        self.check()

    def check(self) -> None:
        """Raise what has gone wrong with params or dataset so far."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Wait until all is logged; raises TrainingError if metrics are left."""
        self._actions.put(None)
        self._thread.join(CLOSE_SECONDS)
        self.check()
        if self._thread.is_alive() or self._metrics_error is not None:
            reason = self._metrics_error or f"the tracking server has not answered for {CLOSE_SECONDS:.0f} s"
            raise TrainingError(
                f"metrics of run {self._run_id} could not be logged: {reason}; the training is complete, and when the "
                "server answers, the same job started again ends at once"
            ) from self._metrics_error

    def _work(self) -> None:
        while (action := self._actions.get()) is not None:
            try:
                if self._error is None:
                    action()
            except Exception as error:
                self._error = error
        if self._error is None:
            self._send_metrics()

    def _send_metrics(self) -> None:
        from mlflow.entities import Metric

        try:
            while self._metrics:
                batch = self._metrics[:MOST_METRICS]
                self._client.log_batch(self._run_id, metrics=[Metric(*metric) for metric in batch])
                del self._metrics[: len(batch)]
        except Exception as error:
            if self._metrics_error is None:
                say(f"metrics will be sent again: {error}")
            self._metrics_error = error
        else:
            self._metrics_error = None

    def _connect(self, tracking_uri: str) -> None:
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri)
