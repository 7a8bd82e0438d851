"""How long a model takes for one image."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

WARM_UP = 10
LEAST = 30
MOST = 1000
SECONDS = 2.0


@dataclass(frozen=True)
class Latency:
    """Quantiles over `repetitions`, milliseconds."""

    p50: float
    p95: float
    repetitions: int

    def to_document(self) -> dict[str, float]:
        """As it stands in the result."""
        return asdict(self)


def measure(
    work: Callable[[], object], *, seconds: float = SECONDS, clock: Callable[[], float] = time.perf_counter
) -> Latency:
    """Time `work` again and again, after a warm-up, for about `seconds` but 30 times at least."""
    for _ in range(WARM_UP):
        work()
    taken: list[float] = []
    end = clock() + seconds
    while len(taken) < MOST and (len(taken) < LEAST or clock() < end):
        start = clock()
        work()
        taken.append(clock() - start)
    p50, p95 = np.quantile(taken, [0.5, 0.95]) * 1000
    return Latency(round(float(p50), 4), round(float(p95), 4), len(taken))
