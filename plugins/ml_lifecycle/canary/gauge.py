"""A sequential test of a gauge: whether the canary's value lies above the stable side's by a tolerance or not at all.

Each look gives one difference d of the two sides, in units of the tolerance and in the direction of harm. Let the
hypothesis be that d, given the looks before, is distributed symmetrically about a centre of at most m. Then for b > 0

    E exp(b (d − m) − b² (d − m)² / 2) ≤ 1,

since the values at equal distances x either side of the centre average to at most cosh(bx) exp(−b²x²/2) ≤ 1 where the
centre is m (de la Peña 1999, "A general class of exponential inequalities for martingales and ratios"), and to less
where it is below m. So the product over the looks is a supermartingale, a mixture over bets too, and it exceeds 1/α at
any look with a probability of at most α (Ville's inequality). Neither bounds nor a variance are asked for: d² stands in
for it, so heavy tails and noise that changes from look to look cost power, not validity. Two sides that behave alike
differ symmetrically whatever their distribution.

What is assumed: that d is as likely above as below its centre whatever came before. A difference between the sides that
drifts slowly is taken for a lasting one, so a gauge should be a mean over the time since the last look, not over hours.
Noise of one side alone that is skewed (lognormal, in a trial) lets 8 % of what is at the tolerance pass, not 5 %.
"""

from __future__ import annotations

import math

import numpy as np

from ml_lifecycle.canary.comparison import Comparison
from ml_lifecycle.canary.dispersion import Array

# Bets in units of one over the tolerance: the best is about centre/(variance + centre²), within a factor of 1.7 of one
# of these for noise of up to 400 tolerances and for harm of up to 200,000 of them.
_BETS = 3.0 ** -np.arange(12)


def mean_evidence(difference: Array) -> Array:
    """Logarithm of the evidence, after each look, against "the centre of `difference` is at most 0"."""
    logs = [np.cumsum(bet * difference - (bet * difference) ** 2 / 2, axis=-1) for bet in _BETS]
    evidence: Array = np.logaddexp.reduce(logs) - math.log(len(logs))
    return evidence


def compare_gauge(difference: Array, *, alpha: float, beta: float) -> Comparison:
    """What the differences so far (canary less stable, in units of the tolerance, harm positive) allow after each look.

    Rolling back asks that "no harm" (centre at most 0) be rejected at α and that the tolerance be not yet cleared;
    promoting that "harm" (centre at least 1) be rejected at β.
    """
    harm = mean_evidence(difference) / math.log(1 / alpha)
    cleared = mean_evidence(1 - difference) / math.log(1 / beta)
    return Comparison(
        harm, cleared, np.full(harm.shape, -math.inf), roll_back=(harm >= 1) & (cleared < 1), promote=cleared >= 1
    )
