"""The highest load of the coming lead time, for a batch of services at once. Pure; torch.

Works in log-load relative to what one replica carries, so that one setting fits every service. Each model predicts by
how much the highest load of the next `horizon` steps exceeds the load now:

- persistence: not at all;
- trend: the slope of the last steps goes on, as far as it stands out from the series' own noise;
- seasonal: as it did yesterday at this time;
- ridge: a regression on the recent shape, on the same window of the days and the week before, and on the time of day;
- Holt-Winters and a straight line through ten samples: only where they are asked for.

What each model has missed by, in units of how much is missed at such times (`spread`), gives the quantile that is
added to it; the pinball loss of the result over the recent past chooses the model. Where nothing beats persistence the
forecast is not trusted: what is then said is the load now with the margin that its own past asks for.
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

from ml_lifecycle.scaling.features import (
    base_level,
    clock_features,
    noise_margin,
    season_features,
    shape_features,
    trend,
)
from ml_lifecycle.scaling.margins import margins
from ml_lifecycle.scaling.quantiles import ENOUGH, median_size
from ml_lifecycle.scaling.ridge import fit
from ml_lifecycle.scaling.spread import spread
from ml_lifecycle.scaling.textbook import holt_winters, straight_line
from ml_lifecycle.scaling.windows import OFFSET, Windows, stride_of

MODELS = ("persistence", "trend", "seasonal", "ridge", "holtWinters", "straightLine")
PERSISTENCE, TREND, SEASONAL, RIDGE, HOLT_WINTERS, STRAIGHT_LINE = range(6)
USUAL = 4  # of them are tried; the others only where they are asked for
AUTO = "auto"

DAY_SECONDS = 86_400
LONGEST_GROWTH = float(np.log(3.0))  # no forecast says more than threefold
FEWEST_ORIGINS = 6  # finished forecasts without which nothing is trusted
# Forecasts that overlap tell little more than one: these count in horizons.
HORIZONS_FOR_ANY = 2
HORIZONS_FOR_RIDGE = 10
HALF_LIFE_DAYS = 3.0  # at most; of a shorter history a half
PENALTY = 3.0  # of the ridge, in samples
SPIKE = 4.0  # median sizes beyond which a growth is cut off before the ridge sees it
SKILL = 0.02  # share of persistence's loss that a model must save
# Replicas are added when peaks that they cannot carry are so many times as frequent as is allowed, and then so many
# that those are as rare as this; taken away while they stay as rare. On average it is about what is allowed.
ALARM, RESERVE = 1.5, 0.7
MOST_MISSED = 0.95
BENEFIT_OF_DOUBT = 0.05  # of its loss, to the trend while the load rises beyond its noise
SHARPNESS = 30.0  # of the choice between models, by their relative loss
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


@dataclass(frozen=True)
class Peaks:
    """The answers for a batch, as tensors; loads in their own unit."""

    expected: Tensor  # [series, quantile]: the chosen model's median
    peak: Tensor  # [series, quantile]; NaN where there is no sample now
    recent_peak: Tensor  # [series, quantile]
    model: Tensor  # [series, quantile]: place in MODELS
    skill: Tensor  # [series, quantile]
    rising: Tensor  # [series, quantile]: the load rises beyond its noise
    origins: Tensor  # [series]: finished forecasts
    blind: Tensor  # [series]: there is no sample now, and yesterday's course stands for it


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
    return [_answer(*row, needed=_origins_needed(chunk.horizon)) for row in rows]


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
    missed = 1 - quantiles
    return torch.cat([quantiles, 1 - (ALARM * missed).clamp(max=MOST_MISSED), 1 - RESERVE * missed], dim=1)


def peaks(
    loads: Tensor,
    *,
    scale: Tensor,
    quantiles: Tensor,
    lookback: Tensor,
    horizon: int,
    step_seconds: float,
    tick: int = 0,
    model: str = AUTO,
) -> Peaks:
    """The batch's answers: `loads` [series, time] with NaN in gaps, `scale` [series, 1], `quantiles` [series, k].

    `tick` numbers the steps, so that successive passes look from the same origins. With a `model` of its own, only that
    one is tried beside persistence.
    """
    day = round(DAY_SECONDS / step_seconds)
    stride = stride_of(loads.shape[1])
    windows = Windows.of(loads, scale, stride, tick % stride, int(lookback.max()), day)
    origins = windows.origins
    overlap = max(1.0, horizon / windows.stride)

    base = base_level(windows)
    highest, passed = windows.highest_ahead(horizon)
    begun = highest.isfinite()
    growth = torch.where(begun, highest - base[:, :origins], 0.0)
    samples = (windows.time - windows.first).float()
    decay = windows.weight((samples / 2).clamp(max=HALF_LIFE_DAYS * day))
    weight = torch.where(passed, decay, 0.0)

    straight = trend(windows, horizon, LONGEST_GROWTH)
    seasons, yesterday = season_features(windows, horizon, day)
    columns = [torch.ones_like(base), straight, *shape_features(windows), *seasons, *clock_features(windows, day)]
    cut = SPIKE * 1.4826 * median_size(growth, weight) + 1e-3
    fitted, left_out = fit(
        torch.stack(columns, dim=1), torch.maximum(torch.minimum(growth, cut), -cut), weight, PENALTY * overlap
    )
    left_out = left_out + growth - torch.maximum(torch.minimum(growth, cut), -cut)

    models = [torch.zeros_like(base), straight, yesterday, fitted]
    if model in MODELS[USUAL:]:  # the places of both, so that MODELS names them
        models += [
            holt_winters(windows, horizon, day) if model == MODELS[HOLT_WINTERS] else models[PERSISTENCE],
            straight_line(windows, horizon, LONGEST_GROWTH) if model == MODELS[STRAIGHT_LINE] else models[PERSISTENCE],
        ]
    predicted = torch.stack(models)  # [model, series, point]
    residual = growth - predicted[..., :origins]
    residual[RIDGE] = torch.where(passed, left_out, residual[RIDGE])
    finished = passed.sum(dim=1)
    young = (finished < ENOUGH)[:, None]
    added, loss = margins(
        residual,
        spread(windows, residual[RIDGE], weight, horizon=horizon, day=day, overlap=overlap),
        quantiles,
        weight=weight,
        judged=torch.where(begun, decay, 0.0),
        passed=passed,
        least=torch.where(young, noise_margin(windows, horizon, quantiles), -torch.inf),
    )
    loss[RIDGE] = torch.where(
        (finished * windows.stride >= HORIZONS_FOR_RIDGE * horizon)[:, None], loss[RIDGE], torch.inf
    )
    if model != AUTO:
        others = [place for place in range(len(models)) if place not in {PERSISTENCE, MODELS.index(model)}]
        loss[others] = torch.inf
    rising = straight[:, -1:] > added[PERSISTENCE, ..., -1]
    # A rise that has just begun has no past to be proven on, and waiting for the proof would be too late.
    loss[TREND] = torch.where(rising, (1 - BENEFIT_OF_DOUBT) * loss[TREND], loss[TREND])
    best = loss.argmin(dim=0)  # [series, k]; the simpler model wins a tie
    lowest = loss.gather(0, best.unsqueeze(0)).squeeze(0)
    skill = torch.where(loss[PERSISTENCE] > 1e-6, 1 - lowest / loss[PERSISTENCE], 0.0)
    enough = (finished >= _origins_needed(horizon))[:, None]
    best = torch.where(enough & (skill >= SKILL), best, PERSISTENCE)

    # Models that do about as well speak together, so that a tie that turns moves no replicas.
    say = torch.exp(-SHARPNESS * (loss / lowest.clamp(min=1e-9) - 1))
    alone = torch.zeros_like(say).scatter(0, best.unsqueeze(0), 1.0)
    say = torch.where(
        (best == PERSISTENCE) | (rising & (best == TREND)), alone, say / say.sum(dim=0)
    )  # [model, series, k]
    chosen = torch.einsum("msk,msl->skl", say, predicted[..., origins:])
    above = (say.unsqueeze(-1) * added).sum(dim=0)
    near = (base[:, origins:] + windows.center).unsqueeze(1)
    # No more than threefold, unless the history has seen as much.
    ceiling = torch.maximum(base[:, origins:] + LONGEST_GROWTH, windows.seen.amax(dim=1, keepdim=True)) + windows.center
    said = torch.minimum(near + chosen + above, ceiling.unsqueeze(1))
    recent = torch.arange(windows.last, device=loads.device) >= windows.last - lookback[:, None]
    silent = torch.where(windows.known, 0.0, torch.nan).unsqueeze(1)

    def load(level: Tensor) -> Tensor:
        return (level.exp() - OFFSET).clamp(min=0) * scale + silent

    return Peaks(
        expected=load((near + chosen.clamp(max=LONGEST_GROWTH))[..., -1]),
        peak=load(said[..., -1]),
        recent_peak=load(torch.where(recent.unsqueeze(1), said, -torch.inf).amax(dim=-1)),
        model=best,
        skill=skill,
        rising=rising,
        origins=finished,
        blind=windows.known & ~windows.fresh,
    )


def _origins_needed(horizon: int) -> int:
    return max(FEWEST_ORIGINS, HORIZONS_FOR_ANY * horizon)


def _column(values: Sequence[float], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device).unsqueeze(1)
