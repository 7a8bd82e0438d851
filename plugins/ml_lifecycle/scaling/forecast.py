"""The highest load of the coming lead time, for all scalers of a pass. Pure; torch.

Series of one length and horizon are answered together, by `peaks`. Where no model beats persistence the forecast is not
trusted: what is then said is the load now with the margin that its own past asks for.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ml_lifecycle.scaling.choice import AUTO
from ml_lifecycle.scaling.models import MODELS, PERSISTENCE, TREND
from ml_lifecycle.scaling.peaks import origins_needed, peaks
from ml_lifecycle.scaling.windows import stride_of

# Replicas are added when peaks that they cannot carry are so many times as frequent as is allowed, and then so many
# that those are as rare as this; taken away while they stay as rare. On average it is about what is allowed.
ALARM, RESERVE = 1.5, 0.7
MOST_MISSED = 0.95
YOUNG = 0.1  # share of a history that may lack at its begin
SHORT, GROWS = 64, 1.1  # shorter histories are used as they are, longer ones of young services at lengths so far apart
CELLS_PER_CHUNK = 1_300_000  # (series x time) that one thread works on: Python's share is small, and the cache holds it


@dataclass(frozen=True)
class Question:
    """What is asked about one series."""

    loads: NDArray[np.floating[Any]]  # [time], oldest first, the last is now; NaN is a gap
    scale: float  # load that one replica carries
    horizon: int  # steps ahead
    quantile: float
    lookback: int = 1  # steps over which `recent_reserve` looks back
    step_seconds: float = 60.0
    at: float = 0.0  # Unix seconds of now; what was learnt a tick ago is then learnt from the same past
    model: str = AUTO  # or the one of MODELS that is to be used wherever it beats persistence


@dataclass(frozen=True)
class Forecast:
    """The highest load of the coming horizon, in units of load."""

    expected: float  # median
    alarm: float  # what must be carried: surpassed ALARM times as often as `peak`
    peak: float  # the quantile that was asked for
    reserve: float  # what is added for: surpassed RESERVE times as often as `peak`
    recent_reserve: float  # highest `reserve` that the last `lookback` steps would have said
    model: str
    skill: float  # share of persistence's loss that the model saved, over the recent past
    trusted: bool
    reason: str


def forecast(questions: Sequence[Question], *, device: str = "cpu", threads: int = 1) -> list[Forecast]:
    """One answer for each question, in order; a question's answer does not depend on its company.

    `threads` chunks are worked on at a time, each by one thread: that is faster than many threads on one chunk.
    """
    chunks = list(_chunks(questions))
    if not chunks:
        return []

    def answer(chunk: _Chunk) -> list[Forecast]:
        return _answers([questions[index] for index in chunk.members], chunk, torch.device(device))

    if threads == 1:
        found = [answer(chunk) for chunk in chunks]
    else:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            found = list(pool.map(answer, chunks))
    answers: dict[int, Forecast] = {}
    for chunk, batch in zip(chunks, found, strict=True):
        answers.update(zip(chunk.members, batch, strict=True))
    return [answers[index] for index in range(len(questions))]


@dataclass(frozen=True)
class _Chunk:
    """Questions, by their places, that are answered together: alike in all but the series itself."""

    members: Sequence[int]
    length: int
    horizon: int
    step_seconds: float
    tick: int
    model: str


def _chunks(questions: Sequence[Question]) -> Iterator[_Chunk]:
    groups: dict[tuple[int, int, float, int, str], list[int]] = defaultdict(list)
    for index, question in enumerate(questions):
        tick = round(question.at / question.step_seconds)
        length = used_length(question.loads)
        groups[length, question.horizon, question.step_seconds, tick, question.model].append(index)
    for (length, horizon, step, tick, model), members in groups.items():
        # Short histories have an origin at every step, and features at every origin.
        size = max(1, CELLS_PER_CHUNK // max(length, 8 * (length // stride_of(length))))
        for start in range(0, len(members), size):
            yield _Chunk(members[start : start + size], length, horizon, step, tick, model)


def used_length(loads: NDArray[np.floating[Any]]) -> int:
    """How many of the last samples are used, at least 1.

    All, unless the service is much younger than its history: then one of a few lengths, so that young services
    still share a batch.
    """
    present = np.isfinite(loads)
    first = int(present.argmax()) if present.any() else len(loads)
    if first <= YOUNG * len(loads):
        return max(1, len(loads))
    known = len(loads) - first
    if known <= SHORT:
        return max(1, known)
    return int(SHORT * GROWS ** math.floor(math.log(known / SHORT) / math.log(GROWS)))


def _answers(questions: Sequence[Question], chunk: _Chunk, device: torch.device) -> list[Forecast]:
    loads = np.full((len(questions), chunk.length), np.nan, dtype=np.float32)
    for index, question in enumerate(questions):
        if len(question.loads):
            used = question.loads[-chunk.length :]
            loads[index, -len(used) :] = used
    found = peaks(
        torch.from_numpy(loads).to(device),
        scale=_column([question.scale for question in questions], device),
        quantiles=asked_quantiles(_column([question.quantile for question in questions], device)),
        lookback=torch.tensor([question.lookback for question in questions], device=device),
        horizon=chunk.horizon,
        step_seconds=chunk.step_seconds,
        tick=chunk.tick,
        model=chunk.model,
    )
    columns = (found.expected, found.peak, found.model, found.skill, found.rising)
    first = [column[:, 0].tolist() for column in columns]
    others = [found.peak[:, 1].tolist(), found.peak[:, 2].tolist(), found.recent_peak[:, 2].tolist()]
    rows = zip(*first, *others, found.origins.tolist(), found.blind.tolist(), strict=True)
    return [_answer(*row, needed=origins_needed(chunk.horizon)) for row in rows]


def _answer(
    expected: float,
    peak: float,
    model: int,
    skill: float,
    rising: bool,  # noqa: FBT001
    alarm: float,
    reserve: float,
    recent: float,
    origins: int,
    blind: bool,  # noqa: FBT001
    *,
    needed: int,
) -> Forecast:
    alarm = max(alarm, expected)
    peak = max(peak, alarm)
    reserve = max(reserve, peak)
    trusted = False
    if not np.isfinite(peak):
        reason = "no sample now: nothing to forecast from"
    elif origins < needed:
        reason = f"history too short: {origins} finished forecasts, {needed} are needed"
    elif blind:
        reason = "no sample now: the load is taken to go on as it went yesterday"
    elif model == PERSISTENCE:
        reason = "no model beats the load's last value: acting on the load and on how much it varies"
    elif model == TREND and rising:
        trusted = True
        reason = "the load rises beyond its noise: its trend is followed"
    else:
        trusted = True
        reason = f"{MODELS[model]} misses {skill:.0%} less than the load's last value"
    return Forecast(expected, alarm, peak, reserve, max(recent, reserve), MODELS[model], skill, trusted, reason)


def asked_quantiles(quantiles: Tensor) -> Tensor:
    """[series, 3 k]: the quantiles, then those of the alarm, then those of the reserve."""
    alarm, peak, reserve = shares_asked((1 - quantiles).numpy(force=True))
    return 1 - torch.from_numpy(np.concatenate([peak, alarm, reserve], axis=1)).to(quantiles)


def shares_asked(missed: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """The shares of peaks that may surpass alarm, peak and reserve, of those `missed` that may surpass the peak."""
    return np.minimum(ALARM * missed, MOST_MISSED), missed, RESERVE * missed


def _column(values: Sequence[float], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device).unsqueeze(1)
