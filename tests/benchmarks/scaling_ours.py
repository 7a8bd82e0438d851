"""Our policy in the replay: the product's own forecast and decision, all ticks of a trace as batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ml_lifecycle.scaling.forecast import shares_asked, used_length
from ml_lifecycle.scaling.history import FRESH_STEPS
from ml_lifecycle.scaling.models import PERSISTENCE
from ml_lifecycle.scaling.peaks import peaks
from ml_lifecycle.scaling.policy import NO_LIMIT, Observed, Rules, decide
from ml_lifecycle.scaling.resource import ScalerSpec, parse_spec
from ml_lifecycle.scaling.steering import begun, steered
from ml_lifecycle.scaling.windows import stride_of
from tests.benchmarks.scaling_replay import Counts, Course, Floats
from tests.benchmarks.scaling_traces import TICK_SECONDS

QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)  # fixed ones, a lane each
SLO = 0.005  # of the time; the last lane is steered by it
SLO_LANE = len(QUANTILES)
# What is forecast at each tick; what is between them is interpolated.
MISSED = (0.95, 0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005)
HISTORY_MINUTES = 10_900  # a week, and what the same window last week needs
WARM_MINUTES = 7 * 1440  # for which the policy acts before it is scored
TICKS_PER_BATCH = 64


@dataclass(frozen=True)
class Said:
    """The forecasts, [time, place in MISSED]."""

    peak: Floats
    recent_peak: Floats


@dataclass(frozen=True)
class Run:
    """What was asked for, [time, lane], a lane for each quantile and one for the SLO; and the forecasts behind it."""

    asked: Counts
    peak: Floats  # [time, lane]
    missed: Floats  # [time]: the share of peaks that the SLO's lane let surpass its forecast
    trusted: float  # share of the scored ticks


def spec(on: Course, lead: int) -> dict[str, object]:
    """The MLScaler that the course's service would have: everything that is not said here is the default."""
    return {
        "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "replayed"},
        "maxReplicas": 10_000,
        "metric": {"query": "load"},
        "capacityPerReplica": on.capacity,
        "targetUtilization": 0.85,
        "historySize": HISTORY_MINUTES,
        "leadTimeSeconds": lead * TICK_SECONDS,
        "sloViolationPercent": 100 * SLO,
    }


def ours(on: Course, lead: int) -> Run:
    """Replays the course from a week before it is scored."""
    parsed = parse_spec(spec(on, lead))
    time = len(on.seen)
    begin = max(1, int(on.scored.argmax()) - WARM_MINUTES)
    said = Said(*(np.full((time, len(MISSED)), np.nan) for _ in range(2)))
    trusted = np.zeros(time)
    for ticks, batch in _batches(on.seen, begin, parsed.history_points):
        found = peaks(
            torch.from_numpy(batch),
            scale=torch.full((len(batch), 1), parsed.load_per_replica),
            quantiles=(1 - torch.tensor([MISSED])).expand(len(batch), -1),
            lookback=torch.full((len(batch),), parsed.stabilization_steps),
            horizon=parsed.horizon_steps(TICK_SECONDS),
            step_seconds=parsed.step_seconds,
            tick=int(ticks[0]),
        )
        said.peak[ticks] = found.peak.numpy()
        said.recent_peak[ticks] = found.recent_peak.numpy()
        trusted[ticks] = (found.model[:, MISSED.index(SLO)] != PERSISTENCE).numpy()
    asked, missed = _replay(on, parsed, said, begin, lead)
    peak = np.full(missed.shape, np.nan)
    for tick in range(begin, time):
        peak[tick] = _at(said.peak[tick], missed[tick])
    return Run(asked, peak, missed[:, SLO_LANE], float(trusted[on.scored].mean()))


def _at(said: Floats, missed: Floats) -> Floats:
    """[lane]: the forecast that a share `missed` [lane] of the peaks surpasses, of those that were `said` [MISSED]."""
    return np.interp(np.log(missed), np.log(MISSED[::-1]), said[::-1])


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


def _replay(on: Course, parsed: ScalerSpec, said: Said, begin: int, lead: int) -> tuple[Counts, Floats]:
    """[time, lane] what is asked for, and the share of peaks that the lane lets surpass its forecast."""
    time, lanes, steps = len(on.seen), len(QUANTILES) + 1, parsed.stabilization_steps
    rules = Rules.of([parsed] * lanes)
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
    missed = np.full((time, lanes), np.nan)
    state = (
        np.full(lanes, on.demand[max(begin - 1, 0)]),
        np.full(lanes, -np.inf),
        np.zeros(lanes, dtype=bool),
        np.full(lanes, -np.inf),
        np.zeros(lanes, dtype=np.int64),
    )
    whole, ceiling = np.ones(lanes), np.full(lanes, NO_LIMIT)
    allowance = begun(SLO, float(begin * TICK_SECONDS))
    for tick in range(begin, time):
        now = float(tick * TICK_SECONDS)
        ready = asked[max(0, tick - 1 - lead) : tick, SLO_LANE].min()
        short = bool(load[tick] > ready * parsed.load_per_replica * (1 + 1e-9))
        allowance = steered(allowance, SLO, now, short=short, seconds=TICK_SECONDS)
        missed[tick, :SLO_LANE] = 1 - np.array(QUANTILES)
        missed[tick, SLO_LANE] = allowance.grown(SLO, now)
        replicas, scaled_up_at, *period = state
        alarm, peak, reserve = (_at(said.peak[tick], share) for share in shares_asked(missed[tick]))
        decided = decide(
            rules,
            Observed(
                replicas,
                whole * load[tick],
                whole * highest[tick],
                whole * present[tick].mean(),
                alarm,
                peak,
                reserve,
                _at(said.recent_peak[tick], shares_asked(missed[tick])[-1]),
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
    return asked, missed


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
