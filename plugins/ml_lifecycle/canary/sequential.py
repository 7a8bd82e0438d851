"""Sequential tests that may be looked at any time: of a ratio of two rates, and of a rate against a floor.

Each yields, for every look, the logarithm of an e-value: under the hypothesis its exponential exceeds 1/α at any look
with a probability of at most α (Ville's inequality). All arrays have the looks on their last axis.

What a theorem carries. Without overdispersion (`dispersion` 0) the errors of one look, given their number on both
sides, fall on the canary with probability π = n_c·r/(n_c·r + n_s), whatever the rate of that minute: incidents of both
sides cancel. The likelihood ratio of another ratio to r is then an e-value, its product over the looks and any mixture
of such products too (Wald 1945; Robbins 1970; Ramdas et al. 2023, "Game-theoretic statistics and safe anytime-valid
inference"). The same holds for the likelihood ratio of the canary's own errors, where the stable side's level is not
understated; that it is not, in incidents too, only simulation shows.

What only calculation and simulation carry. Where rates vary by look and side with coefficient of variation κ (each
side's rate is multiplied by an own gamma variable), a side with e errors says no more than e/(1 + κ²·e) errors do, of
as many fewer requests. With these effective counts the binomial ratio *is* the exact likelihood ratio where errors are
many (a ratio of gamma variables, F distributed) and the binomial one where they are few; in between its expectation
per look stays below 1.02 for ratios up to 3 (tests/unit/canary/test_sequential.py computes it). κ itself is bounded
from the data (dispersion.py); that the whole keeps its error rates is what tests/benchmarks/canary.py shows.

What is assumed: that a side's own rate varies anew from look to look. A burst on one side alone that lasts many looks
is taken for a difference between the sides, so a look should not be shorter than such bursts are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ml_lifecycle.canary.dispersion import Array, Looks, quotient

# Squared coefficients of variation for which the evidence is computed; a bound between two counts as the larger.
DISPERSIONS = (0.0, 0.03, 0.07, 0.13, 0.22, 0.35, 0.6, 1.0, 2.0, 4.0)

# What the evidence looks for, as multiples of the ratio under test, and the share of the bet on each.
_WORSE = ((1.5, 0.1), (2.0, 0.22), (3.0, 0.25), (5.0, 0.33), (10.0, 0.1))
_ALONE = 0.65
_BETTER = ((1 / 1.5, 0.8), (0.4, 0.15), (0.15, 0.05))
_RATES_BELOW_FLOOR = ((0.0, 0.5), (0.1, 0.2), (0.25, 0.2), (0.5, 0.1))

# The stable side's level beside which the canary is judged alone: an incident is seen over so many looks, with so many
# errors of the usual level mixed in; from this dispersion on one look is no incident; the level is raised while few
# looks tell it, and one look may never add more than the cap over κ.
_RECENT_LOOKS = (3, 8)
_USUAL_ERRORS = 4.5
_LULLS = 0.5
_RAISED = 3.0
_CAP = 2.0


def harm_evidence(looks: Looks, dispersion: Array) -> Array:
    """Evidence against "the canary errs no more often than the stable side".

    A third of the bet compares both sides of each look, the rest the canary with the stable side's level so far:
    in a shared incident the first knows more, with few looks at a small share of the traffic the second does.
    `dispersion`: the squared coefficient of variation, or a bound of it, at each look.
    """
    return _at(
        dispersion,
        lambda squared: np.logaddexp(
            _mixture([((1 - _ALONE) * part, _both_sides(looks, 1.0, more, squared)) for more, part in _WORSE]),
            _mixture([(_ALONE * part, _canary_alone(looks, more, squared)) for more, part in _WORSE]),
        ),
    )


def margin_evidence(looks: Looks, dispersion: Array, *, margin: float) -> Array:
    """Evidence against "the canary errs at least `margin` times as often as the stable side"."""
    return _at(
        dispersion,
        lambda squared: _mixture([(part, _both_sides(looks, margin, less, squared)) for less, part in _BETTER]),
    )


def above_floor_evidence(looks: Looks, dispersion: Array, *, floor: float) -> Array:
    """Evidence against "the canary's rate is at most `floor`"; certain where the floor is 0."""
    if floor <= 0:
        return np.full(looks.canary_n.shape, math.inf)
    mean = looks.canary_n * floor
    return _at(
        dispersion,
        lambda squared: _mixture(
            [(part, _negative_binomial(looks.canary_e, mean, more, squared)) for more, part in _WORSE]
        ),
    )


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


def _both_sides(looks: Looks, ratio: float, times: float, squared: float) -> Array:
    """Logarithm of each look's likelihood ratio of `times`·`ratio` to `ratio`, in effective counts."""
    canary_n, canary_e, stable_n, stable_e = effective(looks, ratio, squared)
    null = canary_n * ratio + stable_n
    odds = np.log(np.where(null > 0, quotient(canary_n * ratio * times + stable_n, null), 1.0))
    logarithm: Array = canary_e * math.log(times) - (canary_e + stable_e) * odds
    return logarithm


