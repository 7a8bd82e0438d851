"""An async client of the Kubernetes API: plain objects in and out, own errors, retries.

It stands on kubernetes_asyncio's ApiClient, so TLS, tokens and exec plugins are that library's.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import kubernetes_asyncio.client
import kubernetes_asyncio.config

from ml_lifecycle.kubernetes.access import Access
from ml_lifecycle.kubernetes.conditions import Progress, Rule
from ml_lifecycle.kubernetes.exceptions import (
    ConflictError,
    ExpiredError,
    InvalidError,
    KubernetesError,
    NotFoundError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
    WaitFailedError,
    WaitTimeoutError,
    error_from_status,
    never_reached_storage,
)
from ml_lifecycle.kubernetes.resource import POD, ResourceKind, kind_of
from ml_lifecycle.sharing import Shared

Manifest = dict[str, Any]
Manifests = list[Manifest]

_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
_ACCESSES: Shared[Access] = Shared()
_NO_ANSWER = (aiohttp.ClientError, OSError)  # TimeoutError is an OSError
# An object has at most 1.5 MB, and a Lease with a rollout's state a quarter of one.
PAGE = 250
LARGEST_ANSWER_BYTES = 128 * 2**20
_LISTINGS = 3

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Retry:
    """How often and how patiently a request is repeated; times in seconds."""

    attempts: int = 5
    first_delay: float = 0.5
    longest_delay: float = 8.0
    longest_retry_after: float = 60.0
    longest: float = 120.0  # no attempt begins later than this after the first

    def delay(self, attempt: int, retry_after: float | None) -> float:
        """What the server asks for, else exponential back-off with full jitter; `attempt` counts from 1."""
        if retry_after is not None:
            return min(retry_after, self.longest_retry_after)
        ceiling = min(self.first_delay * 2.0 ** (attempt - 1), self.longest_delay)
        return random.uniform(0, ceiling)  # noqa: S311 - jitter


@asynccontextmanager
async def connect(connection_id: str) -> AsyncIterator[KubernetesClient]:
    """A client for the Airflow connection `connection_id`; works in a task and in a triggerer.

    All who are connected at the same time share its TLS context and its TCP connections. UnavailableError where the
    connection or its credentials cannot be read.
    """

    @asynccontextmanager
    async def opening() -> AsyncIterator[kubernetes_asyncio.client.ApiClient]:
        from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook

        hook = AsyncKubernetesHook(conn_id=connection_id, connection_extras=await _extras(connection_id))
        async with hook.get_conn() as api:
            yield api

    key = (connection_id, json.dumps(await _extras(connection_id), sort_keys=True))
    async with _ACCESSES.use(key, lambda: Access(opening, f"connection {connection_id!r}")) as access:
        yield KubernetesClient(access)


async def _extras(connection_id: str) -> dict[str, Any]:
    from airflow.providers.common.compat.connection import get_async_connection

    connection = await get_async_connection(connection_id)
    # The hook would read `extra_dejson`, which blocks the event loop on the supervisor that masks its secrets.
    if hasattr(connection, "aextra_dejson"):
        found: dict[str, Any] = await connection.aextra_dejson()
        return found
    return await asyncio.to_thread(lambda: connection.extra_dejson)


class KubernetesClient:
    """Reads and writes objects of any `ResourceKind`.

    Reads, patches, applies and deletes are repeated on 429, 5xx, lost connections and answers that break off or are
    none, an apply also where another write overtook it; a create only where the server cannot have acted on it. On 401
    the credentials are read anew once a request.

    timeout_seconds: for one attempt, from the connection to the last byte of the answer.

    Every method raises KubernetesError: UnavailableError, whatever the API did not say; InvalidNameError for a name
    that is no part of an address, before anything is sent; the others for what the API refuses.
    """

    def __init__(
        self,
        access: Access,
        *,
        retry: Retry = Retry(),
        timeout_seconds: float = 30,
        page: int = PAGE,
        largest_answer_bytes: int = LARGEST_ANSWER_BYTES,
    ) -> None:
        self._access = access
        self._retry = retry
        self._timeout = timeout_seconds
        self._page = page
        self._largest = largest_answer_bytes

    @classmethod
    @asynccontextmanager
    async def from_kubeconfig(
        cls,
        kubeconfig: str | Path | Mapping[str, Any],
        *,
        context: str | None = None,
        retry: Retry = Retry(),
        **options: Any,
    ) -> AsyncIterator[KubernetesClient]:
        """A client for a kubeconfig, given as its path or as its content; `options` are the constructor's."""

        @asynccontextmanager
        async def opening() -> AsyncIterator[kubernetes_asyncio.client.ApiClient]:
            configuration = kubernetes_asyncio.client.Configuration()
            if isinstance(kubeconfig, Mapping):
                load: Any = kubernetes_asyncio.config.load_kube_config_from_dict(
                    dict(kubeconfig), context=context, client_configuration=configuration
                )
            else:
                load = kubernetes_asyncio.config.load_kube_config(
                    config_file=str(kubeconfig), context=context, client_configuration=configuration
                )
            await load
            async with kubernetes_asyncio.client.ApiClient(configuration) as api:
                yield api

        async with Access(opening, "the kubeconfig's cluster") as access:
            yield cls(access, retry=retry, **options)

    async def get(self, kind: ResourceKind, name: str, namespace: str | None = None) -> Manifest:
        """The object; NotFoundError if absent."""
        return await self._request("GET", kind.path(_named(kind, name), _in(kind, namespace)))

    async def find(self, kind: ResourceKind, name: str, namespace: str | None = None) -> Manifest | None:
        """The object; None if absent. NotFoundError where the server does not know the kind: that says nothing."""
        try:
            return await self.get(kind, name, namespace)
        except NotFoundError as error:
            if not error.of_object:
                raise
            return None

    async def list(
        self,
        kind: ResourceKind,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ) -> Manifests:
        """All objects of a kind, of all namespaces if it is None; each carries apiVersion and kind.

        Never a part of them: they are read in pages of one moment, and where that moment is forgotten, from the first.
        """
        items, _ = await self.list_at(kind, namespace, label_selector, field_selector)
        return items

    async def list_at(
        self,
        kind: ResourceKind,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ) -> tuple[Manifests, str]:
        """As `list`, with the resourceVersion to `watch` from."""
        query = {"labelSelector": label_selector, "fieldSelector": field_selector}
        for listing in range(1, _LISTINGS + 1):
            try:
                return await self._list(kind, kind.path(namespace=namespace), query)
            except ExpiredError as error:
                if listing == _LISTINGS:
                    raise UnavailableError(f"a list of {kind} takes longer than the API remembers: {error}") from error
        raise AssertionError

    async def _list(self, kind: ResourceKind, path: str, query: Mapping[str, str | None]) -> tuple[Manifests, str]:
        """All pages of one list; ExpiredError where the API has forgotten the first one's moment."""
        items: Manifests = []
        page, token = self._page, ""
        while True:
            try:
                asked = {**query, "limit": str(page), "continue": token or None}
                answer = await self._repeated("GET", path, _list_of, query=asked)
            except TooLargeError:
                if page == 1:
                    raise
                page = max(page // 4, 1)
                continue
            items += answer["items"] or []
            token = answer["metadata"].get("continue") or ""
            if not token:
                identity = {"apiVersion": kind.api_version, "kind": kind.kind}
                return [identity | item for item in items], answer["metadata"]["resourceVersion"]

    async def create(self, body: Mapping[str, Any], namespace: str | None = None) -> Manifest:
        """The object as stored; AlreadyExistsError if its name is taken."""
        kind = kind_of(body)
        namespace = namespace or body.get("metadata", {}).get("namespace")
        return await self._request("POST", kind.path(namespace=_in(kind, namespace)), body=body)

    async def apply(
        self, body: Mapping[str, Any], *, field_manager: str, force: bool = False, subresource: str | None = None
    ) -> Manifest:
        """Server-side apply: the object as stored.

        Fields that `field_manager` applied before and that `body` leaves out are removed. ConflictError names the
        owner of a field that another manager has set to another value; `force` takes such fields over.
        """
        kind = kind_of(body)
        metadata = body.get("metadata", {})
        path = kind.path(_named(kind, metadata.get("name", "")), _in(kind, metadata.get("namespace")), subresource)
        query = {"fieldManager": field_manager, "force": "true" if force else None}
        return await self._request("PATCH", path, query=query, body=body, content_type=_APPLY)

    async def merge_patch(
        self,
        kind: ResourceKind,
        name: str,
        namespace: str | None,
        patch: Mapping[str, Any],
        *,
        subresource: str | None = None,
        field_manager: str | None = None,
    ) -> Manifest:
        """JSON merge patch (null removes a key): the object as stored.

        With `metadata.resourceVersion` in the patch: ConflictError if the object has changed since.
        """
        path = kind.path(_named(kind, name), _in(kind, namespace), subresource)
        return await self._request(
            "PATCH", path, query={"fieldManager": field_manager}, body=patch, content_type=_MERGE
        )

    async def delete(
        self,
        kind: ResourceKind,
        name: str,
        namespace: str | None = None,
        *,
        grace_period_seconds: int | None = None,
        resource_version: str | None = None,
    ) -> bool:
        """True if the deletion was accepted, False if the object was absent; what it owns follows in the background.

        With `resource_version`: ConflictError if the object has changed since.
        """
        options: Manifest = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if grace_period_seconds is not None:
            options["gracePeriodSeconds"] = grace_period_seconds
        if resource_version is not None:
            options["preconditions"] = {"resourceVersion": resource_version}
        try:
            await self._request("DELETE", kind.path(_named(kind, name), _in(kind, namespace)), body=options)
        except NotFoundError as error:
            if not error.of_object:
                raise
            return False
        return True

    async def watch(
        self,
        kind: ResourceKind,
        namespace: str | None = None,
        *,
        resource_version: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        timeout_seconds: int = 300,
    ) -> AsyncIterator[tuple[str, Manifest]]:
        """Changes as ("ADDED" | "MODIFIED" | "DELETED", object), until the server ends the watch.

        Without `resource_version` it begins with one ADDED for each object that exists. ExpiredError: list again.
        UnavailableError: the connection broke; resume from the last object's resourceVersion.
        """
        query = {
            "watch": "true",
            "resourceVersion": resource_version,
            "labelSelector": label_selector,
            "fieldSelector": field_selector,
            "timeoutSeconds": str(timeout_seconds),
        }
        path = kind.path(namespace=namespace)
        response = await self._repeated("GET", path, _unread, query=query, seconds=timeout_seconds + 15)
        try:
            async for line in _lines(response, self._largest):
                type_, item = _event(line)
                if type_ == "ERROR":
                    raise error_from_status(item.get("code", 500), item, f"watch {path}")
                if type_ != "BOOKMARK":
                    yield type_, item
        except _NO_ANSWER as error:
            raise UnavailableError(f"watch {path} broke off: {error!r}") from error
        finally:
            response.close()

    async def logs(self, name: str, namespace: str, *, container: str | None = None, tail_lines: int = 100) -> str:
        """The last lines that a pod has written."""
        query = {"container": container, "tailLines": str(tail_lines)}
        path = POD.path(_named(POD, name), _in(POD, namespace), "log")
        return (await self._repeated("GET", path, _bytes, query=query)).decode(errors="replace")

    async def wait(
        self,
        kind: ResourceKind,
        name: str,
        namespace: str | None,
        rule: Rule,
        *,
        timeout_seconds: float,
        poll_seconds: float = 2,
    ) -> Manifest | None:
        """The object once `rule` (see `conditions.py`) says that it is there.

        WaitFailedError as soon as the rule gives up, WaitTimeoutError after `timeout_seconds`. It polls, so it
        survives broken connections and a restarted API server.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            found = await self.find(kind, name, namespace)
            verdict = rule(found)
            if verdict.progress is Progress.MET:
                return found
            if verdict.progress is Progress.FAILED:
                raise WaitFailedError(f"{kind.kind} {name!r}: {verdict.reason}")
            if time.monotonic() >= deadline:
                raise WaitTimeoutError(f"{kind.kind} {name!r} after {timeout_seconds:g} s: {verdict.reason}")
            await asyncio.sleep(poll_seconds)

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | None] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> Manifest:
        """The object in the answer."""
        return await self._repeated(method, path, _object, query=query, body=body, content_type=content_type)

    async def _repeated(
        self,
        method: str,
        path: str,
        read: Read[Answer],
        *,
        query: Mapping[str, str | None] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        seconds: float | None = None,
    ) -> Answer:
        """What `read` makes of the answer to a request that succeeded; repeats what may be repeated."""
        began, attempt, renewed = time.monotonic(), 0, False
        api = await self._access.api()
        while True:
            attempt += 1
            try:
                return await self._attempt(api, method, path, read, query, body, content_type, seconds or self._timeout)
            except _Failed as failed:
                error, delay = failed.error, self._retry.delay(attempt, failed.retry_after)
                late = time.monotonic() - began + delay > self._retry.longest
                last = late or attempt >= self._retry.attempts
                repeatable = failed.repeatable or (content_type == _APPLY and _overtaken(error, body))
                cause = failed.__cause__
            if isinstance(error, UnauthorizedError) and not renewed:
                api, renewed = await self._access.renew(api), True
            elif not repeatable or last:
                raise error from cause
            else:
                await asyncio.sleep(delay)

    async def _attempt(
        self,
        api: kubernetes_asyncio.client.ApiClient,
        method: str,
        path: str,
        read: Read[Answer],
        query: Mapping[str, str | None] | None,
        body: Mapping[str, Any] | None,
        content_type: str,
        seconds: float,
    ) -> Answer:
        """One attempt, the reading of its answer included; `_Failed` with an own error for whatever goes wrong."""
        request, harmless = f"{method} {path}", method != "POST"
        try:
            # aiohttp's total time covers the body too.
            response = await self._send(method, path, query, body, content_type, seconds, api)
            if response.ok:
                return await read(response, self._largest)
            status = _status(await _bytes(response, self._largest))
        except TooLargeError as error:
            raise _Failed(TooLargeError(error.message, request=request), repeatable=False) from None
        except _NotAnAnswerError as error:
            text = f"{api.configuration.host} gives no answer of the Kubernetes API: {error}"
            raise _Failed(UnavailableError(text, status=200, reason="", request=request), repeatable=harmless) from None
        except _NO_ANSWER as error:
            text = (
                f"no answer from {api.configuration.host} ({error!r}): check the Kubernetes connection and the network"
            )
            unsent = isinstance(error, aiohttp.ClientConnectorError)
            lost = UnavailableError(text, status=0, request=request)
            raise _Failed(lost, repeatable=harmless or unsent) from error
        refused = error_from_status(response.status, status, request)
        # Whatever was turned away before it was acted on may be sent again.
        turned_away = response.status in {401, 429} or never_reached_storage(status)
        repeatable = turned_away or (harmless and response.status in _TRANSIENT)
        transient = isinstance(refused, UnavailableError)
        raise _Failed(refused, _seconds(response.headers.get("Retry-After")), repeatable=repeatable and transient)

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | None] | None,
        body: Mapping[str, Any] | None,
        content_type: str,
        seconds: float,
        api: kubernetes_asyncio.client.ApiClient,
    ) -> aiohttp.ClientResponse:
        """The one place where requests leave; tests of faults stand in for it."""
        response: aiohttp.ClientResponse = await api.call_api(
            path,
            method,
            query_params=[(key, value) for key, value in (query or {}).items() if value is not None],
            header_params={
                "Accept": "*/*" if path.endswith("/log") else "application/json",
                "Content-Type": content_type,
            },
            body=body,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _request_timeout=seconds,
        )
        return response


Read = Callable[[aiohttp.ClientResponse, int], Awaitable[Answer]]


class _Failed(Exception):  # noqa: N818 - never leaves this module
    """One attempt that failed, for the error that the caller may see."""

    def __init__(self, error: KubernetesError, retry_after: float | None = None, *, repeatable: bool) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry_after = retry_after
        self.repeatable = repeatable


class _NotAnAnswerError(Exception):
    """Something answered 200, and it was not the Kubernetes API, or not all of it."""


async def _unread(response: aiohttp.ClientResponse, _largest: int) -> aiohttp.ClientResponse:
    return response


async def _bytes(response: aiohttp.ClientResponse, largest: int) -> bytes:
    """The body; TooLargeError as soon as it is longer than `largest`."""
    body = bytearray()
    try:
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > largest:
                break
        else:
            return bytes(body)
    finally:
        response.close()  # a connection whose answer was read to its end is another's by now
    raise TooLargeError(f"the answer has more than {largest} bytes")


async def _object(response: aiohttp.ClientResponse, largest: int) -> Manifest:
    body = await _bytes(response, largest)
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _NotAnAnswerError(f"{body[:200]!r}") from error
    if not isinstance(answer, dict) or not isinstance(answer.get("metadata"), dict):
        raise _NotAnAnswerError(f"an object without metadata: {body[:200]!r}")
    return answer


async def _list_of(response: aiohttp.ClientResponse, largest: int) -> Manifest:
    answer = await _object(response, largest)
    items = answer.get("items", ())
    if not isinstance(items, list | None) or "resourceVersion" not in answer["metadata"]:
        raise _NotAnAnswerError("no list")
    if not all(isinstance(item, dict) and isinstance(item.get("metadata"), dict) for item in items or ()):
        raise _NotAnAnswerError("a list of something else than objects")
    return answer


def _event(line: bytes) -> tuple[str, Manifest]:
    """Type and object of one line of a watch; UnavailableError where it is none."""
    try:
        event = json.loads(line)
        type_, item = event["type"], event["object"]
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise UnavailableError(f"a watch gives no event: {line[:200]!r}") from error
    if not isinstance(type_, str) or not isinstance(item, dict):
        raise UnavailableError(f"a watch gives no event: {line[:200]!r}")
    return type_, item


def _overtaken(error: KubernetesError, applied: Mapping[str, Any] | None) -> bool:
    """Whether another write came in between an apply's reading and writing within the API server: no field disputed."""
    version = (applied or {}).get("metadata", {}).get("resourceVersion")
    return isinstance(error, ConflictError) and not error.owners and not version


def _named(kind: ResourceKind, name: str) -> str:
    if not name:
        raise InvalidError(f"a {kind.kind} without a name: set metadata.name")
    return name


def _in(kind: ResourceKind, namespace: str | None) -> str | None:
    if kind.namespaced and not namespace:
        raise InvalidError(f"a {kind.kind} without a namespace: set metadata.namespace")
    return namespace if kind.namespaced else None


def _status(data: bytes) -> dict[str, Any]:
    """The metav1.Status of an error response; a proxy in between may answer in plain text."""
    try:
        body = json.loads(data)
    except ValueError:
        body = None
    return body if isinstance(body, dict) else {"message": data.decode(errors="replace")[:500]}


def _seconds(header: str | None) -> float | None:
    return float(header) if header and header.isdigit() else None


async def _lines(response: aiohttp.ClientResponse, longest: int) -> AsyncIterator[bytes]:
    """Lines of any length below `longest`: aiohttp's own reader refuses those above its buffer."""
    pending = b""
    async for chunk in response.content.iter_any():
        *lines, pending = (pending + chunk).split(b"\n")
        if len(pending) > longest:
            raise TooLargeError(f"one event of a watch has more than {longest} bytes")
        for line in lines:
            if line.strip():
                yield line
