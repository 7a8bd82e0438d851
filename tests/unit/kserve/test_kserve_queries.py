"""What Prometheus answers, as counters of both sides; what it does not answer, as reasons."""

from functools import partial

import pytest

from ml_lifecycle.kserve.client import check_prometheus
from ml_lifecycle.kserve.data_planes import PRESETS, filled, source
from ml_lifecycle.kserve.exceptions import RolloutRefusedError
from ml_lifecycle.kserve.own_queries import refusals
from ml_lifecycle.kserve.queries import growths, history
from ml_lifecycle.kserve.request import RolloutRequest
from ml_lifecycle.prometheus.answer import Sample, Series
from ml_lifecycle.prometheus.exceptions import PrometheusQueryError, PrometheusTooHeavyError
from ml_lifecycle.settings import Rollout, parse_settings

OWN = source(
    Rollout(
        errors={"events": "failed($side)", "total": "all($side)"},
        own_metrics=[
            {"kind": "counts", "name": "sold", "events": "sold($side)", "total": "seen($side)"},
            {"kind": "gauge", "name": "score", "value": "score($side)", "tolerance": 0.1},
        ],
    )
)


async def look(prometheus, preset, at=7.0, window_seconds=5.0):
    sides = {"service": "digits", "namespace": "models", "canary": "new", "stable": "old"}
    return await growths(prometheus, preset, **sides, at=at, window_seconds=window_seconds)


class Answering:
    """A data plane, and metrics of one's own where `own` (query → values) has them."""

    def __init__(self, preset, own=()):
        self.preset, self.own, self.times, self.asked = preset, dict(own), set(), []

    async def instant(self, query, at):
        self.times.add(at)
        self.asked.append(query)
        p = self.preset
        if query.startswith("max_over_time(("):
            inner, offset = query.removeprefix("max_over_time((").removesuffix(")").split(")[10m:15s] offset ")
            assert offset == "3000ms"
            return await self.instant(inner, at)
        if query in self.own:
            answer = self.own[query]
            if isinstance(answer, Exception):
                raise answer
            return [Sample({}, value, at) for value in answer]
        if query.startswith("count("):
            return [Sample({}, 2.0, at)]
        if f"sum by ({p.side_label},le)" in query:
            top = 0.1 * p.unit
            return [Sample({p.side_label: "new", "le": le}, 3.0, at) for le in (f"{top:g}", "+Inf")]
        return [
            Sample({p.side_label: "new", p.code: "200"}, 3.0, at),
            Sample({p.side_label: "old", p.code: "500"}, 2.0, at),
        ]


@pytest.mark.parametrize("preset", list(PRESETS))
async def test_answers_of_one_moment_become_counters_in_seconds(preset):
    prometheus = Answering(PRESETS[preset])
    found = await look(prometheus, PRESETS[preset])
    assert prometheus.times == {found.at} == {5.0}
    assert sum(found.canary.codes.values()) == 3.0
    assert {float(le) for le in found.canary.buckets} == {0.1, float("inf")}
    assert sum(found.stable.codes.values()) == 2.0


async def test_the_window_reaches_back_to_where_the_last_look_read():
    prometheus = Answering(PRESETS["istio"])
    first = await look(prometheus, PRESETS["istio"], at=100.0)
    await look(prometheus, PRESETS["istio"], at=130.0, window_seconds=130.0 - first.at)
    assert "offset 30000ms" in prometheus.asked[-1] + prometheus.asked[-2] + prometheus.asked[-3]


ANSWERS = {
    "failed(new)": [1.0],
    "all(new)": [10.0],
    "failed(old)": [2.0],
    "all(old)": [90.0],
    "sold(new)": [4.0],
    "seen(new)": [9.0],
    "sold(old)": [40.0],
    "seen(old)": [90.0],
    "score(new)": [0.5],
    "score(old)": [0.6],
}


async def test_own_queries_are_asked_for_each_side_at_the_same_moment():
    prometheus = Answering(OWN, ANSWERS)
    found = await look(prometheus, OWN)
    assert prometheus.times == {2.0, 5.0}  # the last look's moment is asked for again
    assert found.canary.before == found.canary.own
    assert found.canary.own == {"errors": (1.0, 10.0), "sold": (4.0, 9.0), "score": (0.5,)}
    assert found.stable.own == {"errors": (2.0, 90.0), "sold": (40.0, 90.0), "score": (0.6,)}
    assert found.stable.peaks == {"errors": (2.0, 90.0), "sold": (40.0, 90.0)}
    assert not found.canary.silent


@pytest.mark.parametrize(
    ("query", "answer", "metric", "reason"),
    [
        ("sold(new)", [], "sold", "sold(new) gives nothing"),
        ("score(new)", [0.1, 0.2], "score", "score(new) gives 2 series, not one: wrap it in sum() or avg()"),
        ("seen(new)", PrometheusQueryError("Prometheus refuses 'seen(new)'"), "sold", "Prometheus refuses 'seen(new)'"),
        ("failed(new)", [], "errors", "failed(new) gives nothing"),
    ],
)
async def test_a_query_that_gives_no_number_says_why(query, answer, metric, reason):
    found = await look(Answering(OWN, ANSWERS | {query: answer}), OWN)
    assert reason in found.canary.silent[metric]
    assert metric not in found.canary.own
    assert not found.stable.silent


