"""Samples on a regular grid, gaps kept as gaps. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

LARGEST_LOAD = float(np.finfo(np.float32).max)  # of which a forecast can be made
FRESH_STEPS = 2  # a newest sample older than this is stale


@dataclass(frozen=True)
class History:
    """The load of one scaler: `loads[-1]` is now, one value a step, NaN where there is none."""

    loads: NDArray[np.floating[Any]]
    step_seconds: float

    @property
    def age_steps(self) -> int | None:
        """Steps since the newest sample; None if there is no sample at all."""
        present = np.flatnonzero(np.isfinite(self.loads))
        return int(len(self.loads) - 1 - present[-1]) if len(present) else None

    @property
    def load(self) -> float | None:
        """The newest sample; None where it is missing or stale."""
        age = self.age_steps
        return None if age is None or age > FRESH_STEPS else float(self.loads[-1 - age])

    def coverage(self, steps: int) -> float:
        """Share of the last `steps` samples that are present, 0 to 1; steps before the history count as gaps."""
        return float(np.isfinite(self.loads[-steps:]).sum() / max(1, steps))

    def highest(self, steps: int) -> float | None:
        """The highest load of the last `steps` samples; None if there is none."""
        recent = self.loads[-steps:]
        return float(np.nanmax(recent)) if np.isfinite(recent).any() else None


def on_grid(times: ArrayLike, values: ArrayLike, *, end: float, step: float, points: int) -> History:
    """The samples on the grid that ends at `end`.

    `times` in seconds; a sample falls on its nearest point, the last one wins. Negative values and those beyond
    LARGEST_LOAD are no load: they become gaps, as does everything outside the grid.
    """
    loads = np.full(points, np.nan)
    at = np.asarray(times, dtype=np.float64)
    value = np.asarray(values, dtype=np.float64)
    column = points - 1 - np.rint((end - at) / step).astype(np.int64)
    keep = (column >= 0) & (column < points) & (value >= 0) & (value <= LARGEST_LOAD)
    loads[column[keep]] = value[keep]
    return History(loads, step)
