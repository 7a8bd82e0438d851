import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_lifecycle.canary.histogram import Histogram, Line

KNATIVE = {0.005: 10, 0.01: 60, 0.025: 90, 0.05: 99, math.inf: 100}
counts = st.lists(st.integers(0, 1000), min_size=4, max_size=4).map(
    lambda four: Histogram((0.1, 0.2, 0.5), tuple(four))
)


def test_cumulative_buckets_become_counts():
    histogram = Histogram.from_cumulative(KNATIVE)
    assert histogram == Histogram((0.005, 0.01, 0.025, 0.05), (10, 50, 30, 9, 1))
    assert histogram.total == 100


def test_of_the_bucket_that_a_line_cuts_only_a_part_is_slower():
    histogram = Histogram.from_cumulative(KNATIVE)
    assert histogram.slower(Line(1, 0.0)) == 40
    assert histogram.slower(Line(1, 0.5)) == 65
    assert histogram.slower(Line(4, 1.0)) == 1


def test_quantiles_are_those_of_prometheus():
    histogram = Histogram.from_cumulative(KNATIVE)
    assert histogram.quantile(0.5) == pytest.approx(0.009)
    assert histogram.quantile(1.0) == 0.05  # Prometheus answers the last finite bound
    assert math.isnan(Histogram().quantile(0.5))


def test_histograms_of_different_bounds_do_not_add():
    with pytest.raises(ValueError, match="do not add"):
        Histogram((1.0,), (1, 1)) + Histogram((2.0,), (1, 1))


@settings(deadline=None)
@given(counts, counts)
def test_addition_has_a_zero_and_adds_totals(first, second):
    assert first + Histogram() == first == Histogram() + first
    assert (first + second).total == first.total + second.total
    assert first + second == second + first
