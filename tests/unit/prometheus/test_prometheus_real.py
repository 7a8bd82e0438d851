"""The rollout's queries through a real Prometheus that scrapes what each data plane shows."""

import asyncio
import shutil
import time
from dataclasses import replace
from functools import partial

import pytest

from ml_lifecycle.canary.evidence import Counts, Readings
from ml_lifecycle.canary.snapshot import Gap, between
from ml_lifecycle.kserve.data_planes import PRESETS, filled, source
from ml_lifecycle.kserve.own_queries import refusals
from ml_lifecycle.kserve.queries import history, snapshot
from ml_lifecycle.prometheus.client import PrometheusClient
from ml_lifecycle.prometheus.exceptions import PrometheusError, PrometheusQueryError
from ml_lifecycle.settings import Rollout
from tests.unit.prometheus.expositions import (
    CANARY,
    EXPOSITIONS,
    STABLE,
    STANDARD_CANARY,
    STANDARD_STABLE,
    knative_otel,
    pod,
)
from tests.unit.prometheus.scraped import World

pytestmark = [
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not on PATH"),
    pytest.mark.slow,
]
LAG = 0.5  # a scrape of these targets takes less
OTEL = replace(PRESETS["knative_otel"], lag_seconds=LAG)
SIDES = {"service": "digits", "namespace": "models"}


async def look(client, preset, since=None, at=None, canary=CANARY, stable=STABLE):
    """A snapshot now; `since` is the one before."""
    at = time.time() if at is None else at
    window = at - since.at if since else 30
    return await snapshot(client, preset, **SIDES, canary=canary, stable=stable, at=at, window_seconds=window)


async def until(read, wanted):
    """What `read` gives once `wanted` is true of it; the test's patience is 20 s."""
    for _ in range(100):
        try:
            found = await read()
            if wanted(found):
                return found
        except PrometheusError:
            pass
        await asyncio.sleep(0.2)
    raise AssertionError("Prometheus never showed it")


OWN_ERRORS = {
    "events": 'sum(our_failures_total{namespace="$namespace",pod=~"$pods"})',
    "total": 'sum(request_predict_seconds_count{namespace="$namespace",pod=~"$pods"})',
}


async def test_every_preset_counts_both_sides_and_first_errors(tmp_path):
    """Whatever else a data plane reports of the same request, or of others', each is counted once; in both modes."""
    before, after = {"200": 100}, {"200": 179, "404": 1}
    requests = {STABLE: before, CANARY: {"200": 1}, STANDARD_STABLE: before, STANDARD_CANARY: {"200": 1}}
    presets = {name: source(Rollout(metrics=name, lag_seconds=LAG)) for name in PRESETS if name != "kserve"}
    presets["kserve"] = source(Rollout(metrics="kserve", errors=OWN_ERRORS, lag_seconds=LAG))
    modes = [
        (name, preset, canary, stable)
        for name, preset in presets.items()
        for canary, stable in ((CANARY, STABLE), (STANDARD_CANARY, STANDARD_STABLE))
        if canary == CANARY or "knative" not in name
    ]
    world = World(lambda: "".join(show(requests) for show in EXPOSITIONS.values()))

    async def counts(client, preset, canary, stable, total, since=None):
        """The snapshot once the canary has so many requests."""
        read = partial(look, client, preset, since, canary=canary, stable=stable)
        return await until(read, lambda found: sum(found.canary.codes.values()) == total)

    with world.prometheus(tmp_path) as url:
        async with PrometheusClient(url) as client:
            old = [await counts(client, preset, *sides, 1) for _, preset, *sides in modes]
            for canary, stable in ((CANARY, STABLE), (STANDARD_CANARY, STANDARD_STABLE)):
                requests |= {canary: {"200": 21, "503": 3}, stable: after}
            for (name, preset, *sides), earlier in zip(modes, old, strict=True):
                window = between(earlier, await counts(client, preset, *sides, 24, earlier))
                assert not isinstance(window, Gap), f"{name}: {window.reason}"
                assert (window.canary.requests, window.canary.errors) == (23, 3), name
                assert (window.stable.requests, window.stable.errors) == (80, 0), name
                assert window.canary.latency.quantile(0.95) == pytest.approx(0.01, abs=0.001), name
                assert (window.canary.latency.total, window.stable.latency.total) == (23, 80), name


