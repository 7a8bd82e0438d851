"""What a process's host is doing, on the MLflow run as `system/rank-<n>/…`, from a thread of its own."""

from __future__ import annotations

import threading
from typing import Any

from spark_jobs.job import say

# The monitor of MLflow reads its own environment variables; these are its defaults.
SAMPLE_SECONDS = 10.0
CLOSE_SECONDS = 10.0


class SystemMetrics:
    """Samples processor, memory, disk, network and GPUs until it is closed.

    MLflow's own thread is not used: it asks the server for the run at every sample, and drops the only sample of a
    short training. Nothing that goes wrong here ends a training; it is said once.
    """

    def __init__(self, tracking_uri: str, run_id: str, *, rank: int, resumed: bool) -> None:
        self._closed = threading.Event()
        self._thread = threading.Thread(
            target=self._work, args=(tracking_uri, run_id, f"rank-{rank}", resumed), name="system-metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Log the last sample."""
        self._closed.set()
        self._thread.join(CLOSE_SECONDS)

    def _work(self, tracking_uri: str, run_id: str, node: str, resumed: bool) -> None:  # noqa: FBT001
        monitor: Any = None
        last = failed = False
        while not last:
            try:
                monitor = monitor or _monitor(tracking_uri, run_id, node, resumed=resumed)
                last = self._closed.wait(monitor.sampling_interval)
                monitor.collect_metrics()
                monitor.publish_metrics(monitor.aggregate_metrics())
                if last:
                    monitor.mlflow_logger.flush()
            except Exception as error:
                if not failed:
                    say(f"{node}: system metrics are missing: {error}")
                failed = True
                last = self._closed.wait(SAMPLE_SECONDS)


def _monitor(tracking_uri: str, run_id: str, node: str, *, resumed: bool) -> Any:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    return SystemMetricsMonitor(
        run_id, sampling_interval=SAMPLE_SECONDS, resume_logging=resumed, node_id=node, tracking_uri=tracking_uri
    )
