"""Our policy in the replay: the product's own forecast and decision, all ticks of a trace as batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ml_lifecycle.scaling.forecast import asked_quantiles, used_length
from ml_lifecycle.scaling.history import FRESH_STEPS
from ml_lifecycle.scaling.models import PERSISTENCE
from ml_lifecycle.scaling.peaks import peaks
from ml_lifecycle.scaling.policy import NO_LIMIT, Observed, Rules, decide
from ml_lifecycle.scaling.resource import parse_spec
from ml_lifecycle.scaling.windows import stride_of
from tests.benchmarks.scaling_replay import Counts, Course, Floats
from tests.benchmarks.scaling_traces import TICK_SECONDS

QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
SLO = 0.995  # a violation time of 0.5 %
SLO_LANE = QUANTILES.index(SLO)
HISTORY_MINUTES = 10_900  # a week, and what the same window last week needs
TICKS_PER_BATCH = 64


@dataclass(frozen=True)
class Said:
    """The forecasts, [time, lane]."""

    alarm: Floats
    peak: Floats
    reserve: Floats
    recent_reserve: Floats


@dataclass(frozen=True)
class Run:
    """What was asked for, [time, lane], a lane for each quantile; and the forecasts behind it."""

    asked: Counts
    peak: Floats  # [time, lane]
    trusted: float  # share of the scored ticks


def spec(on: Course, lead: int, quantile: float) -> dict[str, object]:
    """The MLScaler that the course's service would have: everything that is not said here is the default."""
    return {
        "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "replayed"},
        "maxReplicas": 10_000,
        "metric": {"query": "load"},
        "capacityPerReplica": on.capacity,
        "targetUtilization": 0.85,
        "historySize": HISTORY_MINUTES,
        "leadTimeSeconds": lead * TICK_SECONDS,
        "quantile": quantile,
    }


def ours(on: Course, lead: int, quantiles: tuple[float, ...] = QUANTILES) -> Run:
    """Replays the course from an hour before it is scored."""
    specs = [parse_spec(spec(on, lead, max(quantile, 0.5))) for quantile in quantiles]
    steps, points = specs[0].stabilization_steps, specs[0].history_points
    time, lanes = len(on.seen), len(specs)
    begin = max(1, int(on.scored.argmax()) - 60)
    said = Said(*(np.full((time, lanes), np.nan) for _ in range(4)))
    trusted = np.zeros(time)
    for ticks, batch in _batches(on.seen, begin, points):
        found = peaks(
            torch.from_numpy(batch),
            scale=torch.full((len(batch), 1), specs[0].load_per_replica),
            quantiles=asked_quantiles(torch.tensor([quantiles]).expand(len(batch), -1)),
            lookback=torch.full((len(batch),), steps),
            horizon=specs[0].horizon_steps(TICK_SECONDS),
            step_seconds=specs[0].step_seconds,
            tick=int(ticks[0]),
        )
        said.peak[ticks] = found.peak[:, :lanes].numpy()
        said.alarm[ticks] = found.peak[:, lanes : 2 * lanes].numpy()
        said.reserve[ticks] = found.peak[:, 2 * lanes :].numpy()
        said.recent_reserve[ticks] = found.recent_peak[:, 2 * lanes :].numpy()
        trusted[ticks] = (found.model[:, quantiles.index(SLO)] != PERSISTENCE).numpy()
    share = float(trusted[on.scored].mean())
    return Run(_replay(on, Rules.of(specs), said, begin, steps), said.peak, share)


def _batches(seen: Floats, begin: int, points: int) -> Iterator[tuple[Counts, NDArray[np.float32]]]:
    """The histories of successive ticks, those of one length and phase together: a pass knows only one tick."""
    padded = np.concatenate([np.full(points, np.nan), seen]).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(padded, points)  # [t] ends at t - 1
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for tick in range(begin, len(seen)):
        length = used_length(windows[tick])
        groups[length, tick % stride_of(length)].append(tick)
    for (length, _), ticks in groups.items():
        for start in range(0, len(ticks), TICKS_PER_BATCH):
            chunk = np.array(ticks[start : start + TICKS_PER_BATCH])
            yield chunk, windows[chunk, points - length :]


def _replay(on: Course, rules: Rules, said: Said, begin: int, steps: int) -> Counts:
    time, lanes = said.peak.shape
    windows = np.lib.stride_tricks.sliding_window_view(np.concatenate([np.full(steps, np.nan), on.seen]), steps)
    present = np.isfinite(windows)
    highest = np.where(present, windows, -np.inf).max(axis=1)
    highest[~np.isfinite(highest)] = np.nan
    load = np.full(time + 1, np.nan)
    for age in range(FRESH_STEPS, -1, -1):
        before = np.concatenate([np.full(age + 1, np.nan), on.seen])[: time + 1]
        load = np.where(np.isfinite(before), before, load)
    asked = np.empty((time, lanes), dtype=np.int64)
    asked[:begin] = np.maximum(on.demand[:begin, None], 1)
    state = (
        np.full(lanes, on.demand[max(begin - 1, 0)]),
        np.full(lanes, -np.inf),
        np.zeros(lanes, dtype=bool),
        np.full(lanes, -np.inf),
        np.zeros(lanes, dtype=np.int64),
    )
    whole, ceiling = np.ones(lanes), np.full(lanes, NO_LIMIT)
    for tick in range(begin, time):
        replicas, scaled_up_at, *period = state
        now = float(tick * TICK_SECONDS)
        decided = decide(
            rules,
            Observed(
                replicas,
                whole * load[tick],
                whole * highest[tick],
                whole * present[tick].mean(),
                said.alarm[tick],
                said.peak[tick],
                said.reserve[tick],
                said.recent_reserve[tick],
                ceiling,
                scaled_up_at,
                *period,
            ),
            now,
        )
        asked[tick] = decided.desired
        scaled_up_at = np.where(decided.desired > replicas, now, scaled_up_at)
        scaled_up_at = np.where(decided.desired < replicas, -np.inf, scaled_up_at)
        state = (
            decided.desired,
            scaled_up_at,
            decided.period_up,
            decided.period_start,
            decided.period_replicas,
        )
    return asked


def coverage(on: Course, run: Run, lead: int) -> list[float]:
    """Share of the scored ticks at which the highest load of the horizon stayed within the forecast, by lane."""
    ahead = np.stack([np.concatenate([on.trace.load[age:], np.full(age, np.nan)]) for age in range(lead + 1)])
    known = np.isfinite(ahead).all(axis=0) & on.scored
    highest = ahead[:, known].max(axis=0)
    shares = []
    for lane in range(run.peak.shape[1]):
        said = run.peak[known, lane]
        trusted = np.isfinite(said)
        shares.append(float((highest[trusted] <= said[trusted]).mean()) if trusted.any() else float("nan"))
    return shares
