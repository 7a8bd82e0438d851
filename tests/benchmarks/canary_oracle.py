"""The limit: Wald's sequential test that knows the base rate of every moment, the ratio and the dispersion.

It needs no stable side: the canary's errors of a look are Poisson, or negative binomial where rates vary by minute,
with a mean that it knows under both hypotheses. Ratio 1 is tested against the cell's own ratio (against the margin
where the cell's ratio is 1), with Wald's boundaries for the same two risks.
"""

import math

import numpy as np

from tests.benchmarks.canary_streams import Cell, Streams


def looks_to_verdict(cell: Cell, streams: Streams, *, margin: float, alpha: float, beta: float) -> np.ndarray:
    """The look (from 1) that brings each rollout's verdict; infinity if none does."""
    log_ratio = np.cumsum(_log_likelihood_ratio(cell, streams, cell.ratio if cell.ratio != 1 else margin), axis=1)
    decided = (log_ratio >= math.log((1 - beta) / alpha)) | (log_ratio <= math.log(beta / (1 - alpha)))
    return first(decided)


def looks_to_roll_back(cell: Cell, streams: Streams, *, alpha: float, beta: float) -> np.ndarray:
    """The look (from 1) that rolls each rollout back; infinity if none does."""
    log_ratio = np.cumsum(_log_likelihood_ratio(cell, streams, cell.ratio), axis=1)
    return first(log_ratio >= math.log((1 - beta) / alpha))


def first(flags: np.ndarray) -> np.ndarray:
    """The first look (from 1) at which each rollout's flag is set; infinity if none is."""
    return np.where(flags.any(axis=1), flags.argmax(axis=1) + 1.0, np.inf)


def _log_likelihood_ratio(cell: Cell, streams: Streams, ratio: float) -> np.ndarray:
    mean = streams.canary_n * streams.true_base
    if not cell.setting.spread:
        return streams.canary_e * math.log(ratio) - mean * (ratio - 1)
    size = 1 / cell.setting.spread**2
    change = np.log((size + ratio * mean) / (size + mean))
    return streams.canary_e * (math.log(ratio) - change) - size * change
