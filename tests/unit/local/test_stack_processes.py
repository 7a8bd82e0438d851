"""Processes of the stack: started in groups, remembered, stopped with their children."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from local.stack.exceptions import StackError
from local.stack.processes import Processes, wait_until
from local.stack.stack import wait_for

pytestmark = pytest.mark.slow  # starts programs or a database

CHILD = "import time; time.sleep(60)"
PARENT = (
    "import subprocess, sys, time\n"
    f"child = subprocess.Popen([sys.executable, '-c', {CHILD!r}])\n"
    "print(child.pid, flush=True)\n"
    "time.sleep(60)\n"
)
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


def start(processes, tmp_path, name, program):
    return processes.start(
        name,
        [sys.executable, "-c", program],
        environment=dict(os.environ),
        log=tmp_path / f"{name}.log",
        folder=tmp_path,
    )


def said(tmp_path, name):
    deadline = time.monotonic() + 10
    while not (words := (tmp_path / f"{name}.log").read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return words


def test_another_command_stops_a_process_with_its_children(tmp_path):
    process = start(Processes(tmp_path / "processes.json"), tmp_path, "parent", PARENT)
    child = int(said(tmp_path, "parent"))

    assert Processes(tmp_path / "processes.json").stop_all(grace_seconds=5) == []

    assert not process.alive()
    assert not psutil.pid_exists(child)
    assert Processes(tmp_path / "processes.json").all() == []


def test_children_of_a_process_that_was_killed_are_found(tmp_path):
    processes = Processes(tmp_path / "processes.json")
    process = start(processes, tmp_path, "parent", PARENT)
    child = int(said(tmp_path, "parent"))
    os.kill(process.pid, 9)
    os.waitpid(process.pid, 0)

    processes.stop_all(grace_seconds=5)

    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_what_ignores_sigterm_is_killed_and_named(tmp_path):
    processes = Processes(tmp_path / "processes.json")
    process = start(processes, tmp_path, "stubborn", STUBBORN)
    said(tmp_path, "stubborn")

    assert processes.stop_all(grace_seconds=0.3) == ["stubborn"]
    assert not process.alive()


def test_a_later_process_with_the_same_pid_is_not_ours(tmp_path):
    processes = Processes(tmp_path / "processes.json")
    process = start(processes, tmp_path, "parent", CHILD)
    other = type(process)(process.name, process.pid, process.created - 1000, process.log, "")
    assert process.alive()
    assert not other.alive()
    processes.stop_all(grace_seconds=5)


def test_a_process_that_ends_while_starting_is_named_with_its_last_words(tmp_path):
    processes = Processes(tmp_path / "processes.json")
    process = start(processes, tmp_path, "broken", "import sys; sys.exit('the port is taken')")
    with pytest.raises(StackError, match=r"broken ended while starting: the port is taken \(log: .*broken\.log\)"):
        wait_until(lambda: False, process, timeout=10)


def test_a_process_that_is_not_ready_in_time_is_named(tmp_path):
    processes = Processes(tmp_path / "processes.json")
    process = start(processes, tmp_path, "slow", CHILD)
    with pytest.raises(StackError, match="slow is not ready after 0 s"):
        wait_until(lambda: False, process, timeout=0.2)
    processes.stop_all(grace_seconds=5)


def test_the_guard_stops_everything_when_its_holder_is_gone(tmp_path):
    processes = Processes(tmp_path / "processes.json")
    process = start(processes, tmp_path, "guarded", CHILD)
    guard = subprocess.Popen(
        [sys.executable, "-m", "local.stack", "guard"],
        stdin=subprocess.PIPE,
        env={**os.environ, "ML_LIFECYCLE_STATE": str(tmp_path), "PYTHONPATH": str(Path.cwd())},
    )
    guard.stdin.close()
    assert guard.wait(timeout=180) == 0
    assert not process.alive()


def test_processes_that_have_ended_are_named_at_once_with_the_last_lines_of_their_logs(tmp_path):
    processes = Processes(tmp_path / "processes.json")
    processes.check()
    start(processes, tmp_path, "alive", CHILD)
    processes.check()
    start(processes, tmp_path, "airflow-triggerer", "raise OSError('a name that does not resolve')")
    began = time.monotonic()
    with pytest.raises(
        StackError, match=r"airflow-triggerer ended \(.*log\):\n(.*\n)*OSError: a name that does not"
    ) as dead:
        wait_for("Airflow reading the DAGs", lambda: False, timeout=90, check=processes.check)
    assert time.monotonic() - began < 60
    assert "alive ended" not in str(dead.value)
    processes.stop_all(grace_seconds=5)
