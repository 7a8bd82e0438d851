import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml_lifecycle.prometheus.matrix import read_matrix

values = st.one_of(st.floats(), st.just(math.inf))
labels = st.dictionaries(
    st.text(max_size=5), st.one_of(st.text(max_size=20), st.just('"values":[[1,"2"]]')), max_size=3
)


@st.composite
def rows(draw):
    steps = draw(st.lists(st.integers(0, 50), unique=True, max_size=12))
    samples = [[1_800_000_000 + 15 * step, repr(draw(values))] for step in sorted(steps)]
    return {"metric": draw(labels), "values": samples}


@given(st.lists(rows(), max_size=4), st.booleans())
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_it_reads_what_json_reads(written, compact):
    document = {"status": "success", "data": {"resultType": "matrix", "result": written}}
    text = json.dumps(document, separators=(",", ":") if compact else None)
    found = read_matrix(text.encode(), 15)["data"]["result"]
    assert [row["metric"] for row in found] == [row["metric"] for row in written]
    for row, given_row in zip(found, written, strict=True):
        times, read = row["values"]
        assert times.tolist() == [at for at, _ in given_row["values"]]
        assert [repr(value) for value in read.tolist()] == [text for _, text in given_row["values"]]


@pytest.mark.parametrize("body", [b'{"status":"error","error":"x"}', b"[]", b'{"data":{"resultType":"vector"}}'])
def test_what_is_no_matrix_is_left_as_it_is(body):
    assert read_matrix(body, 1) == json.loads(body)


@pytest.mark.parametrize("body", [b"<html>", b'{"data":{"resultType":"matrix","result":[{"metric":{},"values":[[1,"2"'])
def test_what_is_no_json_is_an_error(body):
    with pytest.raises(ValueError, match=r"Expecting value|breaks off"):
        read_matrix(body, 1)
