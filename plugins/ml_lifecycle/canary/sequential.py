"""Two sequential tests that may be looked at any time: of a ratio of rates, and of a rate against a floor.

Both yield, for every look, the logarithm of an e-value: under the hypothesis its exponential exceeds 1/α at any look
with a probability of at most α (Ville's inequality). All arrays have the looks on their last axis.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_MIXTURE_VARIANCE = 1.0
_PRIOR_EVENTS = 2.0
_RATES_BELOW_FLOOR = ((0.0, 0.5), (0.1, 0.2), (0.25, 0.2), (0.5, 0.1))


def ratio_evidence(
    canary_n: Array, canary_e: Array, stable_n: Array, stable_e: Array, *, ratio: float, direction: Literal[1, -1]
) -> Array:
    """Evidence against "the canary's rate is `ratio` times the stable's": that it is more (1), or less (-1).

    Given the events e of a look, π = n_c·r/(n_c·r + n_s) of them fall on the canary, so U = e_c − π·e has mean zero
    whatever the rate of that minute is: incidents of both sides cancel. Robbins' one-sided normal mixture turns the
    sum S of U into an e-value: ½ log(ρ/(V+ρ)) + S²/2(V+ρ) + log 2Φ(S/√(V+ρ)).

    V must not be smaller than the true variance. It is the larger of the binomial one, Σπ(1−π)e, and of the sum of
    squares that were really seen, so rates that vary by look and side (overdispersion) widen it. The squares of the
    test for harm are taken around what the earlier looks predict (empirical Bernstein, Howard et al. 2021, Theorem 4):
    a canary that is steadily worse does not inflate its own variance and is caught in a few looks. The test that
    clears a version takes the mean of these and the plain squares, as simulation at a CV of 1 asks for.
    """
    events = canary_e + stable_e
    share = _ratio_of(canary_n * ratio, canary_n * ratio + stable_n)
    score = direction * (canary_e - share * events)
    binomial = share * (1 - share) * events
    odds = ((_before(canary_e) + _PRIOR_EVENTS) / (_before(share * events) + _PRIOR_EVENTS)) / (
        (_before(stable_e) + _PRIOR_EVENTS) / (_before((1 - share) * events) + _PRIOR_EVENTS)
    )
    predicted = _ratio_of(share * odds, share * odds + 1 - share)
    squares = (score - direction * events * (predicted - share)) ** 2
    if direction < 0:
        squares = (squares + score**2) / 2
    total = np.cumsum(score, axis=-1)
    spread = np.maximum(np.cumsum(squares, axis=-1), np.cumsum(binomial, axis=-1)) + _MIXTURE_VARIANCE
    normal = 0.5 * np.log(_MIXTURE_VARIANCE / spread) + total**2 / (2 * spread)
    evidence: Array = normal + _log_twice_normal_tail(total / np.sqrt(spread))
    return evidence


def floor_evidence(n: Array, e: Array, *, floor: float) -> Array:
    """Evidence that a rate is below `floor`, against "it is `floor` or more".

    A mixture of likelihood ratios over rates below the floor; half of it on no events at all, so that 440 clean
    requests clear a floor of 1 % at 1/40. Its logarithm is divided by the dispersion seen (Pearson's, at least 1).
    """
    if floor <= 0:
        return np.full(np.broadcast(n, e).shape, -math.inf)
    requests, events = np.cumsum(n, axis=-1), np.cumsum(e, axis=-1)
    logs = []
    for part, weight in _RATES_BELOW_FLOOR:
        clean = (requests - events) * math.log((1 - part * floor) / (1 - floor))
        hit = events * math.log(part) if part else np.where(events > 0, -math.inf, 0.0)
        logs.append(math.log(weight) + clean + hit)
    evidence: Array = np.logaddexp.reduce(np.stack(logs), axis=0) / _dispersion(n, e)
    return evidence


def _dispersion(n: Array, e: Array) -> Array:
    """Pearson's statistic per look of all looks so far; at least 1."""
    requests = np.cumsum(n, axis=-1)
    rate = _ratio_of(np.cumsum(e, axis=-1), requests)
    # Σ(e − p n)²/n expands into sums of looks, so that one pass serves every prefix.
    squares = np.cumsum(_ratio_of(e**2, n), axis=-1) - 2 * rate * np.cumsum(e, axis=-1) + rate**2 * requests
    looks = np.maximum(np.cumsum(n > 0, axis=-1) - 1, 1)
    statistic: Array = np.maximum(_ratio_of(squares, rate * (1 - rate) * looks), 1.0)
    return statistic


def _before(values: Array) -> Array:
    """Sum of all earlier looks."""
    earlier: Array = np.cumsum(values, axis=-1) - values
    return earlier


def _ratio_of(top: Array, bottom: Array) -> Array:
    """Their quotient; 0 where `bottom` is 0."""
    quotient: Array = np.divide(top, bottom, out=np.zeros(np.broadcast(top, bottom).shape), where=bottom > 0)
    return quotient


def _log_twice_normal_tail(z: Array) -> Array:
    """Logarithm of 2Φ(z); z below -8 counts as -8."""
    tail = np.frompyfunc(lambda value: math.log(math.erfc(-max(value, -8.0) / math.sqrt(2))), 1, 1)
    logarithm: Array = np.asarray(tail(z), dtype=np.float64)
    return logarithm
