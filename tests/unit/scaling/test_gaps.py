from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ml_lifecycle.scaling.gaps import BLIND_SHARE, CARRIED_GAP, Filled, fill

DAY = 1440


def noisy(steps: int = 200, level: float = 3.0) -> np.ndarray:
    return level + 0.02 * np.random.default_rng(0).standard_normal(steps)


def filled(*series: np.ndarray, day: int = DAY) -> Filled:
    return fill(torch.from_numpy(np.stack(series).astype(np.float32)), day)


def test_a_gap_has_the_value_before_it() -> None:
    found = filled(np.array([math.nan, 1.0, math.nan, 1.1, math.nan]))
    assert found.level[0].tolist() == [np.float32(value) for value in (1.0, 1.0, 1.0, 1.1, 1.1)]
    assert found.present[0].tolist() == [False, True, False, True, False]
    assert found.first.item() == 1


def test_a_series_without_samples_is_flat_and_unknown() -> None:
    found = filled(np.full(20, math.nan))
    assert found.level.tolist() == [[0.0] * 20]
    assert not found.known.item()


def test_one_sample_far_below_its_neighbours_is_none() -> None:
    whole = noisy()
    dipped = whole.copy()
    dipped[100] -= 2
    dipped[-1] -= 2  # the newest too: a load that falls is believed a step later
    np.testing.assert_allclose(filled(dipped).level[0].numpy(), whole, atol=0.15)


def test_also_where_its_neighbours_are_missing() -> None:
    whole = noisy()
    dipped = whole.copy()
    dipped[100] -= 2
    dipped[[98, 99, 101]] = math.nan
    np.testing.assert_allclose(filled(dipped).level[0].numpy(), whole, atol=0.15)


@pytest.mark.parametrize("level", [3.0, 0.5])
def test_also_where_the_newest_are_missing(level: float) -> None:
    dipped = noisy(level=level)
    dipped[-2] -= 2
    dipped[-1] = math.nan
    np.testing.assert_allclose(filled(dipped).level[0].numpy(), noisy(level=level), atol=0.15)


def test_hours_know_nothing_of_an_outage() -> None:
    """At a step of an hour two of them are two hours."""
    hours = np.sin(np.arange(24 * 10) / 4)
    hours[-5:] = math.nan
    found = filled(hours, day=24)
    assert (found.known.item(), found.level[0, -1].item()) == (False, found.level[0, -6].item())


def test_a_fall_of_two_samples_is_believed() -> None:
    loads = noisy()
    loads[-2:] -= 2
    np.testing.assert_array_equal(filled(loads).level[0].numpy(), loads.astype(np.float32))


def test_peaks_and_noise_stay() -> None:
    peak, noise = noisy(), np.random.default_rng(1).standard_normal(200)
    peak[100] += 2
    found = filled(peak, noise).level.numpy()
    np.testing.assert_array_equal(found[0], peak.astype(np.float32))
    assert (found[1] == noise.astype(np.float32)).mean() > 0.98


def course(days: float) -> np.ndarray:
    steps = round(days * DAY)
    return np.sin(2 * np.pi * (np.arange(steps) / DAY - 0.25)) + 0.001 * noisy(steps)


def test_in_an_outage_the_load_goes_on_as_yesterday() -> None:
    whole = course(3.4)  # it rises
    seen = whole.copy()
    seen[-60:] = math.nan
    found = filled(seen, whole)
    assert (found.fresh.tolist(), found.known.tolist()) == ([False, True], [True, True])
    np.testing.assert_allclose(found.level[0].numpy(), whole, atol=0.02)
    assert not found.present[0, -60:].any()  # nothing is learnt from it


def test_a_long_outage_or_a_young_series_is_unknown() -> None:
    long, young = course(3), course(3)
    long[-DAY // BLIND_SHARE - 1 :] = math.nan
    young[: 2 * DAY] = math.nan
    young[-CARRIED_GAP - 1 :] = math.nan
    found = filled(long, young)
    assert found.known.tolist() == [False, False]


def test_what_stands_for_samples_does_not_depend_on_company() -> None:
    outage, loss = course(3), course(3)
    outage[-30:] = math.nan
    loss[np.random.default_rng(2).random(len(loss)) < 0.2] = math.nan
    together = filled(outage, loss, course(3))
    for row, series in enumerate((outage, loss, course(3))):
        alone = filled(series)
        torch.testing.assert_close(alone.level[0], together.level[row])
        assert alone.known[0] == together.known[row]
