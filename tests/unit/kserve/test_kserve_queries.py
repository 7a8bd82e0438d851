"""The queries of each data plane, and the counters read from their answers."""

import pytest

from ml_lifecycle.kserve.queries import PRESETS, history, queries, snapshot
from ml_lifecycle.prometheus.client import Sample, Series


@pytest.mark.parametrize("preset", list(PRESETS))
def test_both_sides_come_from_one_query_time(preset):
    asked = queries(PRESETS[preset], service="digits", namespace="models", window_seconds=5.2)
    for query in (asked.codes, asked.buckets, asked.resets):
        assert "digits-predictor" in query
        assert '="models"' in query
    assert "[5s]" in asked.resets


class Answering:
    def __init__(self, preset):
        self.preset, self.times = preset, set()

    async def instant(self, query, at):
        self.times.add(at)
        p = self.preset
        if "resets(" in query:
            return [Sample({p.revision: "old"}, 1.0, at)]
        if p.bucket in query:
            top = 0.1 * p.unit
            return [Sample({p.revision: "new", "le": le}, 3.0, at) for le in (f"{top:g}", "+Inf")]
        return [
            Sample({p.revision: "new", p.code: "200"}, 3.0, at),
            Sample({p.revision: "old", p.code: "500"}, 2.0, at),
        ]


@pytest.mark.parametrize("preset", list(PRESETS))
async def test_answers_become_counters_in_seconds(preset):
    prometheus = Answering(PRESETS[preset])
    found = await snapshot(
        prometheus,
        PRESETS[preset],
        service="digits",
        namespace="models",
        canary="new",
        stable="old",
        at=7.0,
        window_seconds=5,
    )
    assert prometheus.times == {7.0}
    assert found.canary.codes == {"200": 3.0}
    assert {float(le) for le in found.canary.buckets} == {0.1, float("inf")}
    assert (found.stable.codes, found.stable.resets) == ({"500": 2.0}, 1.0)


class Remembering:
    """Sixty requests a minute with an error at minute 2; a scrape is missing at minute 4, a restart before minute 6."""

    async def range(self, query, start, end, step):
        p, minutes = PRESETS["knative_otel"], [0, 1, 2, 3, 5, 6, 7]
        times = tuple(start + step * minute for minute in minutes)
        good = tuple(60.0 * (minute if minute < 6 else minute - 6) for minute in minutes)
        return [
            Series({p.revision: "old", p.code: "200"}, times, good),
            Series({p.revision: "old", p.code: "500"}, times[2:5], (1.0, 1.0, 1.0)),
            Series({p.revision: "older", p.code: "500"}, times, good),
        ]


async def test_the_history_is_the_stable_revisions_own_without_gaps_and_restarts():
    windows = await history(
        Remembering(), PRESETS["knative_otel"], service="digits", namespace="models", stable="old", end=600, step=60
    )
    assert [(window.stable.requests, window.stable.errors) for window in windows] == [
        (60, 0),
        (61, 1),
        (60, 0),
        (60, 0),
    ]
    assert not any(window.canary.requests for window in windows)
