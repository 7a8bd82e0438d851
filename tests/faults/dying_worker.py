"""A worker of Airflow: a process of its own that runs one step of a run, and can be killed in the middle of it.

The processes come from a fork server that has imported everything, because Airflow takes seconds to import.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, Self

from airflow._shared.module_loading import import_string

from tests.unit.dataproc.simulated_run import SimulatedRun, TaskInstance

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([__name__])


class Worker:
    """Runs `getattr(run, step)(**arguments)`, or with step `watch` a trigger; XComs reach the run as they are pushed.

    hangs_at: XCom key at whose push it hangs, with nothing stored.
    """

    def __init__(self, run: SimulatedRun, step: str, *, hangs_at: str = "", **arguments: Any) -> None:
        self._run = run
        self._xcoms = run.folder / f"xcoms-{run.name}.jsonl"
        self._hung = run.folder / f"hung-{run.name}"
        work = (dict(os.environ), run.folder, run.run_id, run.ti.xcoms, hangs_at, step, arguments)
        self._process = _FORKS.Process(target=_work, args=work)

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def kill_when(self, condition: Callable[[], bool], number: signal.Signals = signal.SIGKILL) -> None:
        """Send the signal as soon as the condition holds, and see the process end by it."""
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, "the worker never got there"
            assert self._process.is_alive(), f"the worker ended by itself: {self._process.exitcode}"
            time.sleep(0.02)
        assert self._process.pid
        os.kill(self._process.pid, number)
        self._process.join(timeout=30)
        assert self._process.exitcode in (-number, 128 + number)

    def kill_when_it_hangs(self) -> None:
        """Send SIGKILL as soon as it hangs at an XCom."""
        self.kill_when(self._hung.exists)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.join()
        if self._xcoms.exists():
            for line in self._xcoms.read_text().splitlines():
                self._run.ti.xcoms.update(json.loads(line))


def _work(
    environment: Mapping[str, str],
    folder: Path,
    run_id: str,
    xcoms: Mapping[str, Any],
    hangs_at: str,
    step: str,
    arguments: Mapping[str, Any],
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    run = SimulatedRun(SimpleNamespace(), folder, run_id)
    file = folder / f"xcoms-{run.name}.jsonl"

    def on_push(key: str, value: Any) -> None:
        if key == hangs_at:
            (folder / f"hung-{run.name}").touch()
            time.sleep(600)
        with file.open("a") as stored:
            stored.write(json.dumps({key: value}) + "\n")

    run.ti = TaskInstance(on_push)
    run.ti.xcoms.update(xcoms)

    def killed(number: int, _: Any) -> None:
        run.operator.on_kill()
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, killed)
    if step == "watch":
        asyncio.run(_watch(**arguments))
    else:
        getattr(run, step)(**arguments)


async def _watch(path: str, state: Mapping[str, Any]) -> None:
    async for _ in import_string(path)(**state).run():
        return
