"""The task that scales every service that has a MLScaler."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from ml_lifecycle.params import refusing
from ml_lifecycle.scaling.exceptions import (
    CacheFolderError,
    ForecastMissingError,
    PicturesRefusedError,
    ScalingFailedError,
)

if TYPE_CHECKING:
    from ml_lifecycle.scaling.decision import Decision
    from ml_lifecycle.scaling.resource import Scaler

SECONDS_BETWEEN_RUNS = 60


class ScaleReplicasOperator(BaseOperator):
    """Reads each MLScaler's load, forecasts it and sets the replicas of its target.

    :param kubernetes_conn_id: connection of type kubernetes.
    :param prometheus_conn_id: connection of type http.
    :param namespaces: where MLScalers are looked for; None or empty: everywhere.
    :param dry_run: decide and log, write nothing.
    :param passes: passes in this task; one is right for a task a minute.
    :param interval_seconds: time from one pass to the next.
    :param deadline_seconds: what a pass has not done by then is left to the next.
    :param concurrency: requests to Kubernetes and Prometheus at a time.
    :param history_cache: folder on the worker's disk for what was read of Prometheus, so that a pass reads only what is
        new; empty: every pass reads whole histories. For some hundred scalers and more.
    :param own_queries: JSON list of the namespaces whose scalers may use metric.query; null or empty text: all.
    :param pictures: URI of a folder for a picture of each scaler's last day, drawn after the last pass:
        `<namespace>/<name>.svg`; empty: none.
    :param pictures_below: pictures are written below this URI alone, and not at all where it is empty: who may start
        the DAG may not write anywhere else on the worker.
    :param storage_conn_id: connection of type aws, for pictures on s3.
    :return: the decisions of the last pass, and before them those by which any pass changed replicas.
    """

    template_fields: Sequence[str] = (
        "kubernetes_conn_id",
        "prometheus_conn_id",
        "namespaces",
        "dry_run",
        "passes",
        "interval_seconds",
        "deadline_seconds",
        "concurrency",
        "history_cache",
        "own_queries",
        "pictures",
        "pictures_below",
        "storage_conn_id",
    )
    ui_color = "#dbe9d8"

    def __init__(
        self,
        *,
        kubernetes_conn_id: str = "kubernetes_default",
        prometheus_conn_id: str = "prometheus_default",
        namespaces: Sequence[str] | str | None = None,
        dry_run: bool | str = False,
        passes: int | str = 1,
        interval_seconds: float | str = 5,
        deadline_seconds: float | str = 45,
        concurrency: int | str = 16,
        history_cache: str = "",
        own_queries: Sequence[str] | str | None = None,
        pictures: str = "",
        pictures_below: str = "",
        storage_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.kubernetes_conn_id = kubernetes_conn_id
        self.prometheus_conn_id = prometheus_conn_id
        self.namespaces = namespaces
        self.dry_run = dry_run
        self.passes = passes
        self.interval_seconds = interval_seconds
        self.deadline_seconds = deadline_seconds
        self.concurrency = concurrency
        self.history_cache = history_cache
        self.own_queries = own_queries
        self.pictures = pictures
        self.pictures_below = pictures_below
        self.storage_conn_id = storage_conn_id

    def execute(self, context: Any) -> list[dict[str, Any]]:  # noqa: ARG002
        """Runs the passes; ScalingFailedError if the last one could serve no scaler at all, CacheFolderError."""
        with refusing():
            _check_worker()
            self._check_pictures()
        changes, last = asyncio.run(self._run())
        if last and all(decision.error and not decision.written for decision in last):
            raise ScalingFailedError(f"none of {len(last)} MLScalers could be served; the first: {last[0].why}")
        return [decision.to_json() for decision in [*changes, *last]]

    async def _run(self) -> tuple[list[Decision], list[Decision]]:
        """Decisions that changed replicas before the last pass, and the last pass's."""
        from datetime import UTC, datetime

        from ml_lifecycle.kubernetes.client import connect as connect_kubernetes
        from ml_lifecycle.prometheus.client import connect as connect_prometheus
        from ml_lifecycle.scaling.decision import table
        from ml_lifecycle.scaling.reconciler import PassOptions, reconcile

        passes, interval = int(self.passes), float(self.interval_seconds)
        options = PassOptions(
            namespaces=_names(self.namespaces),
            dry_run=_truth(self.dry_run),
            tick_seconds=interval if passes > 1 else SECONDS_BETWEEN_RUNS,
            deadline_seconds=float(self.deadline_seconds),
            concurrency=int(self.concurrency),
            history_cache=_folder(self.history_cache),
            own_queries=_listed(self.own_queries),
        )
        changes: list[Decision] = []
        decisions: list[Decision] = []
        async with (
            connect_kubernetes(self.kubernetes_conn_id) as kubernetes,
            connect_prometheus(self.prometheus_conn_id) as prometheus,
        ):
            begin = asyncio.get_running_loop().time()
            for number in range(passes):
                changes += [decision for decision in decisions if decision.written]
                # Passes keep to their beat, whatever each of them takes.
                await asyncio.sleep(begin + number * interval - asyncio.get_running_loop().time())
                if number == passes - 1 and self.pictures:
                    options = replace(options, show=self._show)
                decisions = await reconcile(kubernetes, prometheus, datetime.now(UTC), options)
                self.log.info("Pass %d of %d:\n%s", number + 1, passes, table(decisions))
        return changes, decisions

    def _check_pictures(self) -> None:
        """PicturesRefusedError where they would lie elsewhere than below `pictures_below`."""
        below = self.pictures_below.rstrip("/") + "/"
        inside = f"{self.pictures.rstrip('/')}/".startswith(below) and not {"..", "."} & {*self.pictures.split("/")}
        if self.pictures and not (self.pictures_below and inside):
            lake = self.pictures_below or "which no settings name"
            raise PicturesRefusedError(f"pictures {self.pictures!r}: must lie below the data lake, {lake}")

    def _show(self, scaler: Scaler, picture: str) -> None:
        """Writes the picture; one that cannot be written fails no scaling."""
        from ml_lifecycle.data_lake.client import DataLake
        from ml_lifecycle.exceptions import LifecycleError

        uri = f"{self.pictures.rstrip('/')}/{scaler}.svg"
        try:
            self.log.info("%s", DataLake(self.pictures, self.storage_conn_id).write_bytes(uri, picture.encode()))
        except (LifecycleError, OSError) as error:
            self.log.warning("%s could not be written: %s", uri, error)


