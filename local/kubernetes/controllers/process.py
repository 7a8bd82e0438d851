"""A container as a process: its own group, its lines in a log file, and an end together with its parent's."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import datetime
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
# Looked up here: between fork and exec a child of a process with threads should do as little as possible.
_PRCTL = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
_LONGEST_LINE = 1024 * 1024

INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "SSL_CERT_FILE")
"""Variables that a container takes over from this process; everything else is its own."""


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _die_with_parent() -> None:
    if _PRCTL is not None:
        _PRCTL(_PR_SET_PDEATHSIG, 9)


class ContainerProcess:
    """A running process and everything it starts; all of it ends with `stop` or with the process itself."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self._copying = asyncio.create_task(self._copy_output())

    @classmethod
    async def start(
        cls, command: Sequence[str], *, cwd: Path, environment: Mapping[str, str], log: Path
    ) -> ContainerProcess:
        """Start `command`; OSError if it cannot be started. Its output is appended to `log`."""
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=cwd,
            env={**inherited, "PYTHONUNBUFFERED": "1", **environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent,
            limit=_LONGEST_LINE,
        )
        return cls(process, log)

    @property
    def pid(self) -> int:
        """The process, and its group."""
        return self._process.pid

    async def wait(self) -> int:
        """The exit code, 128 + the number of a deadly signal as a shell counts; the log is complete."""
        code = await self._process.wait()
        # What the process left behind would hold the log's pipe open.
        self._signal(signal.SIGKILL)
        await self._copying
        return code if code >= 0 else 128 - code

    async def stop(self, grace_seconds: float) -> None:
        """SIGTERM, and SIGKILL to what is left of the group after `grace_seconds`."""
        if self._process.returncode is None:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_seconds):
                    await self._process.wait()
        self._signal(signal.SIGKILL)
        await self._process.wait()
        await self._copying

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    async def _copy_output(self) -> None:
        output = self._process.stdout
        if output is None:
            return
        with self._log.open("ab", buffering=0) as log:
            while line := await self._line(output):
                # As kubelet keeps logs: every line begins with its time.
                time = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
                log.write(time.encode() + b" " + line.rstrip(b"\n") + b"\n")

    @staticmethod
    async def _line(output: asyncio.StreamReader) -> bytes:
        try:
            return await output.readuntil(b"\n")
        except asyncio.IncompleteReadError as rest:
            return rest.partial
        except asyncio.LimitOverrunError as overrun:
            return await output.readexactly(overrun.consumed)
