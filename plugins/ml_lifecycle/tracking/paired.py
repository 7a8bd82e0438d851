"""Is one of two models worse on the same images? Pure statistics of paired proportions.

Two accuracies on one hold-out are not independent, so they are not compared as two numbers: only the images on which
the models disagree tell them apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

_HALVINGS = 60
_MOST_IMAGES = 10**9


@dataclass(frozen=True)
class Pairs:
    """Held-out images by which of the two models was right."""

    both_right: int
    only_challenger_right: int
    only_champion_right: int
    both_wrong: int

    @property
    def images(self) -> int:
        """All images."""
        return self.both_right + self.only_challenger_right + self.only_champion_right + self.both_wrong

    @property
    def difference(self) -> float:
        """Accuracy of the challenger less that of the champion; NaN without images."""
        return (self.only_challenger_right - self.only_champion_right) / self.images if self.images else math.nan

    def interval(self, confidence: float) -> tuple[float, float]:
        """Score interval of the difference; each end alone holds with this one-sided `confidence`."""
        return score_interval(self.only_challenger_right, self.only_champion_right, self.images, confidence)

    def p_value(self) -> float:
        """Two-sided mid-p of McNemar's test that neither model is better."""
        return mcnemar(self.only_challenger_right, self.only_champion_right)

    def images_needed(self, margin: float, confidence: float) -> int | None:
        """About how many images would show a drop below `margin`, were the models to disagree as often as here.

        None where no number would: the observed drop itself reaches the margin.
        """
        if not self.images or self.difference <= -margin:
            return None

        def shows(images: float) -> bool:
            share = images / self.images
            gained, lost = self.only_challenger_right * share, self.only_champion_right * share
            return score_interval(gained, lost, images, confidence)[0] >= -margin

        few, many = 1.0, float(_MOST_IMAGES)
        if not shows(many):
            return None
        while many / few > 1.005:
            middle = math.sqrt(few * many)
            few, many = (few, middle) if shows(middle) else (middle, many)
        return math.ceil(many)


def score_interval(gained: float, lost: float, images: float, confidence: float) -> tuple[float, float]:
    """Tango's score interval for the difference of two paired proportions, `(gained - lost) / images`.

    Tango, Statistics in Medicine 17 (1998) 891-908. It stays sensible where the models never disagree: the lower end
    is then -z²/(n + z²), and not 0. Without images it is (-1, 1).
    """
    if images <= 0:
        return -1.0, 1.0
    z = NormalDist().inv_cdf(confidence)
    return _crossing(gained, lost, images, z), _crossing(gained, lost, images, -z)


def wilson_interval(right: float, images: float, confidence: float) -> tuple[float, float]:
    """Wilson's score interval for one proportion, with the one-sided `confidence` at each end."""
    if images <= 0:
        return 0.0, 1.0
    z2 = NormalDist().inv_cdf(confidence) ** 2
    centre = (right + z2 / 2) / (images + z2)
    half = math.sqrt(z2 * (right * (images - right) / images + z2 / 4)) / (images + z2)
    return max(0.0, centre - half), min(1.0, centre + half)


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided mid-p of McNemar's exact test on the images that only one of the two models got right.

    Fagerland, Lydersen and Laake, BMC Medical Research Methodology 13 (2013) 91: as valid as the exact test in
    practice, and less conservative. 1 where the models never disagree.
    """
    disagreements, fewer = gained + lost, min(gained, lost)
    if not disagreements:
        return 1.0
    log_point = (
        math.lgamma(disagreements + 1)
        - math.lgamma(fewer + 1)
        - math.lgamma(disagreements - fewer + 1)
        - disagreements * math.log(2)
    )
    point = tail = math.exp(log_point)
    term = point
    for count in range(fewer, 0, -1):
        term *= count / (disagreements - count + 1)
        tail += term
        if term < tail * 1e-16:
            break
    return 1 - point / 2 if gained == lost else min(1.0, 2 * tail - point)


def _crossing(gained: float, lost: float, images: float, z: float) -> float:
    """The difference at which the score statistic, which falls as the difference rises, is `z`."""
    low, high = -1.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _score(gained, lost, images, middle) > z else (low, middle)
    return (low + high) / 2


def _score(gained: float, lost: float, images: float, difference: float) -> float:
    """The observed difference less `difference`, over its standard error where `difference` is the truth."""
    # The most likely share of images that only the champion gets right, given the difference: a quadratic's root.
    linear = (2 * images - gained + lost) * difference - gained - lost
    constant = -lost * difference * (1 - difference)
    root = math.sqrt(max(0.0, linear * linear - 8 * images * constant))
    share = (root - linear) / (4 * images)
    variance = images * (2 * share + difference * (1 - difference))
    observed = gained - lost - images * difference
    if variance <= 0:
        return math.copysign(math.inf, observed) if observed else 0.0
    return observed / math.sqrt(variance)
