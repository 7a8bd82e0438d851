"""The Kubernetes API over HTTP, on top of the store."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from local.kubernetes import discovery, patches, scale, schema, tables
from local.kubernetes.faults import Fault, Faults
from local.kubernetes.kinds import Definition
from local.kubernetes.logs import LogOptions, log_path, read_log
from local.kubernetes.pages import Pages
from local.kubernetes.rights import Rights, asked
from local.kubernetes.store import Manifest, Store, Subscription
from ml_lifecycle.kubernetes.exceptions import (
    ExpiredError,
    ForbiddenError,
    InvalidError,
    KubernetesError,
    NotFoundError,
)
from ml_lifecycle.kubernetes.resource import POD, ResourceKind

logger = logging.getLogger(__name__)

_PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/(?P<version>v[^/]+)"
    r"(?:/namespaces/(?P<namespace>[^/]+)(?=/[^/]+))?"
    r"/(?P<plural>[^/]+)(?:/(?P<name>[^/]+)(?:/(?P<subresource>[^/]+))?)?"
)
# /api/v1/namespaces/<name>/status and the like are about the namespace itself.
_NAMESPACE = re.compile(
    r"/api/(?P<version>v1)/(?P<plural>namespaces)/(?P<name>[^/]+)(?:/(?P<subresource>status|finalize))?"
)
_BOOKMARK_SECONDS = 30.0
_LARGEST_BODY = 3 * 1024 * 1024

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Answers requests; one for each store."""

    def __init__(
        self, store: Store, *, state: Path, token: str, faults: Faults, account: tuple[str, Rights] | None = None
    ) -> None:
        self._store = store
        self._state = state
        self._token = token
        self._account = account
        self._faults = faults
        self._subscriptions: set[Subscription] = set()
        self._pages = Pages()
        self._closing = asyncio.Event()

    @asynccontextmanager
    async def serving(self, port: int = 0, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
        """Serves on loopback for as long as the block lasts; yields the port."""
        app = web.Application(middlewares=[self._guard], client_max_size=_LARGEST_BODY)
        app.router.add_route("*", "/{path:.*}", self._route)
        # A watcher that goes away ends its watch at once.
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls, reuse_address=True)
        await site.start()
        try:
            yield runner.addresses[0][1]
        finally:
            self._closing.set()
            for subscription in tuple(self._subscriptions):
                subscription.close()
            await runner.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Health, authentication, faults, and errors as metav1.Status."""
        if request.path in ("/healthz", "/livez", "/readyz"):
            return web.Response(text="ok")
        if not self._knows(request):
            return _status_response(KubernetesError("Unauthorized", status=401, reason="Unauthorized"))
        if request.path == "/faults":
            return await self._administer_faults(request)
        if (forbidden := self._forbidden(request)) is not None:
            return _status_response(forbidden)
        fault = self._faults.next(request.method, request.path)
        if fault is not None:
            return await self._fail(request, handler, fault)
        return await self._answer(request, handler)

    def _knows(self, request: web.Request) -> bool:
        tokens = [self._token] + ([self._account[0]] if self._account else [])
        return any(_carries(request, token) for token in tokens)

    def _forbidden(self, request: web.Request) -> ForbiddenError | None:
        """The error where the account with limited rights asks for what no Role gives it."""
        match = _NAMESPACE.fullmatch(request.path) or _PATH.fullmatch(request.path)
        if self._account is None or match is None or not _carries(request, self._account[0]):
            return None
        if discovery.answer(request.path, self._store.definitions()) is not None:
            return None
        request_for = asked(request.method, match.groupdict(), watch=request.query.get("watch", "") in ("true", "1"))
        if self._account[1].allow(request_for):
            return None
        return ForbiddenError(f'{match["plural"]} is forbidden: User "ml-lifecycle" {request_for}')

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except _NoSuchPathError as error:
            return web.Response(text=error.message + "\n", status=404)
        except KubernetesError as error:
            return _status_response(error)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            logger.exception("%s %s", request.method, request.path)
            return _status_response(KubernetesError(f"{error!r}", status=400, reason="BadRequest"))

    async def _fail(self, request: web.Request, handler: Handler, fault: Fault) -> web.StreamResponse:
        await asyncio.sleep(fault.delay_seconds)
        if fault.text is not None:
            return web.Response(text=fault.text, status=fault.status or 200)
        if fault.status is not None:
            response = _status_response(KubernetesError(fault.message, status=fault.status, reason=fault.reason))
            if fault.retry_after is not None:
                response.headers["Retry-After"] = str(fault.retry_after)
            return response
        if fault.close == "before":
            return _cut(request)
        response = await self._answer(request, handler)
        if fault.close == "within" and isinstance(response, web.Response):
            return await _broken_off(request, response)
        return _cut(request) if fault.close == "after" else response

    async def _administer_faults(self, request: web.Request) -> web.Response:
        """Faults from outside the process: POST a `Fault` as JSON, DELETE all."""
        if request.method == "POST":
            fault = Fault(**await request.json())
            self._faults.add(fault)
            return web.json_response(asdict(fault), status=201)
        if request.method == "DELETE":
            self._faults.clear()
        return web.json_response({"requests": len(self._faults.requests)})

    async def _route(self, request: web.Request) -> web.StreamResponse:
        found = discovery.answer(request.path, self._store.definitions())
        if found is not None:
            return web.json_response(found)
        match = _NAMESPACE.fullmatch(request.path) or _PATH.fullmatch(request.path)
        if match is None:
            raise _no_such_path()
        where = match.groupdict()
        definition = self._served(where.get("group") or "", where["version"], where["plural"])
        address = _Address(definition, where.get("namespace"), where["name"], where.get("subresource"))
        if address.name is None:
            return await self._collection(request, address)
        if address.subresource == "log" and definition.resource == POD:
            return await self._log(request, address)
        if address.subresource == "scale" and definition.scale:
            return await self._scale(request, address, definition)
        if address.subresource not in (None, "status") or (address.subresource and not definition.status):
            raise _no_such_path()
        return await self._object(request, address)

    def _served(self, group: str, version: str, plural: str) -> Definition:
        for definition in self._store.definitions():
            resource = definition.resource
            if (resource.group, resource.version, resource.plural) == (group, version, plural):
                return definition
        raise _no_such_path()

    # Collections

    async def _collection(self, request: web.Request, address: _Address) -> web.StreamResponse:
        match request.method:
            case "GET" if request.query.get("watch", "").lower() in ("true", "1"):
                return await self._watch(request, address)
            case "GET":
                return self._list(request, address)
            case "POST":
                body = await _body(request)
                self._check_strictly(request, body, address.definition)
                if address.definition.resource.namespaced and not address.namespace:
                    raise _not_allowed(request)
                body = _typed(body, address.definition.resource)
                created = self._store.create(body, address.namespace, field_manager=_field_manager(request))
                return web.json_response(created, status=201)
            case "DELETE":
                return self._delete_all(request, address)
        raise _not_allowed(request)

    def _list(self, request: web.Request, address: _Address) -> web.Response:
        resource = address.definition.resource
        query = request.query
        if query.get("continue"):
            page = self._pages.next(query)
        else:
            with self._store.locked():
                items = self._store.list(
                    resource, address.namespace, query.get("labelSelector"), query.get("fieldSelector")
                )
                page = self._pages.first(items, self._store.version, query)
        if tables.wanted(_accept(request)):
            shown = tables.table(address.definition.columns, page.items, page.version, datetime.now(UTC))
        else:
            shown = _list_of(resource, page.items, page.version)
        return web.json_response({**shown, "metadata": page.metadata})

    def _delete_all(self, request: web.Request, address: _Address) -> web.Response:
        resource, query = address.definition.resource, request.query
        items = self._store.list(resource, address.namespace, query.get("labelSelector"), query.get("fieldSelector"))
        for item in items:
            self._store.delete(resource, item["metadata"]["name"], item["metadata"].get("namespace"))
        return web.json_response(_list_of(resource, items, self._store.version))

    async def _watch(self, request: web.Request, address: _Address) -> web.StreamResponse:
        query = request.query
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        seconds = float(query.get("timeoutSeconds") or 1800)
        bookmarks = query.get("allowWatchBookmarks", "").lower() == "true"
        resource = address.definition.resource
        try:
            subscription = self._store.subscribe(
                resource,
                address.namespace,
                label_selector=query.get("labelSelector"),
                field_selector=query.get("fieldSelector"),
                resource_version=query.get("resourceVersion"),
            )
        except ExpiredError as error:
            await response.prepare(request)
            await response.write(_line({"type": "ERROR", "object": _status(error)}))
            return response
        self._subscriptions.add(subscription)
        try:
            await response.prepare(request)
            async with asyncio.timeout(seconds):
                async for event, item in _with_bookmarks(subscription, self._store, resource, bookmarks=bookmarks):
                    await response.write(_line({"type": event, "object": _shown(request, address.definition, item)}))
        except (TimeoutError, ConnectionResetError):
            pass  # the watch's time is over, or the client went away
        finally:
            self._subscriptions.discard(subscription)
            subscription.close()
        return response

    # Objects

    async def _object(self, request: web.Request, address: _Address) -> web.StreamResponse:
        definition = address.definition
        match request.method:
            case "GET":
                found = self._store.get(definition.resource, address.name, address.namespace)
                return web.json_response(_shown(request, definition, found))
            case "PUT":
                body = _typed(await _body(request), definition.resource)
                self._check_strictly(request, body, definition)
                _check_address(body, address)
                updated = self._store.update(
                    body, subresource=address.subresource, field_manager=_field_manager(request)
                )
                return web.json_response(updated)
            case "PATCH":
                return await self._patch(request, address)
            case "DELETE" if address.subresource is None:
                return await self._delete(request, address)
        raise _not_allowed(request)

    async def _patch(self, request: web.Request, address: _Address) -> web.Response:
        definition = address.definition
        content_type = request.content_type
        if content_type == "application/apply-patch+yaml":
            return await self._apply(request, address)
        body = await _body(request)
        if content_type == "application/strategic-merge-patch+json" and definition.custom:
            raise _unsupported(content_type)
        change = _change(content_type, body)
        patched = self._store.patch(
            definition.resource,
            address.name,
            address.namespace,
            change,
            subresource=address.subresource,
            field_manager=_field_manager(request),
        )
        return web.json_response(patched)

    async def _apply(self, request: web.Request, address: _Address) -> web.Response:
        manager = request.query.get("fieldManager")
        if not manager:
            raise InvalidError(
                'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch'
            )
        body = _typed(await _body(request), address.definition.resource)
        _check_address(body, address)
        existed = self._store.find(address.definition.resource, address.name, address.namespace) is not None
        applied = self._store.apply(
            body,
            field_manager=manager,
            force=request.query.get("force", "").lower() == "true",
            subresource=address.subresource,
        )
        return web.json_response(applied, status=200 if existed else 201)

    async def _delete(self, request: web.Request, address: _Address) -> web.Response:
        options = await _body(request) if request.can_read_body else {}
        grace = options.get("gracePeriodSeconds", request.query.get("gracePeriodSeconds"))
        resource = address.definition.resource
        before = self._store.get(resource, address.name, address.namespace)
        self._store.delete(
            resource,
            address.name,
            address.namespace,
            grace_period_seconds=None if grace is None else int(grace),
            orphan=options.get("propagationPolicy") == "Orphan",
            preconditions=options.get("preconditions"),
        )
        left = self._store.find(resource, address.name, address.namespace)
        if left is not None or resource == POD:  # clients read a deleted pod's answer as a pod
            return web.json_response(left or before)
        details = {"name": address.name, "kind": resource.plural, "group": resource.group}
        details["uid"] = before["metadata"]["uid"]
        success = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
        return web.json_response(success)

    async def _scale(self, request: web.Request, address: _Address, definition: Definition) -> web.Response:
        present = self._store.get(definition.resource, address.name, address.namespace)
        if request.method == "GET":
            return web.json_response(scale.render(present, definition))
        body = await _body(request)
        manager = request.query.get("fieldManager")
        if request.content_type == "application/apply-patch+yaml":
            wanted = scale.applied(body, present, definition)
            force = request.query.get("force", "").lower() == "true"
            changed = self._store.apply(wanted, field_manager=manager or "", force=force, subresource="scale")
        else:
            if request.method == "PATCH":
                change = _change(request.content_type, body)
                body = change(scale.render(present, definition), definition)
            changed = self._store.patch(
                definition.resource,
                address.name,
                address.namespace,
                lambda old, _: scale.changed(old, body, definition),
                subresource="scale",
                field_manager=_field_manager(request),
            )
        return web.json_response(scale.render(changed, definition))

    async def _log(self, request: web.Request, address: _Address) -> web.StreamResponse:
        pod = self._store.get(POD, address.name, address.namespace)
        container = request.query.get("container") or pod["spec"]["containers"][0]["name"]
        specified = [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]
        if container not in {item["name"] for item in specified}:
            raise _bad_request(f"container {container} is not valid for pod {address.name}")
        path = log_path(self._state, pod, container)
        if not path.exists() and not _has_run(pod, container):
            raise _bad_request(
                f'container "{container}" in pod "{address.name}" is waiting to start: {_waiting(pod, container)}'
            )
        follow = request.query.get("follow", "").lower() in ("true", "1")
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)

        def ended() -> bool:
            present = self._store.find(POD, address.name, address.namespace)
            same = present is not None and present["metadata"]["uid"] == pod["metadata"]["uid"]
            return self._closing.is_set() or present is None or not same or _has_ended(present, container)

        options = LogOptions.parse(request.query, datetime.now(UTC))
        try:
            async for line in read_log(path, options, follow=follow, ended=ended):
                await response.write(line)
        except ConnectionResetError:
            pass  # the reader went away
        return response

    def _check_strictly(self, request: web.Request, body: Manifest, definition: Definition) -> None:
        """With fieldValidation=Strict unknown fields are refused instead of pruned."""
        if request.query.get("fieldValidation") == "Strict":
            unknown = schema.unknown_fields(body, definition.schema)
            if unknown:
                listed = ", ".join(f'unknown field "{field}"' for field in unknown)
                raise _bad_request(f"{definition.resource.kind} in version is invalid: strict decoding error: {listed}")


class _Address:
    """What a path is about."""

    def __init__(
        self, definition: Definition, namespace: str | None, name: str | None, subresource: str | None
    ) -> None:
        if namespace and not definition.resource.namespaced:
            raise _no_such_path()
        if name and definition.resource.namespaced and not namespace:
            raise _no_such_path()
        self.definition = definition
        self.namespace = namespace
        self.name: Any = name
        self.subresource = subresource


async def _with_bookmarks(
    subscription: Subscription, store: Store, resource: ResourceKind, *, bookmarks: bool
) -> AsyncIterator[tuple[str, Manifest]]:
    while True:
        try:
            async with asyncio.timeout(_BOOKMARK_SECONDS if bookmarks else None):
                yield await anext(subscription)
        except StopAsyncIteration:
            return
        except TimeoutError:
            mark = {"apiVersion": resource.api_version, "kind": resource.kind}
            yield "BOOKMARK", {**mark, "metadata": {"resourceVersion": store.version}}


async def _body(request: web.Request) -> Any:
    text = await request.text()
    if not text:
        return {}
    try:
        return json.loads(text) if "yaml" not in request.content_type else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise _bad_request(f"the body is not {request.content_type}: {error}") from error


def _typed(body: Manifest, resource: ResourceKind) -> Manifest:
    """The body with its type, which the address implies; another type is refused."""
    kind, version = body.get("kind"), body.get("apiVersion")
    if kind not in (None, resource.kind) or version not in (None, resource.api_version):
        raise _bad_request(
            f"the API version in the data ({version}, {kind}) does not match the expected API version "
            f"({resource.api_version}, {resource.kind})"
        )
    return {**body, "apiVersion": resource.api_version, "kind": resource.kind}


def _check_address(body: Manifest, address: _Address) -> None:
    metadata = body.setdefault("metadata", {})
    for field, expected in (("name", address.name), ("namespace", address.namespace)):
        if expected is not None and metadata.setdefault(field, expected) != expected:
            raise _bad_request(
                f"the {field} of the object ({metadata[field]}) does not match the {field} on the URL ({expected})"
            )


def _change(content_type: str, body: Any) -> Callable[[Manifest, Definition], Manifest]:
    match content_type:
        case "application/merge-patch+json":
            return lambda old, _: patches.merge_patch(old, body)
        case "application/strategic-merge-patch+json":
            return lambda old, definition: patches.strategic_merge_patch(old, body, definition.schema)
        case "application/json-patch+json":
            return lambda old, _: patches.json_patch(old, body)
    raise _unsupported(content_type)


def _field_manager(request: web.Request) -> str:
    """The manager that the client names, else the first word of its User-Agent."""
    agent = request.headers.get("User-Agent", "unknown").split("/")[0]
    return request.query.get("fieldManager") or agent[:128]


def _accept(request: web.Request) -> str:
    return request.headers.get("Accept", "")


def _shown(request: web.Request, definition: Definition, item: Manifest) -> Manifest:
    """The object, or its table where the client asks for one."""
    if not tables.wanted(_accept(request)):
        return item
    return tables.table(definition.columns, [item], item["metadata"]["resourceVersion"], datetime.now(UTC))


def _list_of(resource: ResourceKind, items: list[Manifest], version: str) -> Manifest:
    return {
        "apiVersion": resource.api_version,
        "kind": f"{resource.kind}List",
        "metadata": {"resourceVersion": version},
        "items": items,
    }


def _container_status(pod: Mapping[str, Any], container: str) -> Mapping[str, Any]:
    status = pod.get("status") or {}
    statuses = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    return next((item for item in statuses if item["name"] == container), {})


def _has_run(pod: Mapping[str, Any], container: str) -> bool:
    status = _container_status(pod, container)
    state = status.get("state") or {}
    return "running" in state or "terminated" in state or bool(status.get("restartCount"))


def _has_ended(pod: Mapping[str, Any], container: str) -> bool:
    if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return True
    return "terminated" in (_container_status(pod, container).get("state") or {})


def _waiting(pod: Mapping[str, Any], container: str) -> str:
    waiting = (_container_status(pod, container).get("state") or {}).get("waiting") or {}
    return str(waiting.get("reason") or "ContainerCreating")


def _line(event: Mapping[str, Any]) -> bytes:
    return json.dumps(event).encode() + b"\n"


def _status(error: KubernetesError) -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": error.message,
        "reason": error.reason,
        "details": error.details,
        "code": error.status,
    }


def _status_response(error: KubernetesError) -> web.Response:
    return web.json_response(_status(error), status=error.status)


def _cut(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def _broken_off(request: web.Request, whole: web.Response) -> web.StreamResponse:
    """Half of an answer whose head promises all of it."""
    body = whole.body if isinstance(whole.body, bytes) else b""
    response = web.StreamResponse(status=whole.status, headers={"Content-Type": "application/json"})
    response.content_length = len(body)
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()
    return response


class _NoSuchPathError(NotFoundError):
    """A path below which nothing is served: the API server answers with a text, not with a Status."""


def _carries(request: web.Request, token: str) -> bool:
    return hmac.compare_digest(request.headers.get("Authorization", "").encode(), f"Bearer {token}".encode())


def _no_such_path() -> _NoSuchPathError:
    return _NoSuchPathError("404 page not found")


def _not_allowed(request: web.Request) -> KubernetesError:
    message = f"the server does not allow {request.method} on {request.path}"
    return KubernetesError(message, status=405, reason="MethodNotAllowed")


def _unsupported(content_type: str) -> InvalidError:
    message = f"the body of the request was in an unknown format: {content_type}"
    return InvalidError(message, status=415, reason="UnsupportedMediaType")


def _bad_request(message: str) -> InvalidError:
    return InvalidError(message, status=400, reason="BadRequest")
