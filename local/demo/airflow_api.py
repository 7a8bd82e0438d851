"""The few calls of Airflow's REST API that the demo makes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx

from local.stack.exceptions import StackError

TRIES = 5
ENDED = {"success", "failed", "skipped", "upstream_failed", "removed"}


@dataclass(frozen=True)
class TaskState:
    """One task instance of a run."""

    task: str
    index: int
    state: str
    seconds: float
    try_number: int
    started: str

    @property
    def key(self) -> tuple[str, int]:
        """What names it within its run."""
        return (self.task, self.index)


class AirflowApi:
    """Airflow's REST API v2 on the laptop, where everyone is an administrator."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=90)
        token = self._client.get("/auth/token").raise_for_status().json()["access_token"]
        self._client.headers["Authorization"] = f"Bearer {token}"

    def close(self) -> None:
        """End the connections."""
        self._client.close()

    def import_errors(self) -> list[str]:
        """What the DAG processor could not import."""
        found = self._get("importErrors")["import_errors"]
        return [f"{error['filename']}: {error['stack_trace'].strip().splitlines()[-1]}" for error in found]

    def dags(self) -> set[str]:
        """The DAGs that Airflow knows."""
        return {dag["dag_id"] for dag in self._get("dags")["dags"]}

    def pause(self, dag: str, *, paused: bool) -> None:
        """Stop or resume a DAG's schedule."""
        self._ask("PATCH", f"dags/{dag}", json={"is_paused": paused}).raise_for_status()

    def trigger(self, dag: str, conf: dict[str, Any]) -> str:
        """Start a run by hand; its id."""
        run = f"demo__{datetime.now(UTC).isoformat()}"
        body = {"dag_run_id": run, "logical_date": None, "conf": conf}
        answer = self._ask("POST", f"dags/{dag}/dagRuns", json=body)
        # A conflict is our own first try, whose answer was lost.
        if answer.is_error and answer.status_code != httpx.codes.CONFLICT:
            raise StackError(f"Airflow refused to start {dag}: {answer.text}")
        return run

    def runs(self, dag: str) -> list[dict[str, Any]]:
        """The runs of a DAG, oldest first."""
        return list(self._get(f"dags/{dag}/dagRuns", order_by="run_after", limit=100)["dag_runs"])

    def run_state(self, dag: str, run: str) -> str:
        """The state of a run."""
        return str(self._get(f"dags/{dag}/dagRuns/{run}")["state"])

    def tasks(self, dag: str, run: str) -> list[TaskState]:
        """The task instances of a run, in the order in which they started."""
        found = [
            TaskState(
                task=instance["task_id"],
                index=instance["map_index"],
                state=instance["state"] or "waiting",
                seconds=instance["duration"] or 0.0,
                try_number=instance["try_number"],
                started=instance["start_date"] or "9999",
            )
            for instance in self._get(f"dags/{dag}/dagRuns/{run}/taskInstances", limit=100)["task_instances"]
        ]
        return sorted(found, key=lambda task: task.started)

    def downstream(self, dag: str) -> dict[str, list[str]]:
        """The tasks that come right after each task."""
        return {task["task_id"]: task["downstream_task_ids"] for task in self._get(f"dags/{dag}/tasks")["tasks"]}

    def result(self, dag: str, run: str, task: str, index: int = -1) -> Any:
        """What a task returned; StackError if it returned nothing."""
        path = f"dags/{dag}/dagRuns/{run}/taskInstances/{task}/xcomEntries/return_value"
        answer = self._ask("GET", path, params={"map_index": index, "deserialize": False, "stringify": False})
        if answer.status_code == httpx.codes.NOT_FOUND:
            raise StackError(f"{task} of {dag} returned nothing: see the run {run}")
        return answer.raise_for_status().json()["value"]

    def error(self, dag: str, run: str, task: TaskState) -> str:
        """The error with which a task's last try ended, else its last log line; empty if it logged nothing."""
        path = f"dags/{dag}/dagRuns/{run}/taskInstances/{task.task}/logs/{max(task.try_number, 1)}"
        answer = self._ask("GET", path, params={"map_index": task.index}, headers={"Accept": "application/json"})
        if answer.is_error:
            return ""
        lines = [line for line in answer.json()["content"] if isinstance(line, dict)]
        for line in reversed(lines):
            for detail in line.get("error_detail") or ():
                return f"{detail['exc_type']}: {detail['exc_value']}"
        return str(lines[-1].get("event", "")) if lines else ""

    def wait_for_run(self, dag: str, after: str, timeout: float) -> str:
        """The id of the first run of `dag` that was queued after the time `after` (ISO)."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for run in self.runs(dag):
                if (run["queued_at"] or run["run_after"]) >= after:
                    return str(run["dag_run_id"])
            time.sleep(1)
        raise StackError(f"{dag} was not started by its asset within {timeout:.0f} s")

    def _get(self, path: str, **params: Any) -> Any:
        return self._ask("GET", path, params=params).raise_for_status().json()

    def _ask(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """One request, repeated while the server is at fault: a busy laptop's database is locked now and then."""
        for _ in range(TRIES - 1):
            answer = self._client.request(method, f"/api/v2/{path}", **arguments)
            if not answer.is_server_error:
                return answer
            time.sleep(1)
        return self._client.request(method, f"/api/v2/{path}", **arguments)
