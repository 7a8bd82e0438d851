"""The trace of a rollout's looks: nothing that was counted is lost, and it never grows beyond its bound."""

import itertools
import json
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from ml_lifecycle.canary.evidence import Side, Window
from ml_lifecycle.kserve.trace import MOST_POINTS, Point, extend, halved

LOOKS = st.lists(
    st.tuples(st.sampled_from([10, 25, 50]), st.integers(0, 1000), st.integers(0, 10)), min_size=1, max_size=1000
)


def points(looks):
    for at, (percent, requests, errors) in enumerate(sorted(looks)):
        yield Point(float(at), percent, (requests, min(errors, requests)), (2 * requests, 0), {"errors.harm": at / 10})


def test_a_point_is_what_the_look_saw_and_the_verdicts_numbers():
    window = Window(Side(12, 4), Side(237, 1))
    point = Point.of(31.24, 10, window, {"errors.harm": 0.61234})
    assert point == Point(31.2, 10, (12, 4), (237, 1), {"errors.harm": 0.612})
    assert Point.of(31.24, 10, None, {}).canary == (0, 0)


def test_looks_of_the_warm_up_are_told_apart_and_never_added_to_others():
    warming = Point.of(1.0, 10, Window(Side(12, 4)), {}, warmup=True)
    assert warming.to_json()["warmup"] is True
    assert "warmup" not in Point(2.0, 10).to_json()
    trace = ()
    for at in range(3 * MOST_POINTS):
        trace = extend(trace, Point(float(at), 10, (10, 1), warmup=at < 3))
    for each in (trace, halved(halved(trace))):
        assert sum(point.canary[0] for point in each if point.warmup) == 30


def test_what_is_impossible_is_still_a_number_in_json():
    point = Point.of(5.0, 10, None, {"refunds.floor": -math.inf, "errors.harm": math.inf})
    assert json.dumps(point.to_json(), allow_nan=False)
    assert point.numbers == {"refunds.floor": -10.0, "errors.harm": 10.0}


@settings(max_examples=50, deadline=None)
@given(LOOKS)
def test_a_long_rollout_keeps_every_count_and_each_step_within_the_bound(looks):
    trace, given_points = (), list(points(looks))
    for point in given_points:
        trace = extend(trace, point)
    assert len(trace) <= MOST_POINTS
    for side in ("canary", "stable"):
        for index in (0, 1):
            counted = sum(getattr(point, side)[index] for point in trace)
            assert counted == sum(getattr(point, side)[index] for point in given_points)
    assert {point.percent for point in trace} == {point.percent for point in given_points}
    assert [point.at for point in trace] == sorted(point.at for point in trace)
    assert trace[-1].at == given_points[-1].at
    assert trace[-1].numbers == given_points[-1].numbers


def test_what_is_added_up_is_spread_over_the_whole_rollout():
    trace = ()
    for at in range(5 * MOST_POINTS):
        trace = extend(trace, Point(float(at), 10))
    spans = [later.at - earlier.at for earlier, later in itertools.pairwise(trace)]
    assert max(spans) <= 4 * min(spans[:-1])


@settings(max_examples=20, deadline=None)
@given(LOOKS)
def test_nothing_is_lost_on_the_way_through_json(looks):
    for point in points(looks):
        assert Point.from_json(json.loads(json.dumps(point.to_json()))) == point
