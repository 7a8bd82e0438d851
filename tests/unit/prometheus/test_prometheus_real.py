"""The rollout's queries through a real Prometheus that scrapes what each data plane shows."""

import asyncio
import shutil
import time
from dataclasses import replace
from functools import partial

import pytest

from ml_lifecycle.canary.evidence import Counts, Readings
from ml_lifecycle.canary.snapshot import Gap, window
from ml_lifecycle.kserve.data_planes import PRESETS, filled, peak, queries, source
from ml_lifecycle.kserve.missing_metrics import why_nothing
from ml_lifecycle.kserve.own_queries import refusals
from ml_lifecycle.kserve.queries import growths, history
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
SAFE = str.maketrans("p013", "kbcd")  # as Kubernetes writes random names


async def look(client, preset, since=None, at=None, canary=CANARY, stable=STABLE):
    """What both sides grew by until now; `since` (Unix seconds) the look before ended."""
    at = time.time() if at is None else at
    seconds = at - since if since else 30
    return await growths(client, preset, **SIDES, canary=canary, stable=stable, at=at, window_seconds=seconds)


async def counted(client, preset, requests, **sides):
    """Now, once Prometheus has counted so many of the canary's requests in all."""

    async def total():
        moment = time.time() - LAG
        found = await client.instant(f"sum({chosen(preset, **sides)})", moment)
        return moment, sum(sample.value for sample in found)

    moment, _ = await until(total, lambda found: found[1] == requests)
    return moment


def chosen(preset, canary=CANARY, stable=None):
    """The series of one side."""
    return queries(preset, namespace="models", sides=[stable or canary], window_seconds=1).chosen


async def until(read, wanted):
    """What `read` gives once `wanted` is true of it; the test's patience is 40 s and more."""
    for _ in range(200):
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

    with world.prometheus(tmp_path) as url:
        async with PrometheusClient(url) as client:
            for _, preset, canary, _ in modes:
                await counted(client, preset, 1, canary=canary)
            await asyncio.sleep(8)  # longer than the looks that follow
            begin = time.time() - LAG
            await asyncio.sleep(1)
            for canary, stable in ((CANARY, STABLE), (STANDARD_CANARY, STANDARD_STABLE)):
                requests |= {canary: {"200": 21, "503": 3}, stable: after}
            for name, preset, canary, stable in modes:
                await counted(client, preset, 24, canary=canary)
                seen = window(await look(client, preset, begin, canary=canary, stable=stable))
                assert not isinstance(seen, Gap), f"{name}: {seen.reason}"
                assert (seen.canary.requests, seen.canary.errors) == (23, 3), name
                assert (seen.stable.requests, seen.stable.errors) == (80, 0), name
                assert seen.canary.latency.quantile(0.95) == pytest.approx(0.01, abs=0.001), name
                assert (seen.canary.latency.total, seen.stable.latency.total) == (23, 80), name


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
            await until(lambda: look(client, OWN), lambda found: "score" in found.stable.own)
            await asyncio.sleep(4)
            begin = time.time() - LAG
            await asyncio.sleep(1)
            own |= {
                "sold": {CANARY: 2, STABLE: 8},
                "seen": {CANARY: 30, STABLE: 190},
                "score": {CANARY: 0.6, STABLE: 0.8},
            }
            seen = window(
                await until(lambda: look(client, OWN, begin), lambda found: found.canary.own.get("sold") == (2.0, 30.0))
            )
            assert seen.own["sold"] == Counts(20, 2, 100, 8)
            assert seen.own["score"] == Readings(1, 0.6, 0.8)
            assert 0.6 <= seen.own["smooth"].canary <= 0.7
            assert set(seen.silent) == {"typo", "many", "broken", "undefined"}
            assert "gives nothing" in seen.silent["typo"]
            assert "series, not one" in seen.silent["many"]
            assert "parse error" in seen.silent["broken"]
            assert "no finite number, but nan, on the canary side" in seen.silent["undefined"]

            fill = partial(filled, **SIDES, side=STABLE, window_seconds=1)
            refused = await refusals(client, OWN, fill, at=time.time())
            assert list(refused) == ["broken"]
            with pytest.raises(PrometheusQueryError, match="sum by"):
                await client.instant("sum by (", time.time())


