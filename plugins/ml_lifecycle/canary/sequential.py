"""Sequential tests that may be looked at any time: of a ratio of two rates, and of a rate against a floor.

Each yields, for every look, the logarithm of an e-value: under the hypothesis its exponential exceeds 1/α at any look
with a probability of at most α (Ville's inequality). All arrays have the looks on their last axis.

**The ratio.** Two hypotheses about it are compared by the density that each gives to all counts so far, those of the
canary and those of the stable side. Errors of a look are negative binomial about requests × rate: Poisson counts whose
rate varies by side and look with squared coefficient of variation κ² (dispersion.py bounds it). The rates of both sides
have a common level, which neither hypothesis knows for certain: the usual one, a multiple of it while an incident of
both sides lasts, that of the last blocks, or any at all. Which of these holds changes now and then, so the density is
that of a hidden Markov chain, computed forwards, with the same chain under both hypotheses. Where rates stay for
several looks, looks are taken together in blocks, the last one as far as it goes.

What a theorem carries. Such a quotient of two densities is a martingale where the denominator is the true one, and so
is a mixture of them over ratios (Wald 1945; Robbins 1970; Ramdas et al. 2023, "Game-theoretic statistics and safe
anytime-valid inference"): rates drawn as above, with this κ², this usual level and this chain, are rolled back wrongly
with a probability of at most α however often one looks. Where the level may be any, its prior is the uniform one on
the logarithm, under which without overdispersion the errors of a block, given their number, fall on the canary by its
share of the requests: then whatever the level, incidents of both sides cancel. (Laplace's approximation of the integral
is exact but for Stirling's formula.)

What only simulation carries (tests/benchmarks/canary.py, and in small tests/unit/canary/test_sequential.py): that a
bound of κ² and a usual level estimated from the same looks, incidents that are no draw from the chain, and bursts that
begin in the middle of a block leave the error rates where they should be.

What is assumed: that what varies beyond chance shows in the stable side's past, or in both sides' looks so far. Without
a past, or with bursts that are long beside it, the first burst of the canary cannot be told from harm. A common level
that halves within hours while errors are few is noticed late: then more is promoted at the margin than should be. The
test against the floor that clears a version sees only variation from look to look.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ml_lifecycle.canary.dispersion import UNKNOWN, Array, Dispersion, Looks, quotient

# κ² for which the evidence is computed; a bound between two counts as the larger. The first stands for none.
DISPERSIONS = (1e-9, 0.03, 0.07, 0.13, 0.22, 0.35, 0.6, 1.0, 2.0, 4.0)

# What the evidence looks for, as multiples of the ratio under test, and the share of the bet on each.
_WORSE = ((1.5, 0.1), (2.0, 0.22), (3.0, 0.25), (5.0, 0.33), (10.0, 0.1))
_BETTER = ((1 / 1.5, 0.8), (0.4, 0.15), (0.15, 0.05))
_RATES_BELOW_FLOOR = ((0.0, 0.5), (0.1, 0.2), (0.25, 0.2), (0.5, 0.1))

# The chain: multiples of the usual level, then that of the last blocks, then any; how probable each is, and a change.
_LEVELS = (0.5, 0.7, 1.0, 1.4, 2.0, 4.0)
_PROBABLE = (0.012, 0.012, 0.91, 0.012, 0.012, 0.012, 0.015, 0.015)
_CHANGE = 0.05
# "Any" is up to eight times more or less. It and the last blocks' are as probable as said only where a block tells a
# level by many more errors than these: where errors are few the multiples do, and those two would explain harm away.
_ANY = 8.0
_TELLING = 6.0
_LAST_BLOCKS = 3

# The usual level is the whole past's or that of the last looks, with so many errors of the whole past's mixed in,
# whichever makes the hypothesis more probable; it is doubted by as much as a rate that varies leaves it uncertain.
_LAST_LOOKS, _USUAL_ERRORS = 40, 10.0
_DOUBT, _EARLY_DOUBT = 0.7, 5.0


class _Seen(NamedTuple):
    """The looks since there is a canary, as sums over the block so far; the usual level, and that of the last blocks.

    `variance` is the squared relative error of a level that is the mean of so many varying blocks.
    """

    looks: Looks
    level: Array
    recent: Array
    variance: Array
    squared: Array
    length: int


def harm_evidence(looks: Looks, dispersion: Dispersion, *, ratio: float = 1.0) -> Array:
    """Evidence against "the canary errs at most `ratio` times as often as the stable side"."""

    def evidence(seen: _Seen) -> Array:
        level = seen.level * (1 + _DOUBT * np.sqrt(seen.variance) + _EARLY_DOUBT * seen.variance)
        return _against_ratio(seen, level, ratio, _WORSE)

    return _at(looks, _usual_level(looks, np.maximum), dispersion, evidence)


def margin_evidence(looks: Looks, dispersion: Dispersion, *, margin: float) -> Array:
    """Evidence against "the canary errs at least `margin` times as often as the stable side"."""

    def evidence(seen: _Seen) -> Array:
        return _against_ratio(seen, seen.level / (1 + _EARLY_DOUBT * seen.variance), margin, _BETTER)

    return _at(looks, _usual_level(looks, np.minimum), dispersion, evidence)


def above_floor_evidence(looks: Looks, dispersion: Dispersion, *, floor: float) -> Array:
    """Evidence against "the canary's rate is at most `floor`"; certain where the floor is 0."""
    if floor <= 0:
        return np.full(looks.canary_n.shape, math.inf)

    def evidence(seen: _Seen) -> Array:
        mean = _ratios(_WORSE, seen.level.ndim) * seen.looks.canary_n * floor
        return _mixture(
            _WORSE, _forward(_log_density(seen.looks.canary_e, mean, seen.squared)[None], (1.0,), seen.length)
        )

    return _at(looks, np.zeros(looks.canary_n.shape), dispersion, evidence)


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
    evidence: Array = np.logaddexp.reduce(np.stack(logs), axis=0) / _pearson(n, e)
    return evidence


def _usual_level(looks: Looks, extreme: Callable[[Array, Array], Array]) -> Array:
    """The stable side's error rate after each look: the whole past's or the last looks', whichever `extreme` says."""
    requests, errors = np.cumsum(looks.stable_n, axis=-1), np.cumsum(looks.stable_e, axis=-1)
    past = quotient(errors + 0.5, requests)
    as_usual = quotient(np.full(past.shape, _USUAL_ERRORS), past)
    last = quotient(_last(errors, _LAST_LOOKS) + _USUAL_ERRORS, _last(requests, _LAST_LOOKS) + as_usual)
    return extreme(past, last)


