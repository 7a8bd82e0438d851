"""How much more than chance the errors of one side vary, from look to look or in bursts that last: bounds of it.

Overdispersion is the squared coefficient of variation κ² of a side's error rate, beyond what a finite number of
requests brings. Rates that vary anew at every look have a κ² of their own in each; rates that stay for several looks
have nearly the same κ² in blocks of so many looks, where they count for more. So κ² is bounded for single looks and for
blocks of 2, 4, … 32 looks, and the length at which most is left beyond chance is the one to judge at. The tests of
sequential.py are told too much of it rather than too little.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Before the looks can tell, the rates of both sides are taken to vary with a coefficient of variation of 1.
UNKNOWN = 1.0
_MOST = 4.0
_STANDARD_ERRORS = 1.2
# Ratios of the two rates at which the canary's share of the errors is looked at; the last stand for "any".
_RATIOS = (0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 40.0, 400.0, 10_000.0)
_BLOCKS = (2, 4, 8, 16, 32)
# Bursts are suspected beyond so many standard errors; what exceeds them is raised by so many more over √blocks.
_LEAST_BLOCKS = 3
_SUSPICION = 1.5
_RAISED = 3.0


class Looks(NamedTuple):
    """Requests (n) and errors (e) of each look on both sides; looks on the last axis."""

    canary_n: Array
    canary_e: Array
    stable_n: Array
    stable_e: Array


class Dispersion(NamedTuple):
    """After each look: how many looks (1, 2, 4, … 32) vary together, and a bound of the κ² of so many."""

    length: NDArray[np.int64]
    squared: Array

    def everywhere_as_last(self) -> Dispersion:
        """What is known after the last look, taken for all of them."""
        return Dispersion(*(np.broadcast_to(each[..., -1:], each.shape) for each in self))


class _Moments(NamedTuple):
    """An estimate of κ² after each look, which is `error`·(κ² + `noise`) too high or low, where it is `known`."""

    estimate: Array
    error: Array
    noise: Array
    known: NDArray[np.bool_]


def dispersion_bound(looks: Looks) -> Dispersion:
    """Upper bound of κ² after each look, at the length of block where it weighs most.

    A block of b looks has b times the errors of one, so κ² weighs b times as much there. Blocks count where they vary
    by more than looks that vary independently would.
    """
    single = _of_looks(looks)
    length, squared = np.ones(single.shape, dtype=np.int64), single
    for each in _BLOCKS:
        if _LEAST_BLOCKS * each > single.shape[-1]:
            break
        bound = _of_blocks(looks, each, single)
        more = bound * each > squared * length
        length, squared = np.where(more, each, length), np.where(more, bound, squared)
    return Dispersion(length, squared)


def _of_looks(looks: Looks) -> Array:
    """Bound for single looks.

    Of two estimates, each with its standard errors on top, the smaller counts: of the stable side's changes from look
    to look (precise early, but every incident widens it), and of the canary's share of the errors around its own level
    (incidents of both sides cancel, but it learns slowly at a small share). The lower bound of the second counts where
    it says more: the canary may vary by more than the stable side does.
    """
    shares = _of_shares(looks)
    lower = quotient(
        shares.estimate - _STANDARD_ERRORS * shares.error * shares.noise, 1 + _STANDARD_ERRORS * shares.error
    )
    lower = np.where(shares.known, np.maximum(lower, 0.0), 0.0)
    upper = np.minimum(_upper(shares), _upper(_of_changes(looks.stable_n, looks.stable_e)))
    bound = np.maximum(upper, lower)
    return np.where(bound > UNKNOWN, np.clip(lower, UNKNOWN, _MOST), bound)


def _of_blocks(looks: Looks, length: int, single: Array) -> Array:
    """Bound for blocks of `length` looks, 0 where nothing says that looks vary together.

    The stable side's blocks before there was a canary, and from then on the canary's share (so that incidents of both
    sides cancel), are weighted by their precision under the hypothesis that looks are independent.
    """
    blocks = Looks(*(_blocks(each, length) for each in looks))
    independent = single[..., length - 1 :: length] / length
    before = blocks.canary_n == 0
    weight, weighted = np.zeros(independent.shape), np.zeros(independent.shape)
    for found in (_of_bends(blocks.stable_n * before, blocks.stable_e * before), _of_shares(blocks)):
        precision = np.where(
            found.known, quotient(np.ones_like(weight), (found.error * (found.noise + independent)) ** 2), 0
        )
        weight, weighted = weight + precision, weighted + precision * np.where(found.known, found.estimate, 0.0)
    deviation = quotient(np.ones_like(weight), np.sqrt(weight))
    excess = quotient(weighted, weight) - independent - _SUSPICION * deviation
    counted = np.maximum(np.cumsum(before & (blocks.stable_n > 0), axis=-1) - 1, 0.5)
    raised = np.clip(independent + (1 + _RAISED / np.sqrt(counted)) * excess, 0.0, _MOST)
    bound = np.zeros(single.shape)
    told = np.repeat(np.where(excess > 0, raised, 0.0), length, axis=-1)
    first = _LEAST_BLOCKS * length - 1
    bound[..., first:] = told[..., first - length + 1 : single.shape[-1] - length + 1]
    return bound


def _blocks(values: Array, length: int) -> Array:
    """Sums over whole blocks of looks."""
    whole = values.shape[-1] // length * length
    sums: Array = values[..., :whole].reshape(*values.shape[:-1], -1, length).sum(axis=-1)
    return sums


def _of_changes(n: Array, e: Array) -> _Moments:
    """From squared differences of neighbouring looks of one side, less what chance alone makes of them."""
    earlier_n, earlier_e = (np.roll(each, 1, axis=-1) for each in (n, e))
    both = (earlier_n > 0) & (n > 0)
    both[..., 0] = False
    scale = quotient(n, earlier_n)
    excess = np.where(both, (e - scale * earlier_e) ** 2 - (e + scale**2 * earlier_e), 0.0)
    pairs = np.cumsum(both, axis=-1).astype(np.float64)
    rate = quotient(np.cumsum(e, axis=-1), np.cumsum(n, axis=-1))
    squares = rate**2 * np.cumsum(np.where(both, n * n, 0.0), axis=-1)
    mean = quotient(rate * np.cumsum(np.where(both, n, 0.0), axis=-1), pairs)
    error = np.sqrt(quotient(np.full_like(pairs, 3.0), pairs))
    noise = quotient(np.ones_like(mean), mean)
    return _Moments(quotient(np.cumsum(excess, axis=-1), 2 * squares), error, noise, (pairs > 0) & (mean > 0))


def _of_bends(n: Array, e: Array) -> _Moments:
    """From squared second differences of blocks of one side, in which a steady rise or fall of its rate cancels."""
    first, middle = quotient(n, np.roll(n, 2, axis=-1)), quotient(n, np.roll(n, 1, axis=-1))
    all_three = (first > 0) & (middle > 0)
    all_three[..., :2] = False
    earliest, earlier = np.roll(e, 2, axis=-1), np.roll(e, 1, axis=-1)
    bend = first * earliest - 2 * middle * earlier + e
    chance = first**2 * earliest + 4 * middle**2 * earlier + e
    bends = np.cumsum(all_three, axis=-1).astype(np.float64)
    rate = quotient(np.cumsum(e, axis=-1), np.cumsum(n, axis=-1))
    squares = rate**2 * np.cumsum(np.where(all_three, n * n, 0.0), axis=-1)
    mean = quotient(rate * np.cumsum(np.where(all_three, n, 0.0), axis=-1), bends)
    estimate = quotient(np.cumsum(np.where(all_three, bend**2 - chance, 0.0), axis=-1), 6 * squares)
    known = (bends > 0) & (mean > 0)
    return _Moments(
        estimate, np.sqrt(quotient(np.full_like(bends, 3.9), bends)), quotient(np.ones_like(mean), mean), known
    )


def _of_shares(looks: Looks) -> _Moments:
    """From U = e_c − π·e at the ratio that fits best; Var U = w + 2κ²w², w = π(1−π)·e."""
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
    error = np.sqrt(2 * quotient(fourth, squares**2))
    return _Moments(np.where(known, best, 0.0), error, quotient(chance, 2 * squares), known)


def _upper(found: _Moments) -> Array:
    """Largest κ² within the errors: κ² = estimate + error·(noise + κ²); infinity where nothing is known."""
    error = _STANDARD_ERRORS * found.error
    told = found.known & (error < 1)
    return np.where(told, quotient(np.maximum(found.estimate, 0.0) + error * found.noise, 1 - error), np.inf)


def quotient(top: Array, bottom: Array) -> Array:
    """Their quotient; 0 where `bottom` is not positive."""
    result: Array = np.divide(top, bottom, out=np.zeros(np.broadcast(top, bottom).shape), where=bottom > 0)
    return result