OWN = source(
    Rollout(
        lag_seconds=LAG,
        own_metrics=[
            {
                "kind": "counts",
                "name": "sold",
                "events": 'sum(sold_total{side="$side"}) or vector(0)',
                "total": 'sum(seen_total{side="$side",namespace="$namespace"})',
            },
            {"kind": "gauge", "name": "score", "value": 'avg(score{side="$side"})', "tolerance": 0.1},
            {"kind": "gauge", "name": "smooth", "value": 'avg_over_time(score{side="$side"}[$window])', "tolerance": 1},
            {"kind": "gauge", "name": "typo", "value": 'sum(scores{side="$side"})', "tolerance": 1},
            {"kind": "gauge", "name": "many", "value": 'seen_total or sold_total{side="$side"}', "tolerance": 1},
            {"kind": "gauge", "name": "broken", "value": 'sum by (score{side="$side"})', "tolerance": 1},
            {"kind": "gauge", "name": "undefined", "value": 'sum(score{side="$side"}) * NaN', "tolerance": 1},
        ],
    )
)


async def test_metrics_of_ones_own_are_read_or_say_why_not(tmp_path):
    own = {"sold": {}, "seen": {CANARY: 10, STABLE: 90}, "score": {CANARY: 0.7, STABLE: 0.8}}

    def text():
        requests = {side: {"200": own["seen"][side]} for side in (CANARY, STABLE)}
        lines = [f'score{{side="{side}"}} {value}' for side, value in own["score"].items()]
        lines += [f'sold_total{{side="{side}"}} {value}' for side, value in own["sold"].items()]
        lines += [f'seen_total{{side="{side}",namespace="models"}} {value}' for side, value in own["seen"].items()]
        return "\n".join([*lines, knative_otel(requests)])

    with World(text).prometheus(tmp_path) as url:
        async with PrometheusClient(url) as client:
            before = await until(lambda: look(client, OWN), lambda found: "score" in found.stable.own)
            own |= {
                "sold": {CANARY: 2, STABLE: 8},
                "seen": {CANARY: 30, STABLE: 190},
                "score": {CANARY: 0.6, STABLE: 0.8},
            }
            after = await until(
                lambda: look(client, OWN, before), lambda found: found.canary.own.get("sold") == (2.0, 30.0)
            )
            window = between(before, after)
            assert window.own["sold"] == Counts(20, 2, 100, 8)
            assert window.own["score"] == Readings(1, 0.6, 0.8)
            assert 0.6 <= window.own["smooth"].canary <= 0.7
            assert set(window.silent) == {"typo", "many", "broken", "undefined"}
            assert "gives nothing" in window.silent["typo"]
            assert "series, not one" in window.silent["many"]
            assert "parse error" in window.silent["broken"]
            assert "no finite number on the canary side" in window.silent["undefined"]

            fill = partial(filled, **SIDES, side=STABLE, window_seconds=1)
            refused = await refusals(client, OWN, fill, at=time.time())
            assert list(refused) == ["broken"]
            with pytest.raises(PrometheusQueryError, match="sum by"):
                await client.instant("sum by (", time.time())


async def test_a_scrape_gap_is_no_traffic_on_either_end(tmp_path):
    """The series go and come back with all they have counted: neither must look like requests of one look."""
    requests = {STABLE: {"200": 5000}, CANARY: {"200": 500}}
    world = World(lambda: knative_otel(requests))
    with world.prometheus(tmp_path) as url:
        async with PrometheusClient(url) as client:
            before = await until(lambda: look(client, OTEL), lambda found: bool(found.stable.codes))
            world.text = str  # an empty answer: 503
            lost = await until(lambda: look(client, OTEL, before), lambda found: not found.stable.codes)
            assert isinstance(between(before, lost), Gap)
            requests[STABLE]["200"] += 7
            world.text = lambda: knative_otel(requests)
            back = await until(lambda: look(client, OTEL, lost), lambda found: bool(found.stable.codes))
            gap = between(lost, back)
            assert isinstance(gap, Gap)
            assert "not scraped throughout" in gap.reason
            requests[STABLE]["200"] += 11
            after = await until(lambda: look(client, OTEL, back), lambda found: found.stable.codes["200"] == 5018)
            assert between(back, after).stable.requests == 11


