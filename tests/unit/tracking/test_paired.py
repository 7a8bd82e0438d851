from __future__ import annotations

import functools
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ml_lifecycle.tracking.paired import Pairs, mcnemar, score_interval, wilson_interval

counts = st.integers(0, 400)
confidences = st.floats(0.55, 0.995)
pairs = st.builds(Pairs, counts, counts, counts, counts).filter(lambda found: found.images > 0)


def test_published_intervals() -> None:
    # Fagerland, Lydersen and Laake 2014, airway hyper-responsiveness before and after: Tango's 95 % interval.
    assert score_interval(1, 7, 21, 0.975) == pytest.approx((-0.517, -0.026), abs=5e-4)
    # Where the models never disagree the end is known in closed form.
    z2 = 1.6448536**2
    assert score_interval(0, 0, 360, 0.95) == pytest.approx((-z2 / (360 + z2), z2 / (360 + z2)), rel=1e-5)
    # Wilson 1927, 95 % two-sided.
    assert wilson_interval(81, 263, 0.975) == pytest.approx((0.2553, 0.3662), abs=1e-4)


def test_mcnemar_mid_p() -> None:
    # Exact two-sided of 1 against 8: 2 (1 + 9) / 512; mid-p takes half of the point's two tails away.
    assert mcnemar(1, 8) == pytest.approx(20 / 512 - 9 / 512)
    assert mcnemar(5, 5) == pytest.approx(1 - math.comb(10, 5) / 2**10 / 2)
    assert mcnemar(0, 0) == 1.0
    assert 0 < mcnemar(100_000, 101_500) < 0.001


@given(pairs, confidences)
def test_the_interval_holds_the_difference(found: Pairs, confidence: float) -> None:
    low, high = found.interval(confidence)

    assert -1 <= low <= found.difference + 1e-9
    assert found.difference - 1e-9 <= high <= 1


@given(pairs, confidences)
def test_swapping_the_sides_mirrors_it(found: Pairs, confidence: float) -> None:
    low, high = found.interval(confidence)
    swapped = Pairs(found.both_right, found.only_champion_right, found.only_challenger_right, found.both_wrong)

    assert swapped.interval(confidence) == pytest.approx((-high, -low), abs=1e-7)
    assert swapped.p_value() == found.p_value()


@given(pairs, confidences, st.integers(2, 5))
def test_more_of_the_same_evidence_narrows_it(found: Pairs, confidence: float, times: int) -> None:
    low, high = found.interval(confidence)
    more = Pairs(
        times * found.both_right,
        times * found.only_challenger_right,
        times * found.only_champion_right,
        times * found.both_wrong,
    ).interval(confidence)

    assert more[0] >= low - 1e-9
    assert more[1] <= high + 1e-9


@given(pairs, confidences)
def test_a_case_that_only_the_challenger_gets_right_never_hurts_it(found: Pairs, confidence: float) -> None:
    gained = Pairs(
        found.both_right, found.only_challenger_right + 1, found.only_champion_right, found.both_wrong
    ).interval(confidence)

    assert gained[0] >= found.interval(confidence)[0] - 1e-9


@given(pairs, confidences, confidences)
def test_more_confidence_is_a_wider_interval(found: Pairs, one: float, other: float) -> None:
    less, more = sorted((one, other))

    assert found.interval(more)[0] <= found.interval(less)[0] + 1e-9


@given(pairs, st.floats(0.005, 0.2), confidences)
def test_the_images_needed_are_enough(found: Pairs, margin: float, confidence: float) -> None:
    assume(found.difference > -margin + 1e-3)
    needed = found.images_needed(margin, confidence)
    assert needed is not None
    share = needed / found.images
    shown = score_interval(found.only_challenger_right * share, found.only_champion_right * share, needed, confidence)
    assert shown[0] >= -margin - 1e-9
    if found.interval(confidence)[0] < -margin - 1e-9:
        assert needed > found.images


def test_no_number_of_images_shows_what_is_not_so() -> None:
    assert Pairs(90, 0, 10, 0).images_needed(0.02, 0.95) is None
    assert Pairs(0, 0, 0, 0).images_needed(0.02, 0.95) is None
    assert Pairs(40, 0, 0, 0).images_needed(0.02, 0.95) == 133


@pytest.mark.parametrize(("gained", "lost"), [(0.01, 0.01), (0.03, 0.06), (0.0, 0.02), (0.15, 0.1)])
@pytest.mark.parametrize("images", [60, 360])
def test_it_covers_the_truth_about_as_often_as_it_says(gained: float, lost: float, images: int) -> None:
    drawn = np.random.default_rng(20).multinomial(images, [gained, lost, 1 - gained - lost], size=4000)

    @functools.cache
    def low(won: int, missed: int) -> float:
        return score_interval(won, missed, images, 0.95)[0]

    covered = np.mean([low(int(won), int(missed)) <= gained - lost for won, missed, _ in drawn])

    # Counts are discrete, so no interval covers 95 % exactly; far below would let worse models pass too often.
    assert covered > 0.93
