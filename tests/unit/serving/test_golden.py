"""Expected answers against found ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.golden import CheckFailedError, check_label, check_probabilities, check_response
from serving.smoke_test import _says_ready

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.floats(-1e6, 1e6) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_an_answer_is_as_expected_of_itself(document):
    check_response(document, document, 0)


@given(JSON, JSON)
def test_more_than_expected_may_be_answered(document, extra):
    check_response({"predictions": document, "id": extra}, {"predictions": document}, 0)


@pytest.mark.parametrize(
    ("found", "expected", "said"),
    [
        ({"predictions": [1.2]}, {"predictions": [1.0]}, r"response\.predictions\[0\] is 1\.2, expected 1\.0"),
        ({"predictions": [1]}, {"predictions": [1, 2]}, r"predictions has 1 items, expected are 2"),
        ({"error": "no"}, {"predictions": [1]}, "response has no 'predictions'"),
        ({"ok": 1}, {"ok": True}, "is 1, expected True"),
        ("a", 1, "is 'a', expected 1"),
        ([float("nan")], [1.0], "is nan, expected 1"),
        (None, {"a": 1}, "response is None"),
    ],
)
def test_another_answer_is_named_with_its_place(found, expected, said):
    with pytest.raises(CheckFailedError, match=said):
        check_response(found, expected, 0.1)


def test_numbers_may_differ_by_the_tolerance():
    check_response({"outputs": [{"data": [0.1, 2]}]}, {"outputs": [{"data": [0.15, 2.05]}]}, 0.1)


def test_probabilities_and_label_are_those_of_the_case():
    answer = {"outputs": [{"name": "p", "data": [0.2, 0.8]}, {"name": "label", "data": ["dark"]}]}
    case = {"label": "bright", "probabilities": [0.2, 0.8]}
    assert "label bright" in check_probabilities(answer, "p", case, 0.001)
    with pytest.raises(CheckFailedError, match="label 'dark', expected 'bright'"):
        check_label(answer, case)
    with pytest.raises(CheckFailedError, match=r"has no output 'q', only \['label', 'p'\]"):
        check_probabilities(answer, "q", case, 0.001)
    wrong = {"outputs": [{"name": "p", "data": [float("nan"), 0.8]}]}
    with pytest.raises(CheckFailedError, match="differ by nan"):
        check_probabilities(wrong, "p", case, 0.001)


@pytest.mark.parametrize(
    ("answer", "ready"),
    [
        ("", True),  # Triton says it by the status alone
        ({"name": "m", "ready": True}, True),
        ({"name": "m", "ready": "True"}, True),
        ({"name": "m", "ready": False}, False),
        ({"model_version_status": [{"version": "1", "state": "LOADING"}]}, False),
        ({"model_version_status": [{"version": "1", "state": "AVAILABLE"}]}, True),
    ],
)
def test_readiness_as_the_servers_say_it(answer, ready):
    assert _says_ready(answer) is ready
