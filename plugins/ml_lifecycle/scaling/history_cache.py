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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

VERSION = 1
OVERLAP_SECONDS = 600  # read anew in every pass, for samples that arrive late
KEPT_SECONDS = 3600  # a series that no pass has asked for this long gives up its place

Floats = NDArray[np.floating[Any]]


class HistoryCache:
    """The series of one step length."""

    def __init__(self, folder: Path, step_seconds: int, now: float) -> None:
        self.slot = int(now // step_seconds)
        self._overlap = max(2, math.ceil(OVERLAP_SECONDS / step_seconds))
        self._oldest_kept = self.slot - math.ceil(KEPT_SECONDS / step_seconds)
        self._file = folder / f"loads-{step_seconds}s.f32"
        self._index = self._file.with_suffix(".json")
        self._steps, self._newest = self._read_index()
        self._place = {name: place for place, name in enumerate(self._newest)}
        self._rows = self._open()

    def make_room(self, wanted: Mapping[str, int]) -> None:
        """Gives all that are `wanted` a place: numbers of samples by name."""
        steps = max(self._steps, *wanted.values())
        if steps == self._steps and wanted.keys() <= self._newest.keys():
            return
        kept = [
            name
            for name, newest in self._newest.items()
            if steps == self._steps and (name in wanted or newest >= self._oldest_kept)
        ]
        names = [*kept, *(wanted.keys() - set(kept))]
        new = self._file.with_suffix(".new")
        rows = np.memmap(new, np.float32, "w+", shape=(len(names), steps))
        for place, name in enumerate(kept):
            rows[place] = self._rows[self._place[name]]
        rows[len(kept) :] = np.nan
        self._index.unlink(missing_ok=True)  # so that it never speaks of another file
        new.rename(self._file)
        self._steps, self._rows = steps, rows
        self._newest = {name: self._newest[name] if place < len(kept) else -1 for place, name in enumerate(names)}
        self._place = {name: place for place, name in enumerate(names)}

    def missing(self, name: str, points: int) -> int:
        """How many of the last `points` samples must be asked for."""
        age = self.slot - self._newest.get(name, -1)
        return min(points, age + self._overlap) if 0 <= age < points else points

    def write(self, name: str, loads: Floats) -> None:
        """Takes in the newest samples, of which the last is now."""
        columns = np.arange(self.slot - len(loads) + 1, self.slot + 1) % self._steps
        self._rows[self._place[name], columns] = loads
        self._newest[name] = self.slot

    def read(self, name: str, points: int) -> Floats:
        """The last `points` samples; NaN is a gap."""
        row, end = self._rows[self._place[name]], self.slot % self._steps + 1
        if points <= end:
            return np.array(row[end - points : end])
        return np.concatenate([row[end - points :], row[:end]])

    def read_before(self, name: str, points: int) -> Floats | None:
        """The last `points` samples where those since the last pass could not be read; None if nothing is known."""
        age = self.slot - self._newest.get(name, -1)
        if not 0 < age < points:
            return None
        loads = self.read(name, points)
        loads[-age:] = np.nan
        return loads

    def save(self) -> None:
        """What is not saved is asked for again."""
        if self._newest:
            new = self._index.with_suffix(".json.new")
            new.write_text(json.dumps({"version": VERSION, "steps": self._steps, "newest": self._newest}))
            new.rename(self._index)

    def _read_index(self) -> tuple[int, dict[str, int]]:
        try:
            index = json.loads(self._index.read_text())
            steps, newest = int(index["steps"]), {str(name): int(slot) for name, slot in index["newest"].items()}
            whole = index["version"] == VERSION and self._file.stat().st_size == 4 * steps * len(newest)
        except FileNotFoundError:
            return 0, {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("%s cannot be read (%r): loads are read anew", self._index, error)
            return 0, {}
        return (steps, newest) if whole else (0, {})

    def _open(self) -> NDArray[np.float32]:
        if not self._newest:
            return np.empty((0, 0), dtype=np.float32)
        return np.memmap(self._file, np.float32, "r+", shape=(len(self._newest), self._steps))


def series_name(query: str, step_seconds: int, points: int) -> str:
    """A short name for what a query gives; one with another history is another series."""
    return blake2b(f"{points} {step_seconds} {query}".encode(), digest_size=12).hexdigest()


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Whether the folder is this pass's alone, while it lasts."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.warning("%s is in use by another pass: this one reads all loads from Prometheus", folder)
            yield False
            return
        yield True
