"""The client against a tiny HTTP server that answers as Prometheus does."""

import asyncio
import base64
import json
import math
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace

import pytest

from ml_lifecycle.exceptions import SettingsError
from ml_lifecycle.prometheus.client import MOST_AT_ONCE, PrometheusClient, _base_url, connect
from ml_lifecycle.prometheus.exceptions import (
    PrometheusQueryError,
    PrometheusTooHeavyError,
    PrometheusUnavailableError,
)


@asynccontextmanager
async def serving(status, body):
    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        text = body if isinstance(body, str) else json.dumps(body)
        head = f"HTTP/1.1 {status} x\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n"
        writer.write((head + text).encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, PrometheusClient(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/") as client:
        yield client


def success(kind, result):
    return {"status": "success", "data": {"resultType": kind, "result": result}}


async def test_instant_keeps_labels_time_and_nan():
    rows = [{"metric": {"a": "1"}, "value": [10, "2.5"]}, {"metric": {}, "value": [10, "NaN"]}]
    async with serving(200, success("vector", rows)) as client:
        first, second = await client.instant("up", 10)
    assert (first.labels, first.value, first.at) == ({"a": "1"}, 2.5, 10.0)
    assert math.isnan(second.value)


async def test_a_scalar_is_one_sample():
    async with serving(200, success("scalar", [3, "1"])) as client:
        (sample,) = await client.instant("1", 3)
    assert sample.value == 1.0


async def test_range_gives_times_and_values():
    rows = [{"metric": {"a": "1"}, "values": [[1, "2"], [2, "+Inf"]]}]
    async with serving(200, success("matrix", rows)) as client:
        (series,) = await client.range("up", 1, 2, 1)
    assert series.times.tolist() == [1.0, 2.0]
    assert series.values.tolist() == [2.0, math.inf]


async def test_a_refused_query_says_which():
    async with serving(400, {"status": "error", "error": "parse error"}) as client:
        with pytest.raises(PrometheusQueryError, match=r"'up\{'.*parse error"):
            await client.instant("up{", 1)


@pytest.mark.parametrize(("status", "body"), [(503, {"status": "error", "error": "starting"}), (200, "<html>")])
async def test_an_unwell_server_is_unavailable(status, body):
    async with serving(status, body) as client:
        with pytest.raises(PrometheusUnavailableError, match=r"127\.0\.0\.1"):
            await client.instant("up", 1)


@pytest.mark.parametrize("broken", [1, 2])
async def test_a_connection_that_breaks_off_is_tried_once_more(broken):
    tries = 0

    async def answer(reader, writer):
        nonlocal tries
        tries += 1
        await reader.readuntil(b"\r\n\r\n")
        if tries > broken:
            text = json.dumps(success("scalar", [3, "1"]))
            writer.write(f"HTTP/1.1 200 x\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, PrometheusClient(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
        if broken == 1:
            assert (await client.instant("1", 3))[0].value == 1.0
        else:
            with pytest.raises(PrometheusUnavailableError):
                await client.instant("1", 3)
    assert tries == 2


async def test_no_server_is_unavailable():
    async with PrometheusClient("http://127.0.0.1:9") as client:
        with pytest.raises(PrometheusUnavailableError, match="check the connection"):
            await client.instant("up", 1)


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({"host": "prometheus", "port": 9090, "schema": None}, "http://prometheus:9090"),
        ({"host": "https://prometheus/path/", "port": None, "schema": None}, "https://prometheus/path"),
        ({"host": "127.0.0.1", "port": 1, "schema": "https"}, "https://127.0.0.1:1"),
        ({"host": "http://prometheus:9090", "port": 9090, "schema": ""}, "http://prometheus:9090"),
    ],
)
def test_the_connection_gives_the_address(fields, url):
    assert _base_url(SimpleNamespace(**fields)) == url


async def test_hundreds_of_queries_at_once_wait_for_their_turn_and_none_times_out():
    """A look of 200 rollouts asks 600 at once, more than Prometheus runs; httpx would count the wait as a time-out."""
    asked, most = 0, 0

    async def answer(reader, writer):
        nonlocal asked, most
        asked += 1
        most = max(most, asked)
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.05)
        text = json.dumps(success("vector", []))
        writer.write(f"HTTP/1.1 200 x\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n{text}".encode())
        await writer.drain()
        asked -= 1
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, PrometheusClient(address, timeout=5) as client:
        assert await asyncio.gather(*(client.instant("up", 1) for _ in range(300))) == [[]] * 300
    assert most <= MOST_AT_ONCE