class Looking:
    """A look after the other at one Prometheus."""

    def __init__(self, client, preset):
        self.client, self.preset, self.moment = client, preset, None

    async def begin(self):
        self.moment = time.time() - LAG

    async def next(self):
        """What was counted since the look before."""
        found = await look(self.client, self.preset, self.moment)
        self.moment = found.at
        return window(found)

    async def total(self, until_seconds=1.5):
        """The stable side's requests and errors of the looks in that time, none of which may count more than it saw."""
        await asyncio.sleep(until_seconds)
        found = await self.next()
        return (0, 0) if isinstance(found, Gap) else (found.stable.requests, found.stable.errors)


async def test_a_scrape_gap_is_no_traffic_on_either_end(tmp_path):
    """The series go and come back with all they have counted: neither must look like requests of one look."""
    requests = {STABLE: {"200": 5000}, CANARY: {"200": 500}}
    world = World(lambda: knative_otel(requests))
    with world.prometheus(tmp_path) as url:
        async with PrometheusClient(url) as client:
            looking = Looking(client, OTEL)
            await until(lambda: look(client, OTEL), lambda found: not found.is_empty)
            await asyncio.sleep(3)
            await looking.begin()
            world.text = str  # an empty answer: 503
            assert await looking.total() == (0, 0)
            requests[STABLE]["200"] += 7
            world.text = lambda: knative_otel(requests)
            assert await looking.total() == (0, 0)
            requests[STABLE]["200"] += 11
            assert await looking.total() == (11, 0)


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
            looking = Looking(client, preset)

            async def own():
                seen["sold"] += 100
                await asyncio.sleep(1.5)
                return await looking.next()

            await until(lambda: look(client, preset), lambda found: "sold" in found.stable.own)
            # Prometheus looks back in steps of 15 s for what a count had reached.
            reached = peak(f'sum(sold_total{{side="{STABLE}"}})', 1)
            await until(lambda: client.instant(reached, time.time() - LAG), bool)
            await looking.begin()
            world.text = lambda: text(shown=False)
            assert "went down" in (await own()).silent["sold"]
            world.text = lambda: text(shown=True)
            assert "had lost some of its series" in (await own()).silent["sold"]
            assert (await own()).own["sold"] == Counts(100, 50, 100, 50)


def serving(counts, code="200"):
    """Pods of the stable side by name, each a process of its own."""
    return "".join(
        f'ml_serving_requests_total{{namespace="models",pod="{pod(STABLE)[:-5]}{name}",'
        f'endpoint="/v2/models/{{name}}/infer",code="{code}"}} {count}\n'
        for name, count in counts.items()
    )


SERVING = replace(PRESETS["ml_serving"], lag_seconds=LAG)


async def test_what_one_pod_loses_concerns_that_pod_alone(tmp_path):
    """A reset, a pod that ends, one that starts, one that is scraped late: the others' requests count, no past does."""
    counts = {"x2kvq": 100, "b7dwz": 1000}
    with World(lambda: serving(counts)).prometheus(tmp_path) as url:
        async with PrometheusClient(url) as client:
            looking = Looking(client, SERVING)
            await until(lambda: look(client, SERVING), lambda found: not found.is_empty)
            await asyncio.sleep(3)
            await looking.begin()
            counts |= {"x2kvq": 40, "b7dwz": 1500}  # the first has started again
            assert await looking.total() == (500, 0)
            counts["x2kvq"] = 60
            assert await looking.total() == (20, 0)
            del counts["x2kvq"]
            counts["b7dwz"] = 2000
            assert await looking.total() == (500, 0)
            counts["b7dwz"], counts["zzzzz"] = 2010, 5  # a new pod counts in full
            assert await looking.total() == (15, 0)
            counts["b7dwz"], counts["ttttt"] = 2030, 90_000  # an old one, scraped for the first time, does not
            assert await looking.total() == (20, 0)
            counts["b7dwz"], counts["ttttt"] = 2040, 90_007
            assert await looking.total() == (17, 0)


async def test_a_canary_that_fails_is_seen_while_stable_pods_come_and_go(tmp_path):
    pods = {f"p{number:04d}".translate(SAFE): 500 for number in range(5)}
    failed = {"n": 0}

    def text():
        bad = f'ml_serving_requests_total{{namespace="models",pod="{pod(CANARY)}",endpoint="/infer",code="500"}} '
        return serving(pods) + (bad + f"{failed['n']}\n" if failed["n"] else "")

    with World(text).prometheus(tmp_path) as url:
        async with PrometheusClient(url) as client:
            looking = Looking(client, SERVING)
            await until(lambda: look(client, SERVING), lambda found: not found.is_empty)
            await asyncio.sleep(3)
            await looking.begin()
            found = []
            for number in range(3):
                del pods[next(iter(pods))]
                pods[f"q{number:04d}".translate(SAFE)] = 1
                pods |= {name: count + 50 for name, count in pods.items() if count > 1}
                failed["n"] += 60
                await asyncio.sleep(1.5)
                found.append(await looking.next())
            assert [each.canary.errors for each in found] == [60, 60, 60]
            assert all(each.stable.requests >= 100 for each in found)


