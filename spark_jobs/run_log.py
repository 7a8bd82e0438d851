"""What a training writes onto its MLflow run, from a thread of its own: a slow server does not stop the training."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from spark_jobs.prepared import PreparedDataset


class RunLog:
    """Logs params, metrics and the dataset of one run, in order. `close` waits, and raises what went wrong."""

    def __init__(self, tracking_uri: str, run_id: str) -> None:
        self._run_id = run_id
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="run-log")
        self._pending: list[Future[None]] = []
        self._client: Any = None
        self._submit(lambda: self._connect(tracking_uri))

    def params(self, params: Mapping[str, Any]) -> None:
        """Log params; MLflow refuses other values under known names."""

        def log() -> None:
            from mlflow.entities import Param

            self._client.log_batch(self._run_id, params=[Param(key, str(value)) for key, value in params.items()])

        self._submit(log)

    def metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics of one step, with the time of this call."""
        now = int(time.time() * 1000)

        def log() -> None:
            from mlflow.entities import Metric

            values = [Metric(key, float(value), now, step) for key, value in metrics.items()]
            self._client.log_batch(self._run_id, metrics=values)

        self._submit(log)

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

        self._submit(log)

    def check(self) -> None:
        """Raise what has gone wrong so far."""
        done = [future for future in self._pending if future.done()]
        self._pending = [future for future in self._pending if not future.done()]
        for future in done:
            future.result()

    def close(self) -> None:
        """Wait until all is logged; raises the first error."""
        self._thread.shutdown(wait=True)
        self.check()

    def _connect(self, tracking_uri: str) -> None:
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri)

    def _submit(self, action: Callable[[], None]) -> None:
        self._pending.append(self._thread.submit(action))
