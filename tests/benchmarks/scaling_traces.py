"""Load traces for the replay: any CSV of a time and a value column or of one row per request, or made here."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

TICK_SECONDS = 60
REGULAR = 0.9  # share of the commonest spacing from which rows are samples, and below which they are requests
TIME_NAMES = ("time", "timestamp", "ts", "date", "datetime", "period")
VALUE_NAMES = ("value", "count", "requests", "load", "rps", "invocations")
FORMATS = ("%d/%b/%Y:%H:%M:%S %z", "%d/%b/%Y:%H:%M:%S", "%m/%d/%Y %H:%M", "%m/%d/%y %H:%M", "%Y/%m/%d %H:%M:%S")


@dataclass(frozen=True)
class Trace:
    """A load, one value a minute; NaN is a minute of which nothing is known."""

    name: str
    load: Floats
    read: str  # what was read, in words

    @property
    def days(self) -> float:
        """Length."""
        return len(self.load) * TICK_SECONDS / 86_400


class TraceError(ValueError):
    """A file that is no trace."""


def read_folder(folder: Path) -> Iterator[Trace]:
    """Every CSV of the folder, by name; what is no trace is said and left out."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in {".csv", ".tsv"})
    if not files:
        raise TraceError(f"{folder} holds no .csv")
    for path in files:
        try:
            yield read_trace(path)
        except TraceError as error:
            print(f"{path.name}: left out: {error}", flush=True)


def read_trace(path: Path) -> Trace:
    """One CSV; TraceError says what it lacks."""
    header, rows = _rows(path)
    time, times = _time_column(header, rows)
    order = np.argsort(times, kind="stable")
    times = times[order]
    span = np.diff(times)
    if len(times) < 30 or times[-1] <= times[0]:
        raise TraceError(f"{len(times)} rows with a time are too few")
    steps, counts = np.unique(span[span >= 0], return_counts=True)
    step = float(steps[counts.argmax()])
    if step > 0 and counts.max() >= REGULAR * len(span):
        column = _value_column(header, rows, time)
        if column is not None:
            values = np.array([_number(row[column]) if column < len(row) else math.nan for row in rows])[order]
            words = f"{len(rows):,} samples of {step:g} s in column {header[column]!r}"
            return _trace(path.stem, _samples(times, values, step), words)
    minutes = np.floor(times / TICK_SECONDS).astype(np.int64)
    counted = np.bincount(minutes - minutes[0]).astype(float)
    # The first and the last minute are cut off somewhere in their middle.
    return _trace(path.stem, counted[1:-1], f"{len(times):,} requests by column {header[time]!r}, counted per minute")


def _trace(name: str, load: Floats, words: str) -> Trace:
    missing = int(np.isnan(load).sum())
    gaps = f", {missing:,} minutes missing" if missing else ""
    return Trace(name, load, f"{words}: {len(load):,} minutes ({len(load) / 1440:.1f} days){gaps}")


def _rows(path: Path) -> tuple[list[str], list[list[str]]]:
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        sample = file.read(4096)
        file.seek(0)
        delimiter = max(",;\t", key=sample.count)
        rows = [row for row in csv.reader(file, delimiter=delimiter) if row]
    if not rows:
        raise TraceError("it is empty")
    headed = not any(_number(cell) == _number(cell) or _moment(cell) is not None for cell in rows[0])
    header = rows[0] if headed else [f"column {index + 1}" for index in range(len(rows[0]))]
    return header, rows[1:] if headed else rows


def _time_column(header: Sequence[str], rows: list[list[str]]) -> tuple[int, Floats]:
    """The column of times, and they in seconds; rows without a time are taken out of `rows`."""
    named = [index for index, name in enumerate(header) if name.strip().lower() in TIME_NAMES]
    for index in [*named, *range(len(header))]:
        probe = [_moment(row[index]) for row in rows[:50] if index < len(row)]
        if probe and sum(moment is not None for moment in probe) >= REGULAR * len(probe):
            moments = [_moment(row[index]) if index < len(row) else None for row in rows]
            rows[:] = [row for row, moment in zip(rows, moments, strict=True) if moment is not None]
            return index, np.array([moment for moment in moments if moment is not None])
    raise TraceError("no column of times")


