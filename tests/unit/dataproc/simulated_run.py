"""One DAG run on the stand-in: the operators as a DAG wires them, with a context as Airflow gives it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from local.yandex import YandexStandIn
from ml_lifecycle.dataproc.cluster import cluster_name
from ml_lifecycle.dataproc.operators import (
    DeleteClusterOperator,
    PysparkJobOperator,
    SubmitClusterOperator,
    SweepClustersOperator,
    WaitForClusterOperator,
)

DAG_ID = "train_model"
FAST = {"poll_seconds": 0.05, "deferrable": False}
CLUSTER = {"subnet_id": "subnet", "service_account_id": "account", "bucket": "logs"}
GOOD_JOB = (
    "import json, pathlib, sys\nprint('reading')\npathlib.Path(sys.argv[1]).write_text(json.dumps({'images': 7}))\n"
)
BAD_JOB = "print('opening the files')\nraise SystemExit('no space left on device')\n"
ENDLESS_JOB = "import time\nprint('started', flush=True)\ntime.sleep(600)\n"


class TaskInstance:
    """Keeps XComs; `on_push` sees each before it is kept."""

    def __init__(self, on_push: Callable[[str, Any], None] = lambda key, value: None) -> None:
        self.try_number = 1
        self.xcoms: dict[str, Any] = {}
        self.on_push = on_push

    def xcom_push(self, key: str, value: Any) -> None:
        self.on_push(key, value)
        self.xcoms[key] = value


class SimulatedRun:
    """Submit, wait, job, teardown; each may be tried again, as Airflow does."""

    def __init__(self, stand_in: YandexStandIn, folder: Path, run_id: str, model: str = "digits") -> None:
        self.stand_in = stand_in
        self.run_id = run_id
        self.model = model
        self.folder = folder
        self.name = cluster_name(model, DAG_ID, run_id)
        self.result = folder / f"result-{self.name}.json"
        self.job_file = folder / f"job-{self.name}.py"
        self.job_file.write_text(GOOD_JOB)
        self.ti = TaskInstance()
        self.operator: Any = None

    @property
    def context(self) -> Any:
        return {"ti": self.ti, "dag_run": SimpleNamespace(dag_id=DAG_ID, run_id=self.run_id)}

    @property
    def cluster_id(self) -> str | None:
        return self.ti.xcoms.get("cluster_id")

    def execute(self, operator: Any) -> Any:
        self.operator = operator
        return operator.execute(self.context)

    def submit(self, **changes: Any) -> str:
        cluster = {**CLUSTER, **changes}
        operator = SubmitClusterOperator(
            task_id="submit", cluster=cluster, cluster_name=self.name, labels={"model": self.model}, **FAST
        )
        return self.execute(operator)

    def wait(self, timeout_minutes: float = 1) -> str:
        operation_id = self.ti.xcoms.get("operation_id", "")
        operator = WaitForClusterOperator(
            task_id="wait",
            cluster_id=self.cluster_id,
            operation_id=operation_id,
            timeout_minutes=timeout_minutes,
            **FAST,
        )
        return self.execute(operator)

    def job_operator(self, **changes: Any) -> PysparkJobOperator:
        arguments: dict[str, Any] = {
            "cluster_id": self.cluster_id,
            "job_name": "ingest",
            "main_python_file_uri": f"file://{self.job_file}",
            "args": [str(self.result)],
            "result_uri": f"file://{self.result}",
            "timeout_minutes": 1,
            "grace_seconds": 0.3,
            **FAST,
        }
        return PysparkJobOperator(task_id="job", **{**arguments, **changes})

    def job(self, code: str = GOOD_JOB, **changes: Any) -> dict[str, Any]:
        self.job_file.write_text(code)
        return self.execute(self.job_operator(**changes))

    def teardown(self, timeout_minutes: float = 0.2, **changes: Any) -> dict[str, Any]:
        operator = DeleteClusterOperator(
            task_id="delete",
            cluster_id=self.cluster_id,
            cluster_name=self.name,
            timeout_minutes=timeout_minutes,
            **{**FAST, **changes},
        )
        return self.execute(operator)

    def clusters(self) -> list[dict[str, Any]]:
        return [cluster for cluster in self.stand_in.history() if cluster["name"] == self.name]

    def jobs(self) -> list[dict[str, Any]]:
        return [job for cluster in self.clusters() for job in cluster["jobs"]]


def sweep(**changes: Any) -> dict[str, Any]:
    return SweepClustersOperator(task_id="sweep", **{**FAST, **changes}).execute({})


def alive(clusters: list[dict[str, Any]]) -> list[str]:
    return [cluster["name"] for cluster in clusters if cluster["status"] != "DELETED"]


def submitted_twice(clusters: list[dict[str, Any]]) -> list[str]:
    """Jobs that were submitted though an earlier one of the same work lived, or had succeeded."""
    found = []
    for cluster in clusters:
        for later, earlier in itertools.permutations(cluster["jobs"], 2):
            same = later["args"] == earlier["args"] and later["name"].startswith(earlier["name"])
            over = earlier["status"] != "DONE" and earlier["finished"] is not None
            if (
                same
                and later["created"] >= earlier["created"]
                and not (over and earlier["finished"] <= later["created"])
            ):
                found.append(later["name"])
    return found


def assert_clean(stand_in: YandexStandIn) -> None:
    """No cluster is alive, and no work was submitted again while an earlier try of it lived or had succeeded."""
    history = stand_in.history()
    assert alive(history) == []
    assert submitted_twice(history) == []


@contextmanager
def served(folder: Path, **options: Any):
    """A fast stand-in whose jobs are plain Python, as `yandexcloud_default` of this process."""
    fast = {"creation_seconds": 0.2, "deletion_seconds": 0.1, "runner": "python"}
    with YandexStandIn(folder / "yandex", **{**fast, **options}) as cloud:
        before = dict(os.environ)
        os.environ.update(cloud.environment())
        try:
            yield cloud
        finally:
            os.environ.clear()
            os.environ.update(before)
