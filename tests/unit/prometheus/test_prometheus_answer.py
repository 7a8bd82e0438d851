"""What an answer is taken for: numbers, a part of them, a refusal, too much, or nothing."""

import json

import pytest

from ml_lifecycle.prometheus.answer import Answer
from ml_lifecycle.prometheus.exceptions import (
    PrometheusError,
    PrometheusQueryError,
    PrometheusTooHeavyError,
    PrometheusUnavailableError,
)
from ml_lifecycle.prometheus.matrix import read_matrix

VECTOR = {"resultType": "vector", "result": [{"metric": {"a": "1"}, "value": [10, "2.5"]}]}
HISTOGRAM = {"count": "59.9", "sum": "3.1", "buckets": [[0, "0.088", "0.11", "59.9"]]}


def answer(document, status=200):
    text = json.dumps(document)
    return Answer("http://p", "up", status, read_matrix(text.encode(), 1), text)


def success(data=VECTOR, **more):
    return answer({"status": "success", "data": data, **more})


def failed(status, error, kind=""):
    return answer({"status": "error", "errorType": kind, "error": error}, status)


@pytest.mark.parametrize("key", ["warnings", "infos"])
@pytest.mark.parametrize(
    "said",
    [
        "receive series from Addr: store-b: rpc error: code = Unavailable",
        "No StoreAPIs matched for this query",
        "results truncated due to limit",
    ],
)
def test_an_answer_in_part_is_no_answer(key, said):
    with pytest.raises(PrometheusUnavailableError, match="'up' in part: " + said[:20]):
        success(**{key: ["PromQL info: input to rate is no counter", said]}).samples()


def test_the_partial_answer_of_victoriametrics_is_no_answer():
    with pytest.raises(PrometheusUnavailableError, match="in part"):
        success(isPartial=True).samples()


def test_what_the_engine_says_of_the_query_takes_nothing_away():
    remarks = {"warnings": ["PromQL warning: bucket label is missing"], "infos": ["PromQL info: no counter"]}
    assert len(success(**remarks, isPartial=False).samples()) == 1
    assert len(success(warnings=None, infos=[]).samples()) == 1


@pytest.mark.parametrize("rows", [{"histogram": [10, HISTOGRAM]}, {"value": [10, "1"], "histogram": [10, HISTOGRAM]}])
def test_a_native_histogram_at_one_time_says_how_to_ask(rows):
    asked = success({"resultType": "vector", "result": [*VECTOR["result"], {"metric": {}, **rows}]})
    with pytest.raises(PrometheusQueryError, match=r"'up' gives histograms.*histogram_count\(\)"):
        asked.samples()


@pytest.mark.parametrize(
    "rows", [{"histograms": [[10, HISTOGRAM]]}, {"values": [[9, "1"]], "histograms": [[10, HISTOGRAM]]}]
)
def test_a_native_histogram_over_a_range_says_how_to_ask(rows):
    with pytest.raises(PrometheusQueryError, match=r"histogram_quantile\(\)"):
        success({"resultType": "matrix", "result": [{"metric": {}, **rows}]}).series()


def test_a_result_of_another_type_is_the_query_s_fault():
    with pytest.raises(PrometheusQueryError, match="yields a vector, not a matrix"):
        success().series()
    with pytest.raises(PrometheusQueryError, match="yields a string, not a vector"):
        success({"resultType": "string", "result": [1, "x"]}).samples()


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"resultType": "vector"},
        {"resultType": "vector", "result": {}},
        {"resultType": "vector", "result": None},
        {"resultType": "vector", "result": ["x"]},
        {"resultType": "vector", "result": [{"metric": {}, "value": None}]},
        {"resultType": "vector", "result": [{"metric": None, "value": [1, "1"]}]},
        {"resultType": "vector", "result": [{"metric": {}, "value": [1, "many"]}]},
        {"resultType": "vector", "result": [{"metric": {}, "value": [None, "1"]}]},
        {"resultType": "scalar", "result": "1"},
        {"resultType": 5, "result": []},
    ],
)
def test_what_is_not_as_documented_is_no_answer(data):
    with pytest.raises(PrometheusUnavailableError, match="not as its API is documented"):
        success(data).samples()


