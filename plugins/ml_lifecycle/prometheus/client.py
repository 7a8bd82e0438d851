"""Instant and range queries of one Prometheus server, with typed results."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import httpx

from ml_lifecycle.prometheus.exceptions import PrometheusQueryError, PrometheusUnavailableError
from ml_lifecycle.prometheus.matrix import Floats, read_matrix
from ml_lifecycle.sharing import Shared

MOST_AT_ONCE = 16


@dataclass(frozen=True)
class Sample:
    """One series at one time; `at` in Unix seconds. NaN stays NaN."""

    labels: Mapping[str, str]
    value: float
    at: float


@dataclass(frozen=True)
class Series:
    """One series over a range; `times` (Unix seconds) and `values` have the same length. NaN stays NaN."""

    labels: Mapping[str, str]
    times: Floats
    values: Floats


class PrometheusClient:
    """The HTTP API below `base_url`; use it as an asynchronous context manager."""

    def __init__(self, base_url: str, *, headers: Mapping[str, str] | None = None, timeout: float = 10) -> None:
        self.base_url = base_url.rstrip("/")
        self._http = httpx.AsyncClient(headers=dict(headers or {}), timeout=timeout)
        # Prometheus runs 20 queries at a time; the time that others wait for their turn is no time-out.
        self._places = asyncio.Semaphore(MOST_AT_ONCE)

    @property
    def identity(self) -> str:
        """Where the answers come from: the address, and the headers that choose a tenant; without credentials."""
        chosen = {name: value for name, value in self._http.headers.items() if name.startswith("x-")}
        return f"{self.base_url} {json.dumps(chosen, sort_keys=True)}"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def instant(self, query: str, at: float) -> list[Sample]:
        """The value of every series of `query` at Unix time `at`; a scalar is one sample without labels."""
        data = await self._ask("query", {"query": query, "time": f"{at:.3f}"})
        if data["resultType"] == "scalar":
            return [Sample({}, float(data["result"][1]), float(data["result"][0]))]
        self._must_be("vector", data, query)
        return [Sample(row["metric"], float(row["value"][1]), float(row["value"][0])) for row in data["result"]]

    async def range(self, query: str, start: float, end: float, step: float) -> list[Series]:
        """Every series of `query` from `start` to `end` (Unix seconds) each `step` seconds."""
        window = {"start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:.3f}"}
        data = await self._ask("query_range", {"query": query, **window}, partial(read_matrix, step=step))
        self._must_be("matrix", data, query)
        return [Series(row["metric"], *row["values"]) for row in data["result"]]

    async def _ask(
        self, path: str, form: Mapping[str, str], read: Callable[[bytes], Any] = json.loads
    ) -> dict[str, Any]:
        try:
            async with self._places:
                response = await self._post(path, form)
        except httpx.HTTPError as error:
            raise PrometheusUnavailableError(
                f"Prometheus at {self.base_url} does not answer ({type(error).__name__}: {error}): "
                "check the connection's host and port"
            ) from error
        try:
            answer = read(response.content)
        except ValueError as error:
            raise PrometheusUnavailableError(
                f"{self.base_url} answered {response.status_code} without JSON: is it a Prometheus?"
            ) from error
        if response.status_code in {400, 422}:
            raise PrometheusQueryError(f"Prometheus refuses {form['query']!r}: {answer.get('error', response.text)}")
        if response.status_code != httpx.codes.OK or answer.get("status") != "success":
            raise PrometheusUnavailableError(
                f"Prometheus at {self.base_url} answered {response.status_code}: {answer.get('error', response.text)}"
            )
        data: dict[str, Any] = answer["data"]
        return data

    async def _post(self, path: str, form: Mapping[str, str]) -> httpx.Response:
        address = f"{self.base_url}/api/v1/{path}"
        try:
            return await self._http.post(address, data=dict(form))
        except (httpx.ReadError, httpx.RemoteProtocolError):
            # An idle connection is closed now and then while a request is on its way; a question can be repeated.
            return await self._http.post(address, data=dict(form))

    @staticmethod
    def _must_be(kind: str, data: Mapping[str, Any], query: str) -> None:
        if data["resultType"] != kind:
            raise PrometheusQueryError(f"{query!r} yields a {data['resultType']}, not a {kind}")


_CLIENTS: Shared[PrometheusClient] = Shared()


@asynccontextmanager
async def connect(connection_id: str) -> AsyncIterator[PrometheusClient]:
    """The client of an Airflow connection of type http; its extra may hold `headers` and `timeout`, nothing else.

    All who are connected at the same time share one client.
    """
    from airflow.providers.common.compat.connection import get_async_connection

    connection = await get_async_connection(connection_id)
    # `extra_dejson` blocks the event loop on the supervisor that masks its secrets.
    if hasattr(connection, "aextra_dejson"):
        extra = await connection.aextra_dejson()
    else:
        extra = await asyncio.to_thread(lambda: connection.extra_dejson)
    headers = dict(extra.get("headers", {}))
    if connection.login:
        secret = f"{connection.login}:{connection.password or ''}".encode()
        headers["Authorization"] = f"Basic {base64.b64encode(secret).decode()}"
    address, timeout = _base_url(connection), float(extra.get("timeout", 10))

    def opening() -> PrometheusClient:
        return PrometheusClient(address, headers=headers, timeout=timeout)

    async with _CLIENTS.use((address, timeout, json.dumps(headers, sort_keys=True)), opening) as client:
        yield client


def _base_url(connection: Any) -> str:
    host = connection.host or ""
    if "://" in host:
        scheme, _, host = host.partition("://")
    else:
        scheme = connection.schema or "http"
    head, slash, path = host.partition("/")
    port = f":{connection.port}" if connection.port and ":" not in head else ""
    return f"{scheme}://{head}{port}{slash}{path}".rstrip("/")