async def test_a_scrape_gap_is_no_traffic_in_own_counts(tmp_path):
    """`or vector(0)` turns the gap into a count of none, and its end into all that was ever counted."""
    counts = {
        "kind": "counts",
        "name": "sold",
        "events": 'sum(sold_total{side="$side"}) or vector(0)',
        "total": 'sum(seen_total{side="$side"}) or vector(0)',
    }
    preset = source(Rollout(lag_seconds=LAG, own_metrics=[counts]))
    seen = {"sold": 5000}

    def text(shown):
        lines = [f'sold_total{{side="{side}"}} {seen["sold"] // 2}' for side in (CANARY, STABLE)]
        lines += [f'seen_total{{side="{side}"}} {seen["sold"]}' for side in (CANARY, STABLE)]
        plane = knative_otel({STABLE: {"200": seen["sold"]}, CANARY: {"200": 5}})
        return "\n".join([*(lines if shown else []), plane])

    world = World(lambda: text(shown=True))
    with world.prometheus(tmp_path) as url:
        async with PrometheusClient(url) as client:

            async def sees(total, since):
                def wanted(found):
                    return found.stable.own.get("sold", ())[1:] == (total,)

                return await until(lambda: look(client, preset, since), wanted)

            before = await sees(5000, None)
            await asyncio.sleep(15)  # the step in which Prometheus looks back for what a count had reached
            world.text = lambda: text(shown=False)
            seen["sold"] += 1
            lost = await sees(0, before)
            assert "went down" in between(before, lost).silent["sold"]
            world.text = lambda: text(shown=True)
            seen["sold"] += 1
            back = await sees(5002, lost)
            assert "had lost some of its series" in between(lost, back).silent["sold"]
            seen["sold"] += 100
            after = await sees(5102, back)
            assert between(back, after).own["sold"] == Counts(100, 50, 100, 50)


async def test_a_reset_or_a_lost_pod_is_seen_though_the_sum_grows(tmp_path):
    counts = {"x2kvq": 100, "b7dwz": 1000}
    preset = replace(PRESETS["ml_serving"], lag_seconds=LAG)

    def text():
        return "".join(
            f'ml_serving_requests_total{{namespace="models",pod="{pod(STABLE)[:-5]}{name}",'
            f'endpoint="/v2/models/{{name}}/infer",code="200"}} {count}\n'
            for name, count in counts.items()
        )

    with World(text).prometheus(tmp_path) as url:
        async with PrometheusClient(url) as client:

            async def sees(total, since):
                def wanted(found):
                    return found.stable.codes.get("200") == total

                return await until(lambda: look(client, preset, since), wanted)

            before = await sees(1100, None)
            counts |= {"x2kvq": 40, "b7dwz": 1500}  # the first has started again
            reset = await sees(1540, before)
            assert isinstance(between(before, reset), Gap)
            await asyncio.sleep(4)  # the next looks are closer together, so the reset is over for them
            grown = await sees(1540, reset)
            counts["b7dwz"] = 1700
            calm = await sees(1740, grown)
            assert between(grown, calm).stable.requests == 200
            del counts["x2kvq"]
            counts["b7dwz"] = 2000
            scaled = await sees(2000, calm)
            assert isinstance(between(calm, scaled), Gap)
            counts["b7dwz"], counts["zzzzz"] = 2010, 5  # a new pod counts in full
            assert between(scaled, await sees(2015, scaled)).stable.requests == 15


async def test_a_look_never_splits_a_scrape(tmp_path):
    """A scrape takes 150 ms here and is dated from its begin: without a lag the same moment reads differently later."""
    started = time.time()

    def text():
        done = round(1000 * (time.time() - started))
        return knative_otel({STABLE: {"200": done}, CANARY: {"200": done}})

    eager = replace(OTEL, lag_seconds=0.0)
    with World(text).prometheus(tmp_path, seconds=0.15) as url:
        async with PrometheusClient(url) as client:
            await until(lambda: look(client, OTEL), lambda found: bool(found.stable.codes))
            changed = 0
            for _ in range(20):
                at = time.time()
                first, hasty = await asyncio.gather(look(client, OTEL, at=at), look(client, eager, at=at))
                assert first.canary.codes == first.stable.codes
                assert first.canary.codes["200"] == first.canary.buckets["inf"]
                await asyncio.sleep(0.3)
                assert await look(client, OTEL, at=at) == first
                changed += (await look(client, eager, at=at)).stable != hasty.stable
            assert changed


async def test_the_history_is_read_as_the_looks_are(tmp_path):
    started = time.time()

    def text():
        done = round(100 * (time.time() - started))
        return knative_otel({STABLE: {"200": done, "500": done // 10}})

    with World(text).prometheus(tmp_path) as url:
        async with PrometheusClient(url) as client:
            await until(lambda: look(client, OTEL), lambda found: bool(found.stable.codes))
            await asyncio.sleep(4)
            windows = await history(client, OTEL, **SIDES, stable=STABLE, end=time.time(), step=1, looks=3)
            assert len(windows) == 3
            requests = sum(window.stable.requests for window in windows)
            assert sum(window.stable.errors for window in windows) == pytest.approx(requests / 11, abs=3)
