"""The replay of a trace: what a policy sees, what its replicas do, and how that is scored.

Protocol: a tick of 60 s; at tick t a policy sees the load up to t - 1; a replica asked for at t is ready at t + D, one
taken away is gone at once, the youngest first; a replica carries p99.9 of the load / (50 * 0.85), of which 85 % may be
used, so that demand is about 50 replicas at its height. Replicas are paid from when they are asked for. The first 8
days are not scored; of a trace shorter than 12 days, its first third.
Measures: SPEC-RG-2016-01 (elasticity metrics).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.scaling_traces import Trace

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

USABLE = 0.85  # share of a replica's capacity that may be used
PEAK_REPLICAS = 50
UNSCORED_DAYS = 8
LEAD_MINUTES = (1, 3, 10)


@dataclass(frozen=True)
class Course:
    """A trace as the replay uses it; arrays by minute."""

    trace: Trace
    capacity: float  # load at which a replica is full
    seen: Floats  # the load as metrics show it; NaN where they do not
    demand: Counts  # replicas that the load needs
    scored: NDArray[np.bool_]
    late: Floats  # share of the replicas asked for in each minute that fail to start at first

    @property
    def load_per_replica(self) -> float:
        """What a replica is given to carry."""
        return self.capacity * USABLE


@dataclass(frozen=True)
class Score:
    """One policy at one setting on one course."""

    violation: float  # share of the time with fewer replicas than needed
    shortage: float  # mean share of the needed replicas that are missing
    cost: float  # replica-hours over the oracle's
    dropped: float  # share of the load above full capacity
    actions: float  # changes of replicas an hour
    reversals: float  # changes of direction an hour


def course(trace: Trace, *, faults: bool = False, seed: int = 0) -> Course:
    """The trace with its capacity and, on request, with faults in what is seen and in starts."""
    known = np.isfinite(trace.load)
    capacity = float(np.percentile(trace.load[known], 99.9)) / (PEAK_REPLICAS * USABLE)
    demand = np.ceil(np.where(known, trace.load, 0.0) / (capacity * USABLE) - 1e-9).astype(np.int64)
    minutes = len(trace.load)
    unscored = UNSCORED_DAYS * 1440 if minutes >= 1.5 * UNSCORED_DAYS * 1440 else minutes // 3
    scored = known & (np.arange(minutes) >= unscored)
    seen, late = trace.load, np.zeros(minutes)
    if faults:
        random = np.random.default_rng(seed)
        seen, late = _faulty(trace.load, random), np.full(minutes, 0.02)
    return Course(trace, capacity, seen, np.maximum(demand, 1), scored, late)


def _faulty(load: Floats, random: np.random.Generator) -> Floats:
    """20 % of samples lost or NaN, an hour without Prometheus every other day, a counter reset every few hours."""
    seen = load.copy()
    reset = random.random(len(load)) < 1 / 240
    seen[reset] *= random.random(reset.sum())  # what was counted before the reset is lost
    seen[random.random(len(load)) < 0.2] = np.nan
    for start in random.integers(0, max(1, len(load) - 60), max(1, len(load) // 2880)):
        seen[start : start + 60] = np.nan
    return seen


def ready_replicas(asked: Counts, lead: int, late: Floats, seed: int = 1) -> Counts:
    """[time, lane]: replicas that serve; the youngest goes first, so a replica that stayed `lead` ticks is ready."""
    ready = asked.copy()
    for age in range(1, lead + 1):
        ready[age:] = np.minimum(ready[age:], asked[:-age])
    if late.any():
        random = np.random.default_rng(seed)
        added = np.diff(asked, axis=0, prepend=asked[:1]).clip(min=0)
        failed = random.binomial(added, np.broadcast_to(late[:, None], added.shape))
        # Kubernetes starts them anew: they are ready after another lead time.
        missing = np.zeros_like(asked)
        for age in range(lead, 2 * lead + 1):
            missing[age:] += failed[:-age]
        ready = np.maximum(np.minimum(ready, asked - missing), 0)
    return ready


def score(on: Course, asked: Counts, lead: int) -> list[Score]:
    """One score for each lane of `asked` [time, lane]."""
    ready = ready_replicas(asked, lead, on.late)[on.scored]
    demand = on.demand[on.scored, None]
    load = on.trace.load[on.scored, None]
    short = np.clip(demand - ready, 0, None)
    dropped = np.clip(load - ready * on.capacity, 0, None).sum(axis=0) / load.sum()
    first = int(on.scored.argmax())
    hours = (len(on.scored) - first) / 60
    change = np.diff(asked[first - 1 if first else 0 :], axis=0)
    cost = asked[on.scored].sum(axis=0) / demand.sum()
    return [
        Score(
            violation=float((short[:, lane] > 0).mean()),
            shortage=float((short[:, lane] / demand[:, 0]).mean()),
            cost=float(cost[lane]),
            dropped=float(dropped[lane]),
            actions=float((change[:, lane] != 0).sum() / hours),
            reversals=_reversals(change[:, lane]) / hours,
        )
        for lane in range(asked.shape[1])
    ]


def _reversals(change: Counts) -> int:
    direction = np.sign(change[change != 0])
    return int((np.diff(direction) != 0).sum())