async def test_refused_queries_are_known_by_the_metrics_name():
    refused = {"seen(old)": PrometheusQueryError("bad PromQL"), "score(old)": []}
    fill = partial(filled, side="old", service="digits", namespace="models", window_seconds=5)
    found = await refusals(Answering(OWN, ANSWERS | refused), OWN, fill, at=1.0)
    assert found == {"sold": "bad PromQL"}


async def test_a_rollout_whose_queries_are_refused_does_not_begin():
    settings = {"rollout.own_metrics": [{"kind": "gauge", "name": "score", "value": "oops($side", "tolerance": 1}]}
    parsed = parse_settings({"defaults": {"data_lake": "file:///lake"}}, "digits", settings)
    request = RolloutRequest.of(parsed, version="2")
    answers = {
        "vector(1)": [1.0],
        "oops(digits-predictor": PrometheusQueryError("Prometheus refuses 'oops(': unclosed"),
    }
    with pytest.raises(RolloutRefusedError, match=r"mend the queries in rollout: score: Prometheus refuses 'oops\('"):
        await check_prometheus(Answering(OWN, answers), request, 1.0)
    await check_prometheus(Answering(OWN, answers | {"oops(digits-predictor": []}), request, 1.0)


class Remembering:
    """Sixty requests a minute with an error at minute 2; a scrape is missing at minute 4.

    Prometheus is young: what it says of minute 0 and 1 may be of pods that it meets with their past.
    """

    async def range(self, query, start, end, step):
        p = PRESETS["knative_otel"]
        times = tuple(end - step * (8 - minute) for minute in (0, 1, 2, 3, 5, 6))
        if query.startswith("count("):
            return [Series({}, times[2:], (2.0,) * 4)]
        return [
            Series({p.side: "old", p.code: "200"}, times, (9000.0, 9000.0, 60.0, 60.0, 60.0, 0.0)),
            Series({p.side: "old", p.code: "500"}, times[:3], (20.0, 20.0, 1.0)),
            Series({p.side: "older", p.code: "500"}, times, (70.0,) * 6),
        ]


async def remembered(prometheus, preset):
    windows = await history(
        prometheus, preset, service="digits", namespace="models", stable="old", end=600, step=60, looks=8
    )
    assert not any(window.canary.requests for window in windows)
    return [(window.stable.requests, window.stable.errors) for window in windows]


async def test_the_history_is_the_stable_sides_own_without_gaps_and_restarts():
    assert await remembered(Remembering(), PRESETS["knative_otel"]) == [(61, 1), (60, 0), (60, 0)]


class RememberingOwn:
    async def range(self, query, start, end, step):
        times = tuple(start + step * minute for minute in range(7))
        values = {
            "failed(old)": (0.0, 1.0, 1.0, 4.0, 0.0, 5.0, 6.0),
            "all(old)": (0.0, 50.0, 120.0, 180.0, 0.0, 200.0, 260.0),
        }
        if query.startswith("count("):
            return [Series({}, times, (2.0,) * 7)]
        return [Series({}, times, values[query])] if query in values else []


async def test_the_history_of_own_error_queries_leaves_a_scrape_gap_out():
    assert await remembered(RememberingOwn(), OWN) == [(50, 1), (70, 0), (60, 3), (60, 1)]


class Heavy(Answering):
    """Answers one side at a time, and for too many not at all."""

    async def instant(self, query, at):
        if "new|old" in query:
            self.asked.append(query)
            raise PrometheusTooHeavyError("too many samples")
        found = await super().instant(query, at)
        return [sample for sample in found if sample.labels.get(self.preset.side, "") in query]


async def test_a_query_that_is_too_heavy_is_asked_for_each_side():
    found = await look(Heavy(PRESETS["istio"]), PRESETS["istio"])
    assert (found.canary.codes, found.stable.codes) == ({"200": 3.0}, {"500": 2.0})


async def test_own_counts_of_a_prometheus_that_has_just_begun_are_silent():
    class Young(Answering):
        async def instant(self, query, at):
            return [] if query.startswith("count(") else await super().instant(query, at)

    found = await look(Young(OWN, ANSWERS), OWN)
    assert set(found.canary.silent) == {"errors", "sold"}
    assert "has not known this service for two looks" in found.canary.silent["sold"]


async def test_a_rollout_whose_data_planes_queries_are_refused_does_not_begin():
    class Refusing(Answering):
        async def instant(self, query, at):
            if "min_over_time" in query:
                raise PrometheusQueryError(f"Prometheus refuses {query!r}: no offset here")
            return await super().instant(query, at)

    parsed = parse_settings({"defaults": {"data_lake": "file:///lake"}}, "digits", {})
    request = RolloutRequest.of(parsed, version="2")
    with pytest.raises(
        RolloutRefusedError, match=r"kn_serving_invocation_duration_seconds_count .*no offset here"
    ) as no:
        await check_prometheus(Refusing(PRESETS["knative_otel"], {"vector(1)": [1.0]}), request, 1.0)
    assert len(str(no.value)) < 600
