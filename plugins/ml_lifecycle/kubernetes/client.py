"""An async client of the Kubernetes API: plain objects in and out, own errors, retries.

It stands on kubernetes_asyncio's ApiClient, so TLS, tokens and exec plugins are that library's.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import kubernetes_asyncio.client
import kubernetes_asyncio.config

from ml_lifecycle.kubernetes.conditions import Progress, Rule
from ml_lifecycle.kubernetes.exceptions import (
    ConflictError,
    InvalidError,
    KubernetesError,
    NotFoundError,
    UnavailableError,
    WaitFailedError,
    WaitTimeoutError,
    error_from_status,
)
from ml_lifecycle.kubernetes.resource import ResourceKind, kind_of
from ml_lifecycle.sharing import Shared

Manifest = dict[str, Any]
Manifests = list[Manifest]

_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"
_TRANSIENT = frozenset({429, 500, 502, 503, 504})
_APIS: Shared[kubernetes_asyncio.client.ApiClient] = Shared()
_NO_ANSWER = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError)


@dataclass(frozen=True)
class Retry:
    """How often and how patiently a request is repeated; times in seconds."""

    attempts: int = 5
    first_delay: float = 0.5
    longest_delay: float = 8.0
    longest_retry_after: float = 60.0

    def delay(self, attempt: int, retry_after: float | None) -> float:
        """What the server asks for, else exponential back-off with full jitter; `attempt` counts from 1."""
        if retry_after is not None:
            return min(retry_after, self.longest_retry_after)
        ceiling = min(self.first_delay * 2.0 ** (attempt - 1), self.longest_delay)
        return random.uniform(0, ceiling)  # noqa: S311 - jitter


@asynccontextmanager
async def connect(connection_id: str) -> AsyncIterator[KubernetesClient]:
    """A client for the Airflow connection `connection_id`; works in a task and in a triggerer.

    All who are connected at the same time share its TLS context and its TCP connections.
    """
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook
    from airflow.providers.common.compat.connection import get_async_connection

    connection = await get_async_connection(connection_id)
    # The hook would read `extra_dejson`, which blocks the event loop on the supervisor that masks its secrets.
    if hasattr(connection, "aextra_dejson"):
        extras = await connection.aextra_dejson()
    else:
        extras = await asyncio.to_thread(lambda: connection.extra_dejson)
    hook = AsyncKubernetesHook(conn_id=connection_id, connection_extras=extras)
    async with _APIS.use((connection_id, json.dumps(extras, sort_keys=True)), hook.get_conn) as api:
        yield KubernetesClient(api)


class KubernetesClient:
    """Reads and writes objects of any `ResourceKind`.

    Reads, patches, applies and deletes are repeated on 429, 5xx and lost connections, an apply also where another write
    overtook it; a create only where the server cannot have acted on it.
    """

    def __init__(
        self,
        api: kubernetes_asyncio.client.ApiClient,
        *,
        retry: Retry = Retry(),
        timeout_seconds: float = 30,
    ) -> None:
        self._api = api
        self._retry = retry
        self._timeout = timeout_seconds

    @classmethod
    @asynccontextmanager
    async def from_kubeconfig(
        cls,
        kubeconfig: str | Path | Mapping[str, Any],
        *,
        context: str | None = None,
        retry: Retry = Retry(),
    ) -> AsyncIterator[KubernetesClient]:
        """A client for a kubeconfig, given as its path or as its content."""
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
            yield cls(api, retry=retry)

    async def get(self, kind: ResourceKind, name: str, namespace: str | None = None) -> Manifest:
        """The object; NotFoundError if absent."""
        return await self._request("GET", kind.path(_named(kind, name), _in(kind, namespace)))

    async def find(self, kind: ResourceKind, name: str, namespace: str | None = None) -> Manifest | None:
        """The object; None if absent."""
        try:
            return await self.get(kind, name, namespace)
        except NotFoundError:
            return None

    async def list(
        self,
        kind: ResourceKind,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ) -> Manifests:
        """All objects of a kind, of all namespaces if none is given; each carries apiVersion and kind."""
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
        answer = await self._request("GET", kind.path(namespace=namespace), query=query)
        identity = {"apiVersion": kind.api_version, "kind": kind.kind}
        return [identity | item for item in answer.get("items") or []], answer["metadata"]["resourceVersion"]

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
        except NotFoundError:
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
        response = await self._answered("GET", path, query=query, seconds=timeout_seconds + 15)
        try:
            async for line in _lines(response):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise error_from_status(event["object"].get("code", 500), event["object"], f"watch {path}")
                if event["type"] != "BOOKMARK":
                    yield event["type"], event["object"]
        except _NO_ANSWER as error:
            raise UnavailableError(f"watch {path} broke off: {error!r}") from error
        finally:
            response.close()

    async def logs(self, name: str, namespace: str, *, container: str | None = None, tail_lines: int = 100) -> str:
        """The last lines that a pod has written."""
        query = {"container": container, "tailLines": str(tail_lines)}
        path = f"/api/v1/namespaces/{namespace}/pods/{name}/log"
        response = await self._answered("GET", path, query=query)
        return (await response.read()).decode(errors="replace")

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
        response = await self._answered(method, path, query=query, body=body, content_type=content_type)
        answer: Manifest = json.loads(await response.read())
        return answer

    async def _answered(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | None] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        seconds: float | None = None,
    ) -> aiohttp.ClientResponse:
        """The response to a request that succeeded, its body unread; repeats what may be repeated."""
        request = f"{method} {path}"
        attempt = 0
        while True:
            attempt += 1
            retry_after = None
            cause: Exception | None = None
            try:
                response = await self._send(method, path, query, body, content_type, seconds or self._timeout)
                if response.ok:
                    return response
                error = error_from_status(response.status, _status(await response.read()), request)
                retry_after = _seconds(response.headers.get("Retry-After"))
                repeatable = response.status == 429 or (response.status in _TRANSIENT and method != "POST")
                repeatable = repeatable or (content_type == _APPLY and _overtaken(error, body))
            except _NO_ANSWER as failure:
                error = UnavailableError(
                    f"no answer from {self._api.configuration.host} ({failure!r}): check the Kubernetes connection "
                    "and the network",
                    status=0,
                    request=request,
                )
                repeatable = method != "POST" or isinstance(failure, aiohttp.ClientConnectorError)
                cause = failure
            if not repeatable or isinstance(error, InvalidError) or attempt >= self._retry.attempts:
                raise error from cause
            await asyncio.sleep(self._retry.delay(attempt, retry_after))

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | None] | None,
        body: Mapping[str, Any] | None,
        content_type: str,
        seconds: float,
    ) -> aiohttp.ClientResponse:
        response: aiohttp.ClientResponse = await self._api.call_api(
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


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Lines of any length: aiohttp's own reader refuses those above its buffer."""
    pending = b""
    async for chunk in response.content.iter_any():
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            if line.strip():
                yield line