async def test_a_prometheus_without_its_storage_brings_no_past(tmp_path):
    """It begins on an empty folder; a look falls before its first scrape, and so does the begin of the next one."""
    began = time.time()

    def text():
        served = int(40 * (time.time() - began))
        return knative_otel({STABLE: {"200": 1_000_000 + served, "500": 20_000}, CANARY: {"200": 900 + served // 4}})

    world = World(text)
    with world.prometheus(tmp_path) as url:
        async with PrometheusClient(url) as client:
            await until(lambda: look(client, OTEL), lambda found: not found.is_empty)
            begin = time.time() - LAG
    with world.prometheus(tmp_path / "again") as url:
        async with PrometheusClient(url) as client:
            looking = Looking(client, OTEL)
            looking.moment = begin
            for _ in range(12):
                try:
                    requests, errors = await looking.total(0.5)
                except PrometheusError:
                    continue
                assert errors == 0
                assert requests <= 40 * (time.time() - began)
            assert requests


async def test_the_history_of_a_young_prometheus_brings_no_past(tmp_path):
    """Ten old pods of which one after the other is scraped for the first time."""
    began = time.time()

    def text():
        since = time.time() - began
        shown = min(10, 1 + int(2 * since))
        old = {f"b{number:04d}".translate(SAFE): 100_000 + int(40 * since) for number in range(shown)}
        return serving(old) + serving(dict.fromkeys(old, 2000), "500")

    with World(text).prometheus(tmp_path) as url:
        async with PrometheusClient(url) as client:
            await until(lambda: look(client, SERVING), lambda found: not found.is_empty)
            await asyncio.sleep(8)
            found = await history(client, SERVING, **SIDES, stable=STABLE, end=time.time(), step=1, looks=10)
            assert found
            assert not any(each.stable.errors for each in found)
            assert all(each.stable.requests < 600 for each in found)


async def test_what_prometheus_has_instead_is_said(tmp_path):
    """A scraped Knative has no labels of revision and namespace; a clock that is ahead asks for what is not yet."""
    plain = 'kn_serving_invocation_duration_seconds_count{http_response_status_code="200",pod="digits-x"} 6\n'
    with World(lambda: plain).prometheus(tmp_path) as url:
        async with PrometheusClient(url) as client:
            sides = (CANARY, STABLE)
            await until(lambda: client.instant(OTEL.count, time.time()), bool)
            said = await why_nothing(client, OTEL, "models", sides, time.time())
            assert 'under other labels, such as {http_response_status_code="200"' in said
            assert f'kn_revision_name=~"{CANARY}|{STABLE}"' in said
            ahead = await why_nothing(client, OTEL, "models", sides, time.time() + 900)
            assert "15 minutes old: it is scraped no more, or this machine's clock is ahead" in ahead
            assert "no istio_requests_total at all" in await why_nothing(client, PRESETS["istio"], "models", sides, 1e9)


async def test_a_look_never_splits_a_scrape(tmp_path):
    """A scrape takes 150 ms here and is dated from its begin: without a lag the same moment reads differently later."""
    started = time.time()

    def text():
        done = round(1000 * (time.time() - started))
        return knative_otel({STABLE: {"200": done}, CANARY: {"200": done}})

    eager = replace(OTEL, lag_seconds=0.0)
    with World(text).prometheus(tmp_path, seconds=0.15) as url:
        async with PrometheusClient(url) as client:
            await until(lambda: look(client, OTEL), lambda found: not found.is_empty)
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
            await until(lambda: look(client, OTEL), lambda found: not found.is_empty)
            await asyncio.sleep(4)
            windows = await history(client, OTEL, **SIDES, stable=STABLE, end=time.time(), step=1, looks=3)
            assert len(windows) == 3
            requests = sum(window.stable.requests for window in windows)
            assert sum(window.stable.errors for window in windows) == pytest.approx(requests / 11, abs=3)