def _last(totals: Array, looks: int) -> Array:
    """Sums over the last looks, from sums over all."""
    sums = totals.copy()
    sums[..., looks:] -= totals[..., :-looks]
    return sums


def _against_ratio(seen: _Seen, level: Array, ratio: float, bets: tuple[tuple[float, float], ...]) -> Array:
    """Logarithm of the mixed quotient of densities of all counts: of the `bets`, multiples of `ratio`, to `ratio`."""
    canary_n, canary_e, stable_n, stable_e = seen.looks
    exposed = _ratios(bets, level.ndim) * canary_n * ratio

    def densities(common: Array) -> Array:
        of_canary = _log_density(canary_e, exposed * common, seen.squared)
        return of_canary + _log_density(stable_e, stable_n * common, seen.squared)

    states = [densities(level * times) for times in _LEVELS]
    mean = stable_n * level
    told = mean / (1 + seen.squared * mean)
    telling = np.log(np.maximum(told / (told + _TELLING), 1e-9))
    states.append(densities(seen.recent) + 2 * telling)
    states.append(_any_level(seen, exposed, level) + telling)
    return _mixture(bets, _forward(np.stack(states), _PROBABLE, seen.length))


def _ratios(bets: tuple[tuple[float, float], ...], dimensions: int) -> Array:
    """The hypothesis, then the multiples that are bet on, along a new first axis."""
    return np.array([1.0, *(times for times, _ in bets)]).reshape(-1, *([1] * dimensions))


def _mixture(bets: tuple[tuple[float, float], ...], densities: Array) -> Array:
    """Logarithm of Σ share · density of the bet / density of the hypothesis, which is the first."""
    logs = [math.log(share) + density - densities[0] for (_, share), density in zip(bets, densities[1:], strict=True)]
    mixture: Array = np.logaddexp.reduce(logs)
    return mixture


def _log_density(e: Array, mean: Array, squared: Array) -> Array:
    """Of a negative binomial count, less what does not depend on its mean."""
    mean = np.maximum(mean, 1e-12)
    density: Array = e * np.log(mean) - (e + 1 / squared) * np.log1p(squared * mean)
    return density


