"""Instant and range queries of one Prometheus server, with typed results."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Self

import httpx

from ml_lifecycle.address import without_credentials
from ml_lifecycle.exceptions import SettingsError
from ml_lifecycle.prometheus.answer import Answer, Sample, Series, quoted
from ml_lifecycle.prometheus.exceptions import PrometheusTooHeavyError, PrometheusUnavailableError
from ml_lifecycle.prometheus.matrix import read_matrix
from ml_lifecycle.sharing import Shared

logger = logging.getLogger(__name__)

MOST_AT_ONCE = 16
# A week of minutes of 100 series has 40 MB.
LARGEST_ANSWER_BYTES = 64 * 2**20
# Reading a larger answer would hold up all else that runs on the event loop.
_READ_AT_ONCE_BYTES = 2**18
_TIMEOUT_SECONDS = 20.0


class PrometheusClient:
    """The HTTP API below `base_url`; use it as an asynchronous context manager.

    timeout: seconds for a whole request, from the connection to the last byte. `user:password@` in `base_url` is sent,
    and stands in no message.

    Every query raises PrometheusUnavailableError where there is no whole answer (no connection, an unwell server,
    partial data), its PrometheusTooHeavyError where a part of the query may be answered, and PrometheusQueryError where
    the query itself is refused.
    """

    def __init__(
        self,
        base_url: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float = _TIMEOUT_SECONDS,
        largest_answer_bytes: int = LARGEST_ANSWER_BYTES,
    ) -> None:
        address, credentials = without_credentials(base_url)
        self.base_url = address.rstrip("/")
        basic = _basic(credentials.login, credentials.password) if credentials else {}
        self._http = httpx.AsyncClient(headers=basic | dict(headers or {}), timeout=timeout)
        self._timeout = timeout
        self._largest = largest_answer_bytes
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
        return (await self._ask("query", {"query": query, "time": f"{at:.3f}"})).samples()

    async def range(self, query: str, start: float, end: float, step: float) -> list[Series]:
        """Every series of `query` from `start` to `end` (Unix seconds) each `step` seconds."""
        window = {"start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:.3f}"}
        return (await self._ask("query_range", {"query": query, **window}, partial(read_matrix, step=step))).series()

    async def _ask(self, path: str, form: Mapping[str, str], read: Callable[[bytes], Any] = json.loads) -> Answer:
        try:
            async with self._places, asyncio.timeout(self._timeout):
                status, body = await self._post(path, form)
        except (TimeoutError, httpx.ReadTimeout) as error:
            raise PrometheusTooHeavyError(
                f"Prometheus at {self.base_url} does not answer {quoted(form['query'])} within {self._timeout:g} s: "
                "ask for less, or raise the connection's timeout"
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise PrometheusUnavailableError(
                f"Prometheus at {self.base_url} does not answer ({type(error).__name__}: {error}): "
                "check the connection's host and port"
            ) from error
        reading = asyncio.to_thread(_read, read, body) if len(body) > _READ_AT_ONCE_BYTES else None
        document = await reading if reading else _read(read, body)
        answer = Answer(self.base_url, form["query"], status, document, body[:1000].decode(errors="replace"))
        for remark in answer.remarks:
            logger.info("Prometheus says of %s: %s", quoted(form["query"]), remark)
        return answer

    async def _post(self, path: str, form: Mapping[str, str]) -> tuple[int, bytes]:
        # Prometheus ends a query that nobody waits for any more.
        limited = {**form, "timeout": f"{self._timeout:.3f}"}
        try:
            return await self._send(path, limited)
        except (httpx.ReadError, httpx.RemoteProtocolError):
            # An idle connection is closed now and then while a request is on its way; a question can be repeated.
            return await self._send(path, limited)

    async def _send(self, path: str, form: Mapping[str, str]) -> tuple[int, bytes]:
        """Status and body of one answer, never held beyond the largest size."""
        body = bytearray()
        async with self._http.stream("POST", f"{self.base_url}/api/v1/{path}", data=dict(form)) as response:
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > self._largest:
                    raise PrometheusTooHeavyError(
                        f"Prometheus at {self.base_url} answers {quoted(form['query'])} with more than {self._largest} "
                        "bytes"
                    )
        return response.status_code, bytes(body)


def _read(read: Callable[[bytes], Any], body: bytes) -> Any:
    """The document, or None where there is none in `body`."""
    try:
        return read(body)
    except (ValueError, TypeError, LookupError, RecursionError):
        return None


def _basic(login: str, password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{login}:{password}'.encode()).decode()}"}


_CLIENTS: Shared[PrometheusClient] = Shared()


@asynccontextmanager
async def connect(connection_id: str) -> AsyncIterator[PrometheusClient]:
    """The client of an Airflow connection of type http; its extra may hold `headers` and `timeout`, nothing else.

    All who are connected at the same time share one client. SettingsError where the connection cannot be meant.
    """
    from airflow.providers.common.compat.connection import get_async_connection

    connection = await get_async_connection(connection_id)
    # `extra_dejson` blocks the event loop on the supervisor that masks its secrets.
    if hasattr(connection, "aextra_dejson"):
        extra = await connection.aextra_dejson()
    else:
        extra = await asyncio.to_thread(lambda: connection.extra_dejson)
    try:
        headers = {str(name): str(value) for name, value in dict(extra.get("headers") or {}).items()}
        timeout = float(extra.get("timeout") or _TIMEOUT_SECONDS)
    except (TypeError, ValueError):
        raise SettingsError(
            f"connection {connection_id!r}: in its extra, headers is an object and timeout a number of seconds"
        ) from None  # the cause would show the headers
    if connection.login:
        headers |= _basic(connection.login, connection.password or "")
    address = _base_url(connection)
    # A password that is not percent-encoded may hold what ends a host; nothing of it is shown.
    if not connection.host or set("?#@") & set(without_credentials(address)[0]):
        raise SettingsError(
            f"connection {connection_id!r}: its host is an address without ?, # and @; login and password have fields "
            "of their own"
        )

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
    port = f":{connection.port}" if connection.port and ":" not in head.rpartition("@")[2] else ""
    return f"{scheme}://{head}{port}{slash}{path}".rstrip("/")