@pytest.mark.parametrize("row", [{"metric": {}}, {"values": [[1, "2"]]}, "x", {"metric": {}, "values": 5}])
def test_a_range_that_is_not_as_documented_is_no_answer(row):
    document = {"status": "success", "data": {"resultType": "matrix", "result": [row]}}
    try:
        read = read_matrix(json.dumps(document, separators=(",", ":")).encode(), 1)
    except (ValueError, TypeError, LookupError):
        read = None  # as the client takes it
    with pytest.raises(PrometheusUnavailableError):
        Answer("http://p", "up", 200, read).series()


@pytest.mark.parametrize("document", ["Unauthorized", ["x"], 5, None])
@pytest.mark.parametrize("status", [200, 400, 401, 422, 503])
def test_an_answer_that_is_no_object_is_no_answer(document, status):
    with pytest.raises(PrometheusUnavailableError, match=f"http://p answered {status}.*is it a Prometheus"):
        answer(document, status).samples()


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (422, "query processing would load too many samples into memory in query execution"),
        (503, "query timed out in expression evaluation"),
        (400, "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution"),
        (422, "the query exceeded the maximum number of chunks (limit: 2000000) (err-mimir-max-chunks-per-query)"),
        (422, "the query time range exceeds the limit (query length: 170h, limit: 24h)"),
        (500, "expanding series: rpc error: code = ResourceExhausted desc = exceeded series limit"),
        (503, "expanding series: context deadline exceeded"),
        (422, "cannot select more than -search.maxSamplesPerQuery=1000000000 samples"),
        (504, "upstream request timeout"),
        (413, "response larger than the max message size"),
    ],
)
def test_a_query_that_is_too_heavy_may_be_asked_in_parts(status, said):
    with pytest.raises(PrometheusTooHeavyError, match="'up'"):
        failed(status, said).samples()


def test_a_gateway_that_waited_long_enough_says_so_without_json():
    with pytest.raises(PrometheusTooHeavyError):
        Answer("http://p", "up", 504, None, "<html>504</html>").samples()


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (400, 'invalid parameter "query": 1:4: parse error: unexpected identifier "limit"'),
        (400, 'invalid parameter "timeout": cannot parse'),
        (422, "found duplicate series for the match group"),
        (422, "vector cannot contain metrics with the same labelset"),
    ],
)
def test_a_query_that_is_wrong_is_refused(status, said):
    with pytest.raises(PrometheusQueryError, match="refuses 'up'"):
        failed(status, said).samples()


@pytest.mark.parametrize(
    ("status", "said"),
    [(429, "too many outstanding requests"), (429, "rate limit"), (401, "no"), (500, "no"), (200, "")],
)
def test_a_server_that_cannot_now_may_do_it_later(status, said):
    with pytest.raises(PrometheusUnavailableError) as refused:
        failed(status, said).samples()
    assert not isinstance(refused.value, PrometheusTooHeavyError)


@pytest.mark.parametrize("status", [400, 503, 504])
def test_a_long_query_is_shown_by_its_beginning(status):
    """A query for a hundred services has some ten thousand characters, and its error stands on a hundred objects."""
    query = "sum(" + " or ".join(f"metric_{number}" for number in range(2000)) + ")"
    refused = Answer("http://p", query, status, {"status": "error", "error": "no"})
    with pytest.raises(PrometheusError) as raised:
        refused.samples()
    assert len(str(raised.value)) < 500
    found = Answer("http://p", query, 200, {"status": "success", "isPartial": True, "data": VECTOR})
    with pytest.raises(PrometheusUnavailableError, match=r"'sum\(metric_0 or metric_1 .*…' in part"):
        found.samples()
