"""The demo's narration: each change of a task is told once, with what comes next."""

from io import StringIO

from rich.console import Console

from local.demo.airflow_api import TaskState
from local.demo.follow import follow
from local.demo.narrator import Narrator

DOWNSTREAM = {"prepare": ["train", "clean"], "train": ["clean"], "clean": []}


class FakeApi:
    """A run of three tasks, one look after the other."""

    def __init__(self, *looks):
        self._looks = list(looks)

    def downstream(self, dag):
        return DOWNSTREAM

    def run_state(self, dag, run):
        return "success" if len(self._looks) == 1 else "running"

    def tasks(self, dag, run):
        return self._looks.pop(0)


def task(name, state, seconds=0.0):
    return TaskState(name, -1, state, seconds, 1, "2026")


def test_a_task_is_told_once_with_what_comes_next(monkeypatch):
    monkeypatch.setattr("local.demo.follow.time.sleep", lambda seconds: None)
    output = StringIO()
    done = task("prepare", "success", 2.0)
    api = FakeApi(
        [done, task("train", "waiting"), task("clean", "waiting")],
        [done, task("train", "success", 3.0), task("clean", "waiting")],
        [done, task("train", "success", 3.0), task("clean", "success", 1.0)],
    )
    follow(api, Narrator(Console(file=output, width=120)), "dag", "run", timeout=5)
    prepare, train, clean = output.getvalue().splitlines()
    assert "prepare" in prepare
    assert prepare.endswith("2.0 s  next: train")
    assert train.endswith("3.0 s  next: clean")
    assert clean.rstrip().endswith("1.0 s")
