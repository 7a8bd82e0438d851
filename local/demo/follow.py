"""Follows a DAG run through Airflow's API and tells each step as it happens."""

from __future__ import annotations

import time
from collections.abc import Callable

from local.demo.airflow_api import ENDED, AirflowApi, TaskState
from local.demo.narrator import Narrator
from local.stack.exceptions import StackError

Watcher = Callable[[], None]


def follow(
    api: AirflowApi,
    narrator: Narrator,
    dag: str,
    run: str,
    *,
    timeout: float,
    may_fail: bool = False,
    watch: Watcher | None = None,
) -> list[TaskState]:
    """Tell the run's tasks until it ends; StackError with the failing task's last words unless `may_fail`.

    `watch` is called at each look, for what happens beside the tasks.
    """
    told: dict[tuple[str, int], str] = {}
    downstream = api.downstream(dag)
    deadline = time.monotonic() + timeout
    while True:
        state = api.run_state(dag, run)
        tasks = api.tasks(dag, run)
        _tell(narrator, dag, tasks, told, downstream)
        if watch is not None:
            watch()
        if state in ("success", "failed"):
            break
        if time.monotonic() > deadline:
            raise StackError(f"{dag} ({run}) is still {state} after {timeout:.0f} s: see {_busy(tasks)}")
        time.sleep(1)
    if state == "failed" and not may_fail:
        raise StackError(_why(api, dag, run, tasks))
    return tasks


def _tell(
    narrator: Narrator,
    dag: str,
    tasks: list[TaskState],
    told: dict[tuple[str, int], str],
    downstream: dict[str, list[str]],
) -> None:
    begun = {task.task for task in tasks if task.state not in ("waiting", "scheduled", "queued")}
    for task in tasks:
        known = told.get(task.key)
        if task.state == known:
            continue
        told[task.key] = task.state
        if task.state in ENDED or task.state == "up_for_retry":
            following = [name for name in _due(downstream, tasks, task.task) if name not in begun]
            narrator.task(dag, _name(task), task.state, task.seconds, ", ".join(following))
        elif known is None and task.state == "running":
            narrator.task(dag, _name(task), "running", 0)
        elif task.state == "deferred":
            narrator.task(dag, _name(task), "waiting in the triggerer", 0)


def _due(downstream: dict[str, list[str]], tasks: list[TaskState], ended: str) -> list[str]:
    """The tasks for which nothing is missing any more, now that `ended` has."""
    done = {task.task for task in tasks if task.state in ENDED}
    upstream = {name: {other for other, after in downstream.items() if name in after} for name in downstream}
    return sorted(name for name in downstream.get(ended, ()) if upstream[name] <= done)


def _name(task: TaskState) -> str:
    return task.task if task.index < 0 else f"{task.task}[{task.index}]"


def _busy(tasks: list[TaskState]) -> str:
    return ", ".join(f"{_name(task)} is {task.state}" for task in tasks if task.state not in ENDED) or "no task"


def _why(api: AirflowApi, dag: str, run: str, tasks: list[TaskState]) -> str:
    failed = [task for task in tasks if task.state == "failed"]
    if not failed:
        return f"{dag} failed: {_busy(tasks)}"
    return f"{dag} failed in {_name(failed[0])}: {api.error(dag, run, failed[0])[:600] or 'it logged nothing'}"
