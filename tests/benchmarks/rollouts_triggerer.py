"""Airflow's own triggerer, supervisor and runner in two processes, without Airflow's database.

Triggers arrive by a pipe instead of a table, events leave by it; the runner process, its event loop and what it does
with each trigger are Airflow's. A stopwatch around each look of `CanaryTrigger` writes down when it was due.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import ClassVar


def serve(folder: Path, environment: Mapping[str, str], pipe: Connection) -> None:
    """Receives `(id, class path, arguments)`, sends `(id, payload or error)`, until None comes."""
    os.environ.update(environment)
    log = (folder / "triggerer.log").open("w")
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    _supervisor(folder / "looks.jsonl", pipe).run()


def _supervisor(looks: Path, given_pipe: Connection):
    import structlog
    from airflow.executors import workloads
    from airflow.jobs.triggerer_job_runner import TriggerRunner, TriggerRunnerSupervisor
    from airflow.models.trigger import Trigger

    class Supervisor(TriggerRunnerSupervisor):
        """The supervisor, as far as it needs no database."""

        pipe: ClassVar[Connection] = given_pipe

        @classmethod
        def run_in_process(cls):
            time_looks(looks)
            TriggerRunner().run()

        def load_triggers(self):
            while self.pipe.poll():
                if (given := self.pipe.recv()) is None:
                    self.kill(force=True)
                    self.stop = True
                    return
                number, path, arguments = given
                encrypted = Trigger.encrypt_kwargs(arguments)
                self.creating_triggers.append(
                    workloads.RunTrigger(id=number, classpath=path, encrypted_kwargs=encrypted)
                )

        def on_trigger_event(self, trigger_id, event):
            self.pipe.send((trigger_id, event.payload))

        def on_trigger_failure(self, trigger_id, exc):
            self.pipe.send((trigger_id, {"status": "failed", "reason": "".join(exc or ["it ended without an event"])}))

        def clean_unused(self):
            """There is no table."""

        def heartbeat(self):
            """Nobody listens."""

        def metric_tags(self):
            return {"hostname": socket.gethostname()}

    return Supervisor.start(capacity=1000, logger=structlog.get_logger())


def time_looks(path: Path) -> None:
    """From now on each look of this process is a line: the service, when it was due, begun and ended (Unix seconds)."""
    from ml_lifecycle.kserve.triggers import CanaryTrigger, next_look

    original, due = CanaryTrigger._look, {}
    lines = path.open("a", buffering=1)

    async def look(trigger, *args):
        begun = time.time()
        first = trigger.service not in due
        expected = due.get(trigger.service, begun)
        due[trigger.service] = next_look(trigger.service, begun, trigger.poll_seconds)
        try:
            return await original(trigger, *args)
        finally:
            ended = time.time()
            line = {"service": trigger.service, "first": first, "due": expected, "begun": begun, "ended": ended}
            lines.write(json.dumps(line) + "\n")

    CanaryTrigger._look = look
