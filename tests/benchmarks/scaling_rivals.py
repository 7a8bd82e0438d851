"""The policies that ours is compared with; each gives the replicas asked for, [time, lane], a lane for each headroom.

- HPA: kubernetes `replica_calculator.go` with its defaults (tolerance 0.1, 5 minutes of stabilisation); it is given
  the whole load, which CPU metrics of saturated pods would hide.
- Predictive HPA (jthomperoo): the larger of the HPA's replicas and a forecast of past replica counts, by a straight
  line or Holt-Winters; with its series put in time order, and looking a lead time ahead instead of one sync.
- Straight line: least squares through ten samples, carried on over the lead time and multiplied by a factor.
- Oracle: exactly what is needed, always.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.scaling_replay import Counts, Course, Floats

HPA_TARGETS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.74, 0.78, 0.82, 0.85)
HPA_USUAL = 0.7
FACTORS = (0.9, 1.0, 1.1, 1.2, 1.3, 1.45, 1.6, 1.8, 2.1, 2.5)
TOLERANCE = 0.1
STABILIZATION_TICKS = 5
SAMPLES = 10
SMOOTHING = (0.3, 0.01, 0.3)  # Holt-Winters' level, trend and season
SEASON_TICKS = 1440


def hpa(on: Course, targets: tuple[float, ...] = HPA_TARGETS) -> Counts:
    """A lane for each target utilisation."""
    return _follow(_wanted(on, targets), on, targets)


def predictive_linear(on: Course, lead: int, targets: tuple[float, ...] = HPA_TARGETS) -> Counts:
    """Predictive HPA with a straight line through the last ten replica counts."""
    raw = _held(np.ceil(_wanted(on, targets)))
    ahead = _line(raw, lead + 1)
    return _follow(_wanted(on, targets), on, targets, floor=np.ceil(ahead - 1e-6))


def predictive_holt_winters(on: Course, lead: int, targets: tuple[float, ...] = HPA_TARGETS) -> Counts:
    """Predictive HPA with additive Holt-Winters over replica counts and a daily season."""
    raw = _held(np.ceil(_wanted(on, targets)))
    return _follow(_wanted(on, targets), on, targets, floor=np.ceil(_holt_winters(raw, lead + 1) - 1e-6))


def straight_line(on: Course, lead: int, factors: tuple[float, ...] = FACTORS) -> Counts:
    """A lane for each factor; no tolerance, no stabilisation."""
    load = _held(_before(on.seen)[:, None])
    wanted = np.ceil(_line(load, lead + 1) * np.array(factors) / on.load_per_replica)
    return np.maximum(wanted, 1).astype(np.int64)


def oracle(on: Course) -> Counts:
    """One lane."""
    return on.demand[:, None]


def _before(values: Floats) -> Floats:
    """What is seen at each tick: the minute before."""
    return np.concatenate([[np.nan], values[:-1]])


def _held(values: Floats) -> Floats:
    """Gaps take the value before them."""
    rows = np.where(np.isfinite(values[:, 0]), np.arange(len(values)), 0)
    held = values[np.maximum.accumulate(rows)]
    return np.nan_to_num(held, nan=1.0)


def _wanted(on: Course, targets: tuple[float, ...]) -> Floats:
    """[time, lane] replicas at which the load would meet the target; NaN where no metric is."""
    return _before(on.seen)[:, None] / (on.capacity * np.array(targets))


def _follow(ratio: Floats, on: Course, targets: tuple[float, ...], floor: Floats | None = None) -> Counts:
    """The HPA's loop: tolerance, no change without a metric, the highest of the last minutes on the way down."""
    time, lanes = ratio.shape
    asked = np.empty((time, lanes), dtype=np.int64)
    now = np.full(lanes, on.demand[0])
    recent: NDArray[np.int64] = np.ones((STABILIZATION_TICKS, lanes), dtype=np.int64)
    known = np.isfinite(ratio[:, 0])
    ceiling = np.ceil(np.where(known[:, None], ratio, 1.0) - 1e-9).astype(np.int64)
    for tick in range(time):
        if known[tick]:
            steady = np.abs(ratio[tick] / now - 1) <= TOLERANCE
            want = np.where(steady, now, ceiling[tick])
            if floor is not None:
                want = np.maximum(want, floor[tick].astype(np.int64))
            recent[tick % STABILIZATION_TICKS] = want
            now = np.where(want < now, np.minimum(now, recent.max(axis=0)), want)
            now = np.maximum(now, 1)
        asked[tick] = now
    return asked


def _line(values: Floats, ahead: int) -> Floats:
    """Least squares through the last ten values, `ahead` steps on."""
    at = np.arange(SAMPLES) - (SAMPLES - 1) / 2
    # The line's value at x is a fixed weighted sum of the samples.
    weight = 1 / SAMPLES + at * (at[-1] + ahead) / (at**2).sum()
    padded = np.concatenate([np.repeat(values[:1], SAMPLES - 1, axis=0), values])
    windows = np.lib.stride_tricks.sliding_window_view(padded, SAMPLES, axis=0)
    return np.maximum(windows @ weight, 0.0)


def _holt_winters(values: Floats, ahead: int) -> Floats:
    alpha, beta, gamma = SMOOTHING
    season = min(SEASON_TICKS, max(1, len(values) // 3))
    level, trend = values[0].copy(), np.zeros(values.shape[1])
    seasonal = np.zeros((season, values.shape[1]))
    said = np.empty_like(values)
    for tick in range(len(values)):
        place = tick % season
        before = level
        level = alpha * (values[tick] - seasonal[place]) + (1 - alpha) * (level + trend)
        trend = beta * (level - before) + (1 - beta) * trend
        seasonal[place] = gamma * (values[tick] - level) + (1 - gamma) * seasonal[place]
        said[tick] = level + ahead * trend + seasonal[(tick + ahead) % season]
    return np.maximum(said, 0.0)


def usual_lane() -> int:
    """The lane of the HPA at its usual target."""
    return HPA_TARGETS.index(HPA_USUAL)
