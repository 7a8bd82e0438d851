"""The ingress's two servers: one for the users' requests, one for its administration."""

from __future__ import annotations

import asyncio
import json
import random
import time
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiohttp import web

from local.ingress.faults import FaultRefusedError, Faults, parse_fault
from local.ingress.gateway import in_cluster
from local.ingress.metrics import RequestMetrics
from local.ingress.routing import Endpoint, Target, host_name
from local.ingress.table import RoutingTable

HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding")
    + ("upgrade", "content-length", "content-encoding")
)
LARGEST_BODY = 64 * 1024 * 1024
# Below the 5 s after which the model server closes an idle connection: a request must not meet a closing one.
IDLE_SECONDS = 2.0
ATTEMPTS = 3


class Ingress:
    """Serves while it is entered; `routes`, `faults` and `metrics` are live."""

    def __init__(
        self, *, host: str = "127.0.0.1", port: int = 0, admin_port: int = 0, timeout_seconds: float = 60.0
    ) -> None:
        self.host, self.port, self.admin_port = host, port, admin_port
        self.routes = RoutingTable()
        self.faults = Faults()
        self.metrics = RequestMetrics()
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds, connect=2)
        self._random = random.Random()
        self._runners: list[web.BaseRunner] = []
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_SECONDS)
        self._session = aiohttp.ClientSession(connector=connector, timeout=self._timeout, auto_decompress=False)
        self.port = await self._serve(
            web.ServerRunner(web.Server(self._answer, access_log=None), shutdown_timeout=1), self.port
        )
        self.admin_port = await self._serve(
            web.AppRunner(self._admin(), access_log=None, shutdown_timeout=1), self.admin_port
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for runner in self._runners:
            await runner.cleanup()
        if self._session:
            await self._session.close()

    async def _serve(self, runner: web.BaseRunner, port: int) -> int:
        await runner.setup()
        self._runners.append(runner)
        await web.TCPSite(runner, self.host, port).start()
        address: tuple[str, int] = runner.addresses[0]
        return address[1]

    # The users' side.

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        host = host_name(request.headers.get("Host", ""))
        if not self.routes.knows(host):
            return _error(404, f"nothing has the host {host!r}")
        target = self.routes.next_target(host)
        if target is None:
            return _error(503, f"{host!r} sends its requests nowhere yet")
        started = time.perf_counter()
        pod, response = await self._answer_from(target, request)
        if not in_cluster(host):
            self.metrics.observe(target, pod, response.status, time.perf_counter() - started)
        return response

    async def _answer_from(self, target: Target, request: web.BaseRequest) -> tuple[str, web.Response]:
        """The pod that was reached, if any, and its answer."""
        fault = self.faults.of(target.backend)
        endpoints = self.routes.next_endpoints(target)[:ATTEMPTS]
        if fault.error_rate and self._random.random() < fault.error_rate:
            return endpoints[0].pod if endpoints else "", _error(500, f"fault injected into {target.backend}")
        if fault.delay_seconds:
            await asyncio.sleep(fault.delay_seconds)
        body = await request.content.read() if request.can_read_body else b""
        if len(body) > LARGEST_BODY:
            return "", _error(413, f"the body is larger than {LARGEST_BODY} bytes")
        for endpoint in endpoints:
            try:
                return endpoint.pod, await self._forward(endpoint, request, body)
            except aiohttp.ClientConnectorError:
                continue  # nothing was sent: the next pod may answer
            except TimeoutError:
                return endpoint.pod, _error(504, f"{endpoint.pod} did not answer in time")
            except aiohttp.ClientError as error:
                return endpoint.pod, _error(502, f"{endpoint.pod} broke off: {error}")
        return "", _error(503, f"{target.kind} {target.backend} has no ready pod")

    async def _forward(self, endpoint: Endpoint, request: web.BaseRequest, body: bytes) -> web.Response:
        if self._session is None:
            raise RuntimeError("the ingress is not entered")
        headers = [(key, value) for key, value in request.headers.items() if key.lower() not in HOP_BY_HOP]
        url = f"http://{endpoint.address}{request.path_qs}"
        async with self._session.request(
            request.method, url, headers=headers, data=body or None, allow_redirects=False
        ) as answer:
            content = await answer.read()
            kept = [(key, value) for key, value in answer.headers.items() if key.lower() not in HOP_BY_HOP]
            if encoding := answer.headers.get("Content-Encoding"):
                kept.append(("Content-Encoding", encoding))
            response = web.Response(status=answer.status, body=content)
            response.headers.pop("Content-Type", None)
            response.headers.extend(kept)
            return response

    # The administrator's side.

    def _admin(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/metrics", self._get_metrics)
        app.router.add_get("/routes", self._get_routes)
        app.router.add_get("/faults", self._get_faults)
        app.router.add_put("/faults/{backend}", self._put_fault)
        app.router.add_delete("/faults/{backend}", self._delete_fault)
        return app

    async def _get_metrics(self, _: web.Request) -> web.Response:
        exposition = self.metrics.exposition(self.routes.pods)
        return web.Response(body=exposition, headers={"Content-Type": self.metrics.content_type})

    async def _get_routes(self, _: web.Request) -> web.Response:
        return web.json_response(self.routes.describe())

    async def _get_faults(self, _: web.Request) -> web.Response:
        return web.json_response(self.faults.describe())

    async def _put_fault(self, request: web.Request) -> web.Response:
        try:
            document: Any = json.loads(await request.text())
            fault = parse_fault(document)
        except (json.JSONDecodeError, FaultRefusedError) as error:
            return _error(400, str(error))
        self.faults.set(request.match_info["backend"], fault)
        return web.json_response(self.faults.describe())

    async def _delete_fault(self, request: web.Request) -> web.Response:
        if not self.faults.clear(request.match_info["backend"]):
            return _error(404, f"backend {request.match_info['backend']!r} has no fault")
        return web.json_response(self.faults.describe())


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=status)