def _names(namespaces: Sequence[str] | str | None) -> list[str] | None:
    """A list, or a rendered text of names with commas between them; None where there is none."""
    if isinstance(namespaces, str):
        namespaces = namespaces.split(",")
    return [name.strip() for name in namespaces or () if name.strip()] or None


def _listed(names: Sequence[str] | str | None) -> list[str] | None:
    """A list, or a rendered JSON list; None where there is none."""
    if isinstance(names, str):
        names = json.loads(names or "null")
    return None if names is None else list(names)


def _folder(path: str) -> Path | None:
    if path and not Path(path).is_absolute():
        raise CacheFolderError(f"history_cache {path!r}: must be an absolute path on the worker's disk, or empty")
    return Path(path) if path else None


def _truth(value: bool | str | None) -> bool:  # noqa: FBT001
    """A template renders to text unless the DAG renders native objects."""
    return value if isinstance(value, bool) else str(value).strip().lower() == "true"


def _check_worker() -> None:
    """ForecastMissingError where torch is not installed: workers that never scale need not have it."""
    if importlib.util.find_spec("torch") is None:
        raise ForecastMissingError(
            "this worker has no torch, which forecasts need: install requirements-forecast.txt on the workers that run "
            "scale_replicas; it says how to take the CPU build"
        )