def _value_column(header: Sequence[str], rows: list[list[str]], time: int) -> int | None:
    others = [index for index in range(len(header)) if index != time]
    others.sort(key=lambda index: header[index].strip().lower() not in VALUE_NAMES)
    for index in others:
        probe = [_number(row[index]) for row in rows[:200] if index < len(row)]
        if probe and np.isfinite(probe).mean() > 0.5:
            return index
    return None


def _samples(times: Floats, values: Floats, step: float) -> Floats:
    """The mean of each minute; a coarser sample holds until the next is due, as Prometheus shows it."""
    first = int(times[0] // TICK_SECONDS)
    minute = (times // TICK_SECONDS).astype(np.int64) - first
    length = int(minute[-1]) + max(1, round(step / TICK_SECONDS))
    known = np.isfinite(values) & (values >= 0)
    total = np.bincount(minute[known], values[known], length)
    count = np.bincount(minute[known], minlength=length)
    load = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    for _ in range(1, round(step / TICK_SECONDS)):
        load = np.where(np.isnan(load), np.concatenate([[np.nan], load[:-1]]), load)
    return load


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _moment(text: str) -> float | None:
    """Unix seconds; None if the text is no time."""
    text = text.strip().strip('"[]')
    value = _number(text)
    if math.isfinite(value):
        for unit in (1.0, 1e3, 1e6, 1e9):  # seconds or finer; before 1980 it is no time
            if 3e8 < value / unit < 1e10:
                return value / unit
        return None
    try:
        head, dot, tail = text.partition(".")
        digits = len(tail) - len(tail.lstrip("0123456789"))
        moment = datetime.fromisoformat(head + dot + tail[: min(digits, 6)] + tail[digits:])
    except ValueError:
        for pattern in FORMATS:
            try:
                moment = datetime.strptime(text, pattern)  # noqa: DTZ007  # UTC is said below
                break
            except ValueError:
                continue
        else:
            return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def synthetic_traces(seed: int = 0) -> list[Trace]:
    """Traces that need no file: a season with noise, a shop with bursts, a short burst of requests."""
    random = np.random.default_rng(seed)
    made = [
        ("seasonal", _seasonal(random, 14)),
        ("bursts", _bursts(random, 12)),
        ("hour", random.poisson(300 * np.exp(_wander(random, 90, 0.2, 15)))),
    ]
    return [_trace(f"synthetic_{name}", np.asarray(load, dtype=float), "made here") for name, load in made]


def _seasonal(random: np.random.Generator, days: int) -> Floats:
    """A working day's shape, quieter at the weekend, with counting noise and a slow drift."""
    minute = np.arange(days * 1440)
    day = np.exp(1.2 * np.tanh(2 * np.sin(2 * np.pi * (minute / 1440 - 0.3))))
    weekend = np.where(minute // 1440 % 7 >= 5, 0.6, 1.0)
    mean = 400 * day * weekend * np.exp(_wander(random, len(minute), 0.15, 600))
    return random.poisson(mean).astype(float)


def _bursts(random: np.random.Generator, days: int) -> Floats:
    """A flat day with a few unannounced bursts, each of which rises in minutes and fades within the hour."""
    minute = np.arange(days * 1440)
    mean = 200 * (1.5 + np.sin(2 * np.pi * minute / 1440)) * np.exp(_wander(random, len(minute), 0.2, 120))
    for start in random.choice(len(minute), 3 * days, replace=False):
        age = np.maximum(minute - start, 0)
        shape = (1 - np.exp(-age / random.uniform(2, 10))) * np.exp(-age / random.uniform(15, 60))
        mean = mean * (1 + random.uniform(0.5, 2.0) * shape)
    return random.poisson(mean).astype(float)


def _wander(random: np.random.Generator, length: int, size: float, minutes: float) -> Floats:
    """A stationary random walk with the given standard deviation and memory."""
    keep = math.exp(-1 / minutes)
    steps = random.standard_normal(length) * size * math.sqrt(1 - keep**2)
    level, path = 0.0, np.empty(length)
    for index, step in enumerate(steps):
        level = keep * level + step
        path[index] = level
    return path