@asynccontextmanager
async def sending(write, **options):
    """A client of a server whose answer `write(writer)` writes."""

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        with suppress(ConnectionError):
            await write(writer)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, PrometheusClient(address, **options) as client:
        yield client


async def test_a_dripping_answer_ends_with_its_time():
    async def drip(writer):
        writer.write(b"HTTP/1.1 200 x\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(1000):
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with sending(drip, timeout=0.4) as client, asyncio.timeout(30):
        with pytest.raises(PrometheusTooHeavyError, match=r"'up' within 0\.4 s"):
            await client.instant("up", 1)


async def test_an_endless_answer_is_not_kept():
    sent = 0

    async def blanks(writer):
        nonlocal sent
        writer.write(b"HTTP/1.1 200 x\r\nConnection: close\r\n\r\n")
        while True:
            writer.write(b" " * 2**16)
            await writer.drain()
            sent += 2**16

    async with sending(blanks, largest_answer_bytes=2**20) as client, asyncio.timeout(30):
        with pytest.raises(PrometheusTooHeavyError, match="more than 1048576 bytes"):
            await client.range("up", 1, 2, 1)
    assert sent < 2**26


@pytest.mark.parametrize("body", [b'{"status":', b"[" * 200_000, b"\xff\xfe", b'"Unauthorized"', b""])
async def test_a_body_that_is_no_answer_is_none(body):
    async def write(writer):
        writer.write(b"HTTP/1.1 401 x\r\nConnection: close\r\n\r\n" + body)
        await writer.drain()

    async with sending(write) as client:
        for ask in (client.instant("up", 1), client.range("up", 1, 2, 1)):
            with pytest.raises(PrometheusUnavailableError, match="401"):
                await ask


async def test_a_body_that_breaks_off_is_asked_for_once_more():
    asked = 0

    async def write(writer):
        nonlocal asked
        asked += 1
        text = json.dumps(success("vector", [])).encode()
        writer.write(b"HTTP/1.1 200 x\r\nContent-Length: %d\r\n\r\n" % len(text) + text[: 9 if asked == 1 else None])
        await writer.drain()

    async with sending(write) as client:
        assert await client.instant("up", 1) == []
    assert asked == 2


async def test_a_password_within_the_address_is_sent_and_never_shown():
    asked = []

    async def answer(reader, writer):
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    address = f"http://alice:secret-pw@127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, PrometheusClient(address) as client:
        with pytest.raises(PrometheusUnavailableError) as refused:
            await client.instant("up", 1)
    assert base64.b64encode(b"alice:secret-pw") in asked[0]
    assert "secret-pw" not in f"{refused.value} {client.base_url} {client.identity}"


@pytest.mark.parametrize(
    "fields",
    [
        {"host": "http://h", "extra": {"timeout": "a-secret"}},
        {"host": "http://h", "extra": {"headers": "a-secret"}},
        {"host": "http://h/?token=a-secret"},
        {"host": "http://alice:a-secret#1@h"},
        {"host": "http://alice:a-secret/1@h"},
        {"host": ""},
    ],
)
async def test_a_connection_that_cannot_be_meant_is_refused_without_showing_it(fields, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_PROMETHEUS_TEST", json.dumps({"conn_type": "http", **fields}))
    with pytest.raises(SettingsError, match="prometheus_test") as refused:
        async with connect("prometheus_test"):
            pass
    assert "a-secret" not in f"{refused.value!r} {refused.value.__cause__!r}"
