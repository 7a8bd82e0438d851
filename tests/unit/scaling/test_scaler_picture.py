from __future__ import annotations

import math
from xml.etree import ElementTree

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_lifecycle.scaling.forecast import Question
from ml_lifecycle.scaling.picture import DAY_SECONDS, LOOKS, Look, draw, look_of, past_questions
from tests.unit.scaling.test_policy import predicted

NOW = 1_800_000_000.0


def question(loads: list[float], step: float = 60.0) -> Question:
    return Question(np.array(loads), 40.0, 6, 0.95, 5, step, NOW)


def test_the_past_is_asked_as_it_was() -> None:
    asked = past_questions(question([float(minute) for minute in range(3000)]))
    assert len(asked) == LOOKS
    assert asked[-1].at == NOW
    assert asked[0].at == NOW - DAY_SECONDS
    for one in asked:
        assert one.loads[-1] == 2999 - (NOW - one.at) / 60


def test_the_load_breaks_where_nothing_is_known() -> None:
    text = draw("models/web", question([10.0, 20.0, math.nan, 30.0, 20.0]), [], "why")
    lines = [line for line in ElementTree.fromstring(text).iter() if line.tag.endswith("polyline")]
    assert [len(line.attrib["points"].split()) for line in lines] == [2, 2]


def test_the_forecast_is_drawn_in_the_middle_of_what_it_says() -> None:
    one = question([10.0, 20.0])
    assert look_of(one, predicted(90)) == Look(NOW + 180, 90, 90)
    text = draw("models/<web>", one, [look_of(one, predicted(90))], "load 20 & more")
    assert "models/&lt;web&gt;" in text
    assert "load 20 &amp; more" in text
    assert "polygon" in text


@given(
    st.lists(st.one_of(st.just(math.nan), st.floats(0, 1e6)), min_size=1, max_size=50),
    st.lists(st.one_of(st.just(math.nan), st.floats(0, 1e6)), max_size=5),
)
@settings(max_examples=50)
def test_any_history_is_a_picture(loads: list[float], peaks: list[float]) -> None:
    looks = [Look(NOW - 60 * age, peak, peak) for age, peak in enumerate(peaks)]
    text = draw("models/web", question(loads), looks, "why")
    ElementTree.fromstring(text)
    assert "nan" not in text