def _any_level(seen: _Seen, exposed: Array, usual: Array) -> Array:
    """Logarithm of the density where the logarithm of the level is uniform over `_ANY` times up and down.

    Laplace: the density at the best level times the width of its peak. The best level λ solves
    (e_c − λa)/(1 + κ²λa) + (e_s − λb)/(1 + κ²λb) = 0 with a and b what both sides are exposed to: a quadratic equation.
    """
    _, canary_e, stable_n, stable_e = seen.looks
    size = 1 / seen.squared
    linear = canary_e * stable_n + stable_e * exposed - size * (exposed + stable_n)
    last = size * (canary_e + stable_e)
    root = np.sqrt(linear**2 + 8 * exposed * stable_n * last)
    # Of the two forms of the positive solution the one that does not subtract nearly equal numbers.
    best = np.where(
        linear > 0,
        quotient(linear + root, 4 * exposed * stable_n),
        quotient(np.broadcast_to(2 * last, root.shape), root - linear),
    )
    best = np.clip(best, usual / _ANY, usual * _ANY)
    density, information = np.zeros(root.shape), np.zeros(root.shape)
    for e, mean in ((canary_e, best * exposed), (stable_e, best * stable_n)):
        density += _log_density(e, mean, seen.squared)
        information += mean * (1 + seen.squared * e) / (1 + seen.squared * mean) ** 2
    width = np.sqrt(2 * math.pi / np.maximum(information, 1e-9)) / (2 * math.log(_ANY))
    return density + np.log(np.minimum(width, 1.0))


def _forward(states: Array, probable: tuple[float, ...], length: int) -> Array:
    """Logarithm of the density of all looks so far, summed over how the state may have changed at the ends of blocks.

    `states`: for each state (first axis) the logarithm of the density of the block so far.
    """
    result = np.empty(states.shape[1:])
    past = np.zeros(states.shape[1:-1])
    prior = np.array(probable).reshape(-1, *([1] * past.ndim))
    now = np.broadcast_to(np.log(prior), states.shape[:-1])
    for look in range(states.shape[-1]):
        joint = now + states[..., look]
        density = np.logaddexp.reduce(joint, axis=0)
        result[..., look] = past + density
        if (look + 1) % length == 0:
            past = result[..., look]
            now = np.log((1 - _CHANGE) * np.exp(joint - density) + _CHANGE * prior)
    return result


def _at(looks: Looks, level: Array, dispersion: Dispersion, evidence: Callable[[_Seen], Array]) -> Array:
    """The evidence at each look's dispersion, for those of the grid that are asked for; 0 before the canary."""
    result = np.zeros(looks.canary_n.shape)
    heard = np.logical_or.accumulate(looks.canary_n > 0, axis=-1)
    start = heard.shape[-1] - int(np.count_nonzero(heard.any(axis=tuple(range(heard.ndim - 1)))))
    place = np.minimum(np.searchsorted(DISPERSIONS, dispersion.squared), len(DISPERSIONS) - 1)
    asked = dispersion.length * len(DISPERSIONS) + place
    told_by = np.cumsum(looks.stable_n > 0, axis=-1)
    requests, errors = np.cumsum(looks.stable_n, axis=-1), np.cumsum(looks.stable_e, axis=-1)
    for number in np.unique(asked[heard]):
        length, index = divmod(int(number), len(DISPERSIONS))
        wanted = heard & (asked == number)
        rows = wanted.any(axis=-1)
        since = Looks(*(_so_far(each[rows][..., start:], length) for each in looks))
        squared = _squared_so_far(DISPERSIONS[index], length, since.canary_n.shape[-1])
        variance = DISPERSIONS[index] / np.maximum(told_by[rows][..., start:] / length, 1)
        blocks = _LAST_BLOCKS * length
        recent = (_last(errors[rows], blocks) + 0.5) / np.maximum(_last(requests[rows], blocks), 1)
        found = evidence(_Seen(since, level[rows][..., start:], recent[..., start:], variance, squared, length))
        result[rows] = np.where(wanted[rows], np.concatenate([result[rows][..., :start], found], axis=-1), result[rows])
    return result


def _so_far(values: Array, length: int) -> Array:
    """Sums over the block of looks so far."""
    total = np.cumsum(values, axis=-1)
    ends = total[..., length - 1 :: length]
    before = np.concatenate([np.zeros((*ends.shape[:-1], 1)), ends], axis=-1)
    sums: Array = total - np.repeat(before, length, axis=-1)[..., : values.shape[-1]]
    return sums


def _squared_so_far(squared: float, length: int, looks: int) -> Array:
    """κ² of the block so far: of a part as if its looks were independent, and then no more than without knowledge."""
    filled = (np.arange(looks) % length + 1) / length
    return np.minimum(squared / filled, max(squared, UNKNOWN))


def _pearson(n: Array, e: Array) -> Array:
    """Pearson's statistic per look of all looks so far; at least 1."""
    requests = np.cumsum(n, axis=-1)
    rate = quotient(np.cumsum(e, axis=-1), requests)
    # Σ(e − p n)²/n expands into sums of looks, so that one pass serves every prefix.
    squares = np.cumsum(quotient(e**2, n), axis=-1) - 2 * rate * np.cumsum(e, axis=-1) + rate**2 * requests
    looks = np.maximum(np.cumsum(n > 0, axis=-1) - 1, 1)
    statistic: Array = np.maximum(quotient(squares, rate * (1 - rate) * looks), 1.0)
    return statistic
