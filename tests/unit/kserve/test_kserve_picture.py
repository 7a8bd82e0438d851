"""The picture of a rollout: well-formed whatever the report holds, nothing outside the page, and it says the end."""

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_lifecycle.kserve.picture import HEIGHT, WIDTH, draw
from ml_lifecycle.kserve.trace import Point

SVG = "{http://www.w3.org/2000/svg}"
NUMBERS = st.dictionaries(
    st.sampled_from(["errors.harm", "errors.ratio", "errors.floor", "latency.harm", "refunds.ratio"]),
    st.floats(-50, 50, allow_nan=False),
)
COUNTS = st.integers(0, 10_000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n)))
POINTS = st.lists(
    st.builds(Point, st.floats(0, 1e6), st.integers(0, 100), COUNTS, COUNTS, NUMBERS, st.booleans()),
    min_size=1,
    max_size=30,
)


def report(points, **changes):
    looks = [point.to_json() for point in sorted(points, key=lambda point: point.at)]
    known = {"model": "digits", "version": "2", "stable_version": "1", "outcome": "rolled_back", "reason": "errors"}
    return {**known, "looks": looks, **changes}


def places(root):
    for line in (*root.iter(f"{SVG}polyline"), *root.iter(f"{SVG}polygon")):
        for pair in line.get("points").split():
            yield tuple(float(number) for number in pair.split(","))
    for dot in root.iter(f"{SVG}circle"):
        yield float(dot.get("cx")), float(dot.get("cy"))


@settings(max_examples=100, deadline=None)
@given(POINTS, st.text(max_size=400))
def test_it_is_well_formed_and_everything_lies_on_the_page(points, reason):
    printable = "".join(sign for sign in reason if sign.isprintable())
    root = ET.fromstring(draw(report(points, reason=printable)))
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places(root))


def texts(picture):
    return [text.text for text in ET.fromstring(picture).iter(f"{SVG}text")]


def test_it_says_the_end_the_steps_and_what_was_served():
    looks = [
        Point(20.0, 10),
        Point(25.0, 10, (50, 5), (450, 22), {"errors.harm": 0.4, "errors.ratio": 0.1, "latency.harm": 0.0}),
        Point(30.0, 25, (125, 14), (375, 19), {"errors.harm": 1.1, "errors.ratio": 0.0, "latency.harm": 0.0}),
    ]
    said = texts(draw(report(looks, reason="errors: 10.9% <-> 5%")))
    assert "digits version 2 beside version 1: rolled back" in said
    assert "10 s after the first look, 175 requests on the canary" in said
    assert {"10 %", "25 %", "errors", "latency", "rolled back", "errors: 10.9% <-> 5%"} <= set(said)


def test_a_warm_up_is_shown_and_is_not_in_the_line_of_all_looks():
    warming = [Point(20.0, 10), Point(25.0, 10, (100, 60), (900, 1), warmup=True)]
    after = [Point(30.0, 10, (100, 0), (900, 1), {"errors.harm": 0.1}), Point(35.0, 10, (100, 1), (900, 1))]
    drawn = draw(report([*warming, *after]))
    assert "warm-up" in texts(drawn)
    assert "warm-up" not in texts(draw(report(after)))
    lines = [line for line in ET.fromstring(drawn).iter(f"{SVG}polyline") if line.get("stroke") == "#e8590c"]
    assert max(len(line.get("points").split()) for line in lines) == len(after)


def test_a_step_begins_at_the_look_before_its_first():
    """A look tells of the time since the one before it."""
    picture = ET.fromstring(draw(report([Point(0.0, 10), Point(50.0, 10), Point(100.0, 25)])))
    mark = next(text for text in picture.iter(f"{SVG}text") if text.text == "25 %")
    assert float(mark.get("x")) == pytest.approx(WIDTH / 2, abs=10)


@pytest.mark.parametrize("rate", [0.0, 0.0004, 0.07, 1.0])
def test_the_axis_shows_the_rate_whatever_it_is(rate):
    looks = [Point(0.0, 50), Point(60.0, 50, (10_000, int(10_000 * rate)), (10_000, 0))]
    root = ET.fromstring(draw(report(looks)))
    top = min(float(dot.get("cy")) for dot in root.iter(f"{SVG}circle"))
    assert top > 150 or rate == 0.0


def test_a_rollout_without_a_look_has_no_picture():
    assert draw(report([])) == ""
