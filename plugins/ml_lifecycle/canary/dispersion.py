"""How much more than chance the errors of one side vary from look to look: a bound that grows out of the looks.

Overdispersion is the squared coefficient of variation κ² of a side's error rate between looks, beyond what a finite
number of requests brings. The tests of sequential.py are told too much of it rather than too little.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Before the looks can tell, the rates of both sides are taken to vary with a coefficient of variation of 1.
_UNKNOWN = 1.0
_MOST = 4.0
_STANDARD_ERRORS = 1.2
_RATIOS = (0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)


class Looks(NamedTuple):
    """Requests (n) and errors (e) of each look on both sides; looks on the last axis."""

    canary_n: Array
    canary_e: Array
    stable_n: Array
    stable_e: Array


def dispersion_bound(looks: Looks) -> Array:
    """Upper bound of κ² at each look.

    Two estimates by moments, each with its standard errors on top: of the stable side's changes from look to look
    (precise early, but every incident widens it), and of the canary's share of the errors around its own level
    (incidents of both sides cancel, but it learns slowly at a small share). Both are bounds, so the smaller counts,
    unless the lower bound of the second says more: the canary may vary by more than the stable side does.
    """
    lower, upper = _of_shares(looks)
    bound = np.maximum(np.minimum(upper, _of_stable(looks.stable_n, looks.stable_e)), lower)
    return np.where(bound > _UNKNOWN, np.clip(lower, _UNKNOWN, _MOST), bound)


def _of_stable(n: Array, e: Array) -> Array:
    """Squared differences of neighbouring looks, less what chance alone makes of them."""
    earlier_n, earlier_e = (np.roll(each, 1, axis=-1) for each in (n, e))
    both = (earlier_n > 0) & (n > 0)
    both[..., 0] = False
    scale = quotient(n, earlier_n)
    excess = np.where(both, (e - scale * earlier_e) ** 2 - (e + scale**2 * earlier_e), 0.0)
    pairs = np.cumsum(both, axis=-1).astype(np.float64)
    rate = quotient(np.cumsum(e, axis=-1), np.cumsum(n, axis=-1))
    squares = rate**2 * np.cumsum(np.where(both, n * n, 0.0), axis=-1)
    mean = quotient(rate * np.cumsum(np.where(both, n, 0.0), axis=-1), pairs)
    estimate = quotient(np.cumsum(excess, axis=-1), 2 * squares)
    error = _STANDARD_ERRORS * np.sqrt(quotient(np.full_like(pairs, 3.0), pairs))
    return _widened(estimate, error, quotient(np.ones_like(mean), mean), known=(pairs > 0) & (mean > 0))


def _of_shares(looks: Looks) -> tuple[Array, Array]:
    """Lower and upper bound from U = e_c − π·e at the ratio that fits best; Var U = w + 2κ²w², w = π(1−π)·e."""
    canary_n, canary_e, stable_n, stable_e = looks
    best = np.full(canary_n.shape, np.inf)
    chance, squares, fourth = (np.zeros(canary_n.shape) for _ in range(3))
    for ratio in _RATIOS:
        share = quotient(canary_n * ratio, canary_n * ratio + stable_n)
        binomial = share * (1 - share) * (canary_e + stable_e)
        sums = [np.cumsum(each, axis=-1) for each in (binomial, binomial**2, binomial**4)]
        deviation = np.cumsum((canary_e - share * (canary_e + stable_e)) ** 2, axis=-1)
        estimate = np.where(sums[1] > 0, quotient(deviation - sums[0], 2 * sums[1]), np.inf)
        better = estimate < best
        best = np.where(better, estimate, best)
        chance, squares, fourth = (
            np.where(better, new, old) for new, old in zip(sums, (chance, squares, fourth), strict=True)
        )
    known = squares > 0
    estimate = np.where(known, best, 0.0)
    error = _STANDARD_ERRORS * np.sqrt(2 * quotient(fourth, squares**2))
    noise = quotient(chance, 2 * squares)
    lower = np.where(known, np.maximum((estimate - error * noise) / (1 + error), 0.0), 0.0)
    return lower, _widened(estimate, error, noise, known=known)


def _widened(estimate: Array, error: Array, noise: Array, *, known: NDArray[np.bool_]) -> Array:
    """The largest κ² within `error` relative standard errors: κ² = estimate + error·(noise + κ²)."""
    told = known & (error < 1)
    return np.where(told, quotient(np.maximum(estimate, 0.0) + error * noise, 1 - error), np.inf)


def quotient(top: Array, bottom: Array) -> Array:
    """Their quotient; 0 where `bottom` is not positive."""
    result: Array = np.divide(top, bottom, out=np.zeros(np.broadcast(top, bottom).shape), where=bottom > 0)
    return result
