"""Where a pod's logs are, and how the API reads them: each line in the file begins with its time, as kubelet writes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

_POLL_SECONDS = 0.1


def log_path(state: Path, pod: Mapping[str, Any], container: str) -> Path:
    """The file that a container of a pod writes to, and nothing but it."""
    metadata = pod["metadata"]
    return state / "pods" / f"{metadata['namespace']}_{metadata['name']}_{metadata['uid']}" / f"{container}.log"


@dataclass(frozen=True)
class LogOptions:
    """What a reader of a log asks for."""

    tail_lines: int | None = None
    since: datetime | None = None
    timestamps: bool = False
    limit_bytes: int | None = None

    @classmethod
    def parse(cls, query: Mapping[str, str], now: datetime) -> LogOptions:
        """The options of a request's query; ValueError where one is malformed."""
        since = None
        if "sinceSeconds" in query:
            since = now - timedelta(seconds=int(query["sinceSeconds"]))
        elif "sinceTime" in query:
            since = datetime.fromisoformat(query["sinceTime"])
        return cls(
            tail_lines=int(query["tailLines"]) if "tailLines" in query else None,
            since=since,
            timestamps=query.get("timestamps", "false").lower() == "true",
            limit_bytes=int(query["limitBytes"]) if "limitBytes" in query else None,
        )


def _wanted(line: bytes, options: LogOptions) -> bytes | None:
    stamp, _, text = line.partition(b" ")
    moment = _moment(stamp)
    if moment is None:
        stamp, text, moment = b"", line, datetime.now(UTC)
    if options.since is not None and moment < options.since:
        return None
    if not options.timestamps:
        return text
    return b"%s %s" % (stamp or moment.isoformat().replace("+00:00", "Z").encode(), text)


def _moment(stamp: bytes) -> datetime | None:
    try:
        moment = datetime.fromisoformat(stamp.decode())
    except ValueError:
        return None
    return moment if moment.tzinfo else None


async def read_log(path: Path, options: LogOptions, *, follow: bool, ended: Callable[[], bool]) -> AsyncIterator[bytes]:
    """The lines of a log; with `follow`, until `ended` says that nobody writes any more."""
    left = options.limit_bytes
    async for line in _lines(path, options, follow=follow, ended=ended):
        if left is not None:
            line = line[:left]
            left -= len(line)
        yield line
        if left == 0:
            return


async def _lines(path: Path, options: LogOptions, *, follow: bool, ended: Callable[[], bool]) -> AsyncIterator[bytes]:
    position, pending = 0, b""
    first = True
    while True:
        last_round = not follow or ended()
        chunk = _read(path, position)
        position += len(chunk)
        *complete, pending = (pending + chunk).split(b"\n")
        if last_round and pending:
            complete.append(pending)
        lines = [line for raw in complete if (line := _wanted(raw, options)) is not None]
        if first and options.tail_lines is not None:
            lines = list(deque(lines, maxlen=options.tail_lines))
        first = False
        for line in lines:
            yield line + b"\n"
        if last_round:
            return
        await asyncio.sleep(_POLL_SECONDS)


def _read(path: Path, position: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(position)
            return file.read()
    except FileNotFoundError:
        return b""
