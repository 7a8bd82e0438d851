import asyncio
import base64
import contextlib
import json
import random
import time

import aiohttp
import pytest
from aiohttp import web
from PIL import Image

from local.load import LoadGenerator
from local.load.requests import NoImagesError, read_bodies
from local.load.schedule import RateRefusedError, Schedule, parse_rate
from local.load.statistics import Statistics


class Service:
    def __init__(self):
        self.status, self.seconds, self.requests = 200, 0.0, []

    async def answer(self, request):
        self.requests.append((request.path, request.headers["Host"], await request.text()))
        await asyncio.sleep(self.seconds)
        return web.Response(status=self.status)


@contextlib.asynccontextmanager
async def serving(service, port=0):
    runner = web.ServerRunner(web.Server(service.answer), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def generator(port, **options):
    defaults = {"host": "digits-models.localhost", "model": "digits", "bodies": [b"{}"], "rate": 100.0}
    return LoadGenerator(ingress=f"http://127.0.0.1:{port}", **(defaults | options))


async def admin(load, method, path, **options):
    url = f"http://127.0.0.1:{load.admin_port}{path}"
    async with aiohttp.ClientSession() as session, session.request(method, url, **options) as response:
        return response.status, await response.json()


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr("local.load.generator.PROBE_SECONDS", 0.02)


async def test_it_sends_v2_requests_at_the_rate_which_may_change(tmp_path):
    (tmp_path / "3").mkdir()
    Image.new("L", (2, 2)).save(tmp_path / "3" / "a.png")
    encoded = base64.b64encode((tmp_path / "3" / "a.png").read_bytes()).decode()
    service = Service()
    async with serving(service) as port, generator(port, bodies=read_bodies(tmp_path)) as load:
        await asyncio.sleep(0.6)
        assert 40 <= len(service.requests) <= 65
        path, host, body = service.requests[0]
        assert (path, host) == ("/v2/models/digits/infer", "digits-models.localhost")
        assert json.loads(body) == {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [encoded]}]}
        assert (await admin(load, "PUT", "/rate", json={"requests_per_second": 0}))[0] == 200
        await asyncio.sleep(0.05)
        before = len(service.requests)
        await asyncio.sleep(0.1)
        assert len(service.requests) == before
        await admin(load, "PUT", "/rate", json={"requests_per_second": 300})
        await asyncio.sleep(0.3)
        assert 60 <= len(service.requests) - before <= 100
        _, statistics = await admin(load, "GET", "/statistics")
        assert statistics["succeeded"] == statistics["requests"] == statistics["statuses"]["200"]
        assert 0 < statistics["latency_seconds"]["p50"] <= statistics["latency_seconds"]["p99"] < 0.5


async def test_the_rate_does_not_wait_for_slow_answers():
    service = Service()
    service.seconds = 0.3
    async with serving(service) as port, generator(port) as load:
        await asyncio.sleep(0.55)
        assert len(service.requests) > 15  # after the first answer, 100 a second
        assert load.statistics.describe()["dropped"] == 0


async def test_no_more_than_the_bound_are_under_way():
    service = Service()
    async with serving(service) as port, generator(port, concurrency=3) as load:
        await asyncio.sleep(0.05)
        service.seconds = 5.0
        await asyncio.sleep(0.3)
        statistics = (await admin(load, "GET", "/statistics"))[1]
    assert statistics["under_way"] == 3
    assert statistics["dropped"] > 5


async def test_it_waits_quietly_until_the_service_exists():
    service = Service()
    async with serving(service) as port:
        pass
    async with generator(port) as load:
        await asyncio.sleep(0.05)  # no ingress
        for status in (404, 503):
            service.status = status
            async with serving(service, port):
                await asyncio.sleep(0.1)
        assert load.waiting
        assert load.statistics.describe()["requests"] == 0
        service.status = 200
        async with serving(service, port):
            await asyncio.sleep(0.2)
        assert load.statistics.describe()["succeeded"] > 5


async def test_errors_are_counted_and_reset():
    service = Service()
    async with serving(service) as port, generator(port) as load:
        await asyncio.sleep(0.1)
        service.status = 500
        await asyncio.sleep(0.1)
        counted = load.statistics.describe()
        assert counted["failed"] == counted["statuses"]["500"] > 0
        assert (await admin(load, "DELETE", "/statistics"))[1]["requests"] == 0


async def test_an_impossible_rate_is_refused():
    async with generator(1) as load:
        status, answer = await admin(load, "PUT", "/rate", json={"requests_per_second": -1})
    assert status == 400
    assert "requests_per_second = -1" in answer["error"]


@pytest.mark.parametrize("document", [None, {}, {"requests_per_second": True}, {"requests_per_second": "5"}])
def test_rates_that_are_no_numbers_are_refused(document):
    with pytest.raises(RateRefusedError):
        parse_rate(document)


def test_constant_arrivals_are_evenly_spaced():
    schedule, now, times = Schedule(10), 0.0, []
    for _ in range(5):
        now += schedule.seconds_to_next(now)
        times.append(round(now, 6))
        schedule.advance()
    assert times == [0.1, 0.2, 0.3, 0.4, 0.5]


def test_poisson_arrivals_have_the_rate():
    schedule, now = Schedule(50, arrivals="poisson", seed=1), 0.0
    gaps = []
    for _ in range(5000):
        gap = schedule.seconds_to_next(now)
        gaps.append(gap)
        now += gap
        schedule.advance()
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(1 / 50, rel=0.05)
    assert sum((gap - mean) ** 2 for gap in gaps) / len(gaps) == pytest.approx(mean**2, rel=0.15)


def test_a_long_stall_is_not_made_up_for():
    schedule = Schedule(100)
    schedule.seconds_to_next(0.0)
    assert schedule.seconds_to_next(0.5) == 0
    assert schedule.seconds_to_next(60.0) == pytest.approx(0.01)


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "readme.txt").write_text("no")
    with pytest.raises(NoImagesError, match="holds no image that can be read"):
        read_bodies(tmp_path)


def test_images_are_spread_over_the_folder(tmp_path):
    for number in range(100):
        Image.new("L", (2, 2), number).save(tmp_path / f"{number:03}.png")
    assert len(read_bodies(tmp_path, limit=10)) == 10


def test_quantiles():
    statistics = Statistics()
    values = [number / 100 for number in range(1, 101)]
    random.Random(0).shuffle(values)
    for value in values:
        statistics.answered(200, value)
    latency = statistics.describe()["latency_seconds"]
    assert latency["p95"] == pytest.approx(0.95, abs=0.011)
    assert latency["mean"] == pytest.approx(0.505)


async def test_leaving_is_quick_with_requests_under_way():
    service = Service()
    async with serving(service) as port:
        async with generator(port):
            await asyncio.sleep(0.05)
            service.seconds = 5.0
            await asyncio.sleep(0.1)
            started = time.monotonic()
        assert time.monotonic() - started < 1


def test_a_broken_file_is_not_sent(tmp_path):
    Image.new("L", (2, 2)).save(tmp_path / "good.png")
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    assert len(read_bodies(tmp_path)) == 1
