"""Starts processes in groups of their own, remembers them, and stops them with all their children."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from local.stack.exceptions import StackError


@dataclass(frozen=True)
class Process:
    """One started process; `created` tells it from a later one with the same pid."""

    name: str
    pid: int
    created: float
    log: str
    url: str

    def alive(self) -> bool:
        """Whether this very process still runs."""
        try:
            found = psutil.Process(self.pid)
            return abs(found.create_time() - self.created) < 1 and found.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


class Processes:
    """The processes of one stack, kept in a file so that another command can stop them."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def all(self) -> list[Process]:
        """What was started and not yet stopped, oldest first."""
        if not self._file.exists():
            return []
        return [Process(**entry) for entry in json.loads(self._file.read_text())]

    def check(self) -> None:
        """StackError names every process that has ended by itself, with the last lines of its log."""
        ended = [process for process in self.all() if not process.alive()]
        if ended:
            raise StackError(
                "\n".join(f"{process.name} ended ({process.log}):\n{_last(process.log)}" for process in ended)
            )

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        log: Path,
        folder: Path,
        url: str = "",
    ) -> Process:
        """Start `command` in a session of its own, its output in `log`."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            child = subprocess.Popen(
                list(command),
                env=dict(environment),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        process = Process(name, child.pid, psutil.Process(child.pid).create_time(), str(log), url)
        self._write([*self.all(), process])
        return process

    def stop_all(self, grace_seconds: float = 15) -> list[str]:
        """Stop everything, newest first; returns the names of what had to be killed."""
        started = self.all()
        trees = {process.name: _tree(process) for process in started}
        for process in reversed(started):
            _signal(process, signal.SIGTERM)
        everything = [member for tree in trees.values() for member in tree]
        _, alive = psutil.wait_procs(everything, timeout=grace_seconds)
        for member in alive:
            try:
                member.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(alive, timeout=5)
        self._file.unlink(missing_ok=True)
        killed = {member.pid for member in alive}
        return [name for name, tree in trees.items() if any(member.pid in killed for member in tree)]

    def _write(self, processes: list[Process]) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        partial = self._file.with_suffix(".partial")
        partial.write_text(json.dumps([asdict(process) for process in processes], indent=1))
        partial.rename(self._file)


def wait_until(ready: Callable[[], bool], process: Process, *, timeout: float) -> None:
    """Wait until `ready`; StackError with the log's last line when the process ends or time is up."""
    deadline = time.monotonic() + timeout
    while not ready():
        if not process.alive():
            raise StackError(f"{process.name} ended while starting: {_last_line(process.log)} (log: {process.log})")
        if time.monotonic() > deadline:
            raise StackError(
                f"{process.name} is not ready after {timeout:.0f} s: {_last_line(process.log)} (log: {process.log})"
            )
        time.sleep(0.2)


def _tree(process: Process) -> list[psutil.Process]:
    if not process.alive():
        # Its children may have outlived it: they still share its session.
        return [member for member in psutil.process_iter() if _session(member.pid) == process.pid]
    parent = psutil.Process(process.pid)
    return [parent, *parent.children(recursive=True)]


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return None


def _signal(process: Process, number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def _last_line(log: str) -> str:
    return _last(log, 1).strip()


def _last(log: str, lines: int = 5) -> str:
    said = [line for line in Path(log).read_text(errors="replace").splitlines() if line.strip()]
    return "\n".join(said[-lines:]) or "it said nothing"
