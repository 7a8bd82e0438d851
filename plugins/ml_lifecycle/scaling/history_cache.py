"""Loads that earlier passes have read, on a worker's disk, so that a pass asks Prometheus only for what is new.

A cache, not state: where it is missing, damaged or in use by another pass, everything is asked of Prometheus. One file
for each step length, float32 [series, step]: the sample of step number `n` (Unix time // step) is in column `n` modulo
their number.
Passes do not come to the second, so a sample may lie up to one step beside its number.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

VERSION = 1
OVERLAP_SECONDS = 600  # read anew in every pass, for samples that arrive late
KEPT_SECONDS = 3600  # a series that no pass has asked for this long gives up its place
WHOLE_AGAIN_SECONDS = 86_400  # about; then a whole history is read again, in case the first answer lacked some of it

Floats = NDArray[np.floating[Any]]


@dataclass
class _Entry:
    """What is known of a series, in numbers of steps; -1: nothing."""

    newest: int = -1
    whole: int = -1  # when all of it was last read


class HistoryCache:
    """The series of one step length; OSError where the folder cannot be used."""

    def __init__(self, folder: Path, step_seconds: int, now: float) -> None:
        self.slot = int(now // step_seconds)
        self._overlap = max(2, math.ceil(OVERLAP_SECONDS / step_seconds))
        self._again = math.ceil(WHOLE_AGAIN_SECONDS / step_seconds)
        self._oldest_kept = self.slot - math.ceil(KEPT_SECONDS / step_seconds)
        self._file = folder / f"loads-{step_seconds}s.f32"
        self._index = self._file.with_suffix(".json")
        self._steps, self._entries = self._read_index()
        self._place = {name: place for place, name in enumerate(self._entries)}
        self._rows = self._open()

    def make_room(self, wanted: Mapping[str, int]) -> None:
        """Gives all that are `wanted` a place: numbers of samples by name."""
        steps = max(self._steps, *wanted.values())
        if steps == self._steps and wanted.keys() <= self._entries.keys():
            return
        kept = {
            name: entry
            for name, entry in self._entries.items()
            if steps == self._steps and (name in wanted or entry.newest >= self._oldest_kept)
        }
        entries = {**kept, **{name: _Entry() for name in wanted if name not in kept}}
        new = self._file.with_suffix(".new")
        _reserve(new, 4 * len(entries) * steps)
        rows = np.memmap(new, np.float32, "r+", shape=(len(entries), steps))
        for place, name in enumerate(kept):
            rows[place] = self._rows[self._place[name]]
        rows[len(kept) :] = np.nan
        self._index.unlink(missing_ok=True)  # so that it never speaks of another file
        new.rename(self._file)
        self._steps, self._rows, self._entries = steps, rows, entries
        self._place = {name: place for place, name in enumerate(entries)}

    def missing(self, name: str, points: int) -> int:
        """How many of the last `points` samples must be asked for."""
        entry = self._entries[name]
        age = self.slot - entry.newest
        # Not all at once: each at a time of its own between half a day and a day and a half.
        due = entry.whole + self._again * (0.5 + int(name[:4], 16) / 0xFFFF)
        return min(points, age + self._overlap) if 0 <= age < points and self.slot < due else points

    def write(self, name: str, loads: Floats, points: int) -> None:
        """Takes in the newest samples, of which the last is now; `points` are all."""
        columns = np.arange(self.slot - len(loads) + 1, self.slot + 1) % self._steps
        self._rows[self._place[name], columns] = loads
        entry = self._entries[name]
        entry.newest = self.slot
        if len(loads) >= points:
            entry.whole = self.slot

    def read(self, name: str, points: int) -> Floats:
        """The last `points` samples; NaN is a gap."""
        row, end = self._rows[self._place[name]], self.slot % self._steps + 1
        if points <= end:
            return np.array(row[end - points : end])
        return np.concatenate([row[end - points :], row[:end]])

    def read_before(self, name: str, points: int) -> Floats | None:
        """The last `points` samples where those since the last pass could not be read; None if nothing is known."""
        age = self.slot - self._entries[name].newest
        if not 0 <= age < points:
            return None
        loads = self.read(name, points)
        loads[points - age :] = np.nan
        return loads

    def save(self) -> None:
        """What is not saved is asked for again."""
        series = {name: [entry.newest, entry.whole] for name, entry in self._entries.items()}
        new = self._index.with_suffix(".json.new")
        try:
            new.write_text(json.dumps({"version": VERSION, "boot": _boot(), "steps": self._steps, "series": series}))
            new.rename(self._index)
        except OSError as error:
            logger.warning("%s cannot be written (%s): the next pass reads more", self._index, error)

    def _read_index(self) -> tuple[int, dict[str, _Entry]]:
        try:
            index = json.loads(self._index.read_text())
            steps = int(index["steps"])
            entries = {str(name): _Entry(int(newest), int(whole)) for name, (newest, whole) in index["series"].items()}
            # After a crash of the machine the file may lack what the index promises.
            sound = (index["version"], index["boot"]) == (VERSION, _boot())
            sound &= self._file.stat().st_size == 4 * steps * len(entries)
        except FileNotFoundError:
            return 0, {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("%s cannot be read (%r): loads are read anew", self._index, error)
            return 0, {}
        return (steps, entries) if sound else (0, {})

    def _open(self) -> NDArray[np.float32]:
        if not self._entries:
            return np.empty((0, 0), dtype=np.float32)
        return np.memmap(self._file, np.float32, "r+", shape=(len(self._entries), self._steps))


def _reserve(path: Path, size: int) -> None:
    """A file for which the disk has room: a mapped page without would end the process when it is written."""
    try:
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _boot() -> str:
    """Another one after each start of the machine; empty where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def series_name(server: str, query: str, step_seconds: int, points: int) -> str:
    """A short name for what a query gives at a server; one with another history is another series."""
    return blake2b(f"{points} {step_seconds} {server} {query}".encode(), digest_size=12).hexdigest()


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Whether the folder is this pass's alone, while it lasts; never in one that others own or may write to."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        logger.warning("%s must belong to this user, and nobody else may write there: it is not used", folder)
        yield False
        return
    # Never through a link, and nothing is cut off: what lies there under this name may be anything.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(folder / "lock", flags, 0o600), "r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.warning("%s is in use by another pass: this one reads all loads from Prometheus", folder)
            yield False
            return
        yield True