def effective(looks: Looks, ratio: float, squared: float) -> Looks:
    """The counts, each side divided by 1 + κ²·(its expected errors, given what it had).

    What a side was expected to have is halfway between its share of the look's errors and its own: the share alone
    would trust a chance lull of the other side, its own alone a chance error.
    """
    if not squared:
        return looks
    canary_n, canary_e, stable_n, stable_e = looks
    share = quotient(canary_n * ratio, canary_n * ratio + stable_n)
    sides: list[Array] = []
    for n, e, part in ((canary_n, canary_e, share), (stable_n, stable_e, 1 - share)):
        expected = (part * (canary_e + stable_e) + e) / 2
        divisor = 1 + squared * expected * (1 + squared * e) / (1 + squared * expected)
        sides.extend((n / divisor, e / divisor))
    return Looks(*sides)


def _canary_alone(looks: Looks, times: float, squared: float) -> Array:
    """Logarithm of each look's likelihood ratio of `times` to 1 for the canary's errors beside the stable side's level.

    Negative binomial, Poisson without dispersion: its expectation is at most 1 where the level is not below the true
    rate. The level is the larger of the whole past's and the last looks'; at small dispersion this look's own, too.
    """
    canary_n, canary_e, stable_n, stable_e = looks
    requests, errors = np.cumsum(stable_n, axis=-1), np.cumsum(stable_e, axis=-1)
    usual = quotient(errors + 0.5, requests)
    pseudo = quotient(np.full(usual.shape, _USUAL_ERRORS), usual)
    level = usual
    for window in _RECENT_LOOKS:
        recent = quotient(_last(errors, window) + _USUAL_ERRORS, _last(requests, window) + pseudo)
        level = np.maximum(level, recent)
    if squared < _LULLS:
        level = np.maximum(level, quotient(stable_e + _USUAL_ERRORS, stable_n + pseudo))
    told_by = np.maximum(np.cumsum(stable_n > 0, axis=-1), 1)
    mean = canary_n * level * (1 + _RAISED * math.sqrt(squared) / told_by)
    return np.where((stable_n > 0) & (mean > 0), _negative_binomial(canary_e, mean, times, squared), 0.0)


def _negative_binomial(e: Array, mean: Array, times: float, squared: float) -> Array:
    """Logarithm of the likelihood ratio of `times`·`mean` errors to `mean`, capped where the rate varies."""
    if not squared:
        poisson: Array = e * math.log(times) - mean * (times - 1)
        return poisson
    change = np.log((1 + squared * times * mean) / (1 + squared * mean))
    return np.minimum(e * (math.log(times) - change) - change / squared, _CAP / math.sqrt(squared))


def _last(total: Array, window: int) -> Array:
    """Sums over the last `window` looks, from sums over all."""
    recent = total.copy()
    recent[..., window:] -= total[..., :-window]
    return recent


def _mixture(bets: Sequence[tuple[float, Array]]) -> Array:
    """Logarithm of Σ share · Π likelihood ratio of the looks so far."""
    mixture: Array = np.logaddexp.reduce([math.log(part) + np.cumsum(each, axis=-1) for part, each in bets])
    return mixture


def _at(dispersion: Array, evidence: Callable[[float], Array]) -> Array:
    """The evidence at each look's dispersion: computed for those of the grid that are asked for."""
    place = np.minimum(np.searchsorted(DISPERSIONS, dispersion), len(DISPERSIONS) - 1)
    result = np.empty(dispersion.shape)
    for index in np.unique(place):
        np.copyto(result, evidence(DISPERSIONS[index]), where=place == index)
    return result


def _pearson(n: Array, e: Array) -> Array:
    """Pearson's statistic per look of all looks so far; at least 1."""
    requests = np.cumsum(n, axis=-1)
    rate = quotient(np.cumsum(e, axis=-1), requests)
    # Σ(e − p n)²/n expands into sums of looks, so that one pass serves every prefix.
    squares = np.cumsum(quotient(e**2, n), axis=-1) - 2 * rate * np.cumsum(e, axis=-1) + rate**2 * requests
    looks = np.maximum(np.cumsum(n > 0, axis=-1) - 1, 1)
    statistic: Array = np.maximum(quotient(squares, rate * (1 - rate) * looks), 1.0)
    return statistic
