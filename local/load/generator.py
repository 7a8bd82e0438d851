"""Sends the requests and serves the generator's administration."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp import web

from local.load.schedule import Arrivals, RateRefusedError, Schedule, parse_rate
from local.load.statistics import Statistics

PROBE_SECONDS = 1.0
"""Time between two questions whether the service exists by now."""


class LoadGenerator:
    """Sends requests while it is entered.

    `ingress` is where TCP goes, `host` the service's host name, `bodies` the requests, chosen at random. While
    nobody knows the host (no ingress, 404), or before its first answer (503), it only asks once a second, and
    does not count. At most `concurrency` requests are under way; those due beyond are counted as dropped.
    """

    def __init__(
        self,
        *,
        ingress: str,
        host: str,
        model: str,
        bodies: Sequence[bytes],
        rate: float,
        arrivals: Arrivals = "constant",
        concurrency: int = 64,
        timeout_seconds: float = 10.0,
        seed: int = 0,
        admin_host: str = "127.0.0.1",
        admin_port: int = 0,
    ) -> None:
        self.admin_host, self.admin_port = admin_host, admin_port
        self.statistics = Statistics()
        self.waiting = True
        self._url = f"{ingress.rstrip('/')}/v2/models/{model}/infer"
        self._headers = {"Host": host, "Content-Type": "application/json"}
        self._bodies = bodies
        self._schedule = Schedule(rate, arrivals=arrivals, seed=seed)
        self._rate_changed = asyncio.Event()
        self._random = random.Random(seed)
        self._concurrency = concurrency
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._under_way: set[asyncio.Task[None]] = set()

    @property
    def rate(self) -> float:
        """Requests a second; settable at any time."""
        return self._schedule.rate

    @rate.setter
    def rate(self, rate: float) -> None:
        self._schedule.rate = rate
        self._rate_changed.set()

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=self._concurrency, keepalive_timeout=15)
        self._session = aiohttp.ClientSession(connector=connector, timeout=self._timeout)
        self._runner = web.AppRunner(self._admin(), access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.admin_host, self.admin_port).start()
        self.admin_port = self._runner.addresses[0][1]
        self._sending = asyncio.create_task(self._send_all())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = [self._sending, *self._under_way]
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await self._runner.cleanup()
        await self._session.close()
        if error is None and isinstance(results[0], Exception):
            raise results[0]

    async def _send_all(self) -> None:
        while True:
            if self.waiting and self.rate > 0:
                await self._probe()
                continue
            pause = self._schedule.seconds_to_next(time.monotonic())
            if pause != 0:
                await self._pause(pause)
                continue
            self._schedule.advance()
            if len(self._under_way) >= self._concurrency:
                self.statistics.dropped()
                await asyncio.sleep(0)
                continue
            task = asyncio.create_task(self._send())
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _pause(self, seconds: float | None) -> None:
        self._rate_changed.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._rate_changed.wait()
        except TimeoutError:
            return

    async def _post(self) -> tuple[int, float]:
        started = time.perf_counter()
        body = self._random.choice(self._bodies)
        async with self._session.post(self._url, data=body, headers=self._headers) as response:
            await response.read()
        return response.status, time.perf_counter() - started

    async def _probe(self) -> None:
        try:
            status, _ = await self._post()
            self.waiting = status in (404, 503)
        except (aiohttp.ClientError, TimeoutError):
            self.waiting = True
        if self.waiting:
            await asyncio.sleep(PROBE_SECONDS)

    async def _send(self) -> None:
        try:
            status, seconds = await self._post()
        except aiohttp.ClientConnectorError:
            self.waiting = True
        except TimeoutError:
            self.statistics.failed("timeout")
        except aiohttp.ClientError as error:
            self.statistics.failed(type(error).__name__)
        else:
            if status == 404:
                self.waiting = True
            else:
                self.statistics.answered(status, seconds)

    def _admin(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/rate", self._get_rate)
        app.router.add_put("/rate", self._put_rate)
        app.router.add_get("/statistics", self._get_statistics)
        app.router.add_delete("/statistics", self._delete_statistics)
        return app

    async def _get_rate(self, _: web.Request) -> web.Response:
        return web.json_response({"requests_per_second": self.rate})

    async def _put_rate(self, request: web.Request) -> web.Response:
        try:
            self.rate = parse_rate(json.loads(await request.text()))
        except (json.JSONDecodeError, RateRefusedError) as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response({"requests_per_second": self.rate})

    async def _get_statistics(self, _: web.Request) -> web.Response:
        state = {"requests_per_second": self.rate, "waiting": self.waiting, "under_way": len(self._under_way)}
        return web.json_response({**state, **self.statistics.describe()})

    async def _delete_statistics(self, _: web.Request) -> web.Response:
        self.statistics.reset()
        return web.json_response(self.statistics.describe())
