"""The HTTP interface of the model."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio import CapacityLimiter
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving import protocol
from serving.exceptions import (
    ModelFilesError,
    NotReadyError,
    OverloadedError,
    RequestError,
    TooLargeError,
    UnknownModelError,
)
from serving.metrics import Metrics
from serving.model import Model, Prediction
from serving.options import Options
from serving.preprocessing import UnreadableImageError

log = logging.getLogger("serving")
SERVER = {"name": "ml-lifecycle", "version": "1.0.0", "extensions": []}


class Server:
    """The state behind the interface: the model once it is loaded, and what is under way."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.metrics = Metrics()
        self.draining = False
        self.failure: Exception | None = None
        self._model: Model | None = None
        self._waiting = 0
        self._limiter = CapacityLimiter(options.workers or len(os.sched_getaffinity(0)))

    @property
    def ready(self) -> bool:
        """Whether requests should be sent here."""
        return self._model is not None and not self.draining

    async def load(self) -> None:
        """Load the model, off the event loop; raises ModelFilesError."""
        started = time.monotonic()
        model = await anyio.to_thread.run_sync(
            lambda: Model.load(
                self.options.model_dir,
                digest=self.options.model_digest,
                intra_op_threads=self.options.intra_op_threads,
            )
        )
        description = model.description
        self.metrics.model.labels(description.model, description.version, description.run_id).set(1)
        self._model = model
        seconds = time.monotonic() - started
        log.info("model %s of run %s loaded in %.2f s", description.model, description.run_id, seconds)

    def model(self, name: str) -> Model:
        """The model of this name; raises UnknownModelError, NotReadyError."""
        if name != self.options.model_name:
            raise UnknownModelError(f"model {name!r} is unknown; this server has {self.options.model_name!r}")
        if self._model is None:
            raise NotReadyError(f"model {name!r} is still loading")
        return self._model

    async def body(self, request: Request) -> bytes:
        """The request's body; raises TooLargeError."""
        limit = self.options.max_body_bytes
        parts = []
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise TooLargeError(f"the request is larger than the {limit} bytes that are allowed")
            parts.append(part)
        return b"".join(parts)

    async def predict(self, model: Model, read: Callable[[], protocol.InferenceRequest]) -> tuple[Any, Prediction]:
        """Read and answer a request in a thread, as many at a time as there are workers."""
        if self._waiting >= self.options.max_waiting:
            raise OverloadedError(f"{self._waiting} requests are waiting: try again later")
        self._waiting += 1
        self.metrics.in_flight.set(self._waiting)
        try:
            request, prediction = await anyio.to_thread.run_sync(lambda: _answer(model, read()), limiter=self._limiter)
        except UnreadableImageError as error:
            raise RequestError(f"an image cannot be read: {error}") from error
        finally:
            self._waiting -= 1
            self.metrics.in_flight.set(self._waiting)
        self.metrics.batch.observe(len(prediction.labels))
        for label in prediction.labels:
            self.metrics.predictions.labels(label).inc()
        return request, prediction


def _answer(model: Model, request: protocol.InferenceRequest) -> tuple[protocol.InferenceRequest, Prediction]:
    if request.images is not None:
        return request, model.predict_images(request.images)
    assert request.tensor is not None  # noqa: S101 - one of the two is given
    return request, model.predict(request.tensor)


def create_app(server: Server, on_failure: Callable[[], None] = lambda: None) -> FastAPI:
    """The application; it loads the model in the background and calls `on_failure` if it cannot be loaded."""

    async def load() -> None:
        try:
            await server.load()
        except ModelFilesError as error:
            server.failure = error
            log.error("%s", error)  # noqa: TRY400 - the message says it all
            on_failure()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(load())
        yield
        loading.cancel()

    app = FastAPI(title="ml-lifecycle model server", lifespan=lifespan, openapi_url=None)
    _add_health(app, server)
    _add_v2(app, server)
    _add_v1(app, server)

    @app.exception_handler(RequestError)
    async def refuse(_: Request, error: RequestError) -> JSONResponse:
        headers = {"Retry-After": "1"} if error.status == 503 else None
        return JSONResponse({"error": str(error)}, error.status, headers)

    @app.exception_handler(HTTPException)
    async def refuse_path(request: Request, error: HTTPException) -> JSONResponse:
        message = f"{request.method} {request.url.path}: {error.detail}"
        return JSONResponse({"error": message}, error.status_code, error.headers)

    app.add_middleware(Measurement, metrics=server.metrics)
    return app


class Measurement:
    """Counts and times every request."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        code = 500

        async def note(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note)
        finally:
            # The template of the path, so that clients cannot invent label values.
            endpoint = getattr(scope.get("route"), "path", "unknown")
            self._metrics.requests.labels(endpoint, str(code)).inc()
            self._metrics.duration.labels(endpoint).observe(time.perf_counter() - started)


def _add_health(app: FastAPI, server: Server) -> None:
    @app.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready")
    async def ready() -> JSONResponse:
        return JSONResponse({"ready": server.ready}, 200 if server.ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(server.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _add_v2(app: FastAPI, server: Server) -> None:
    @app.get("/v2")
    async def describe_server() -> dict[str, Any]:
        return SERVER

    @app.get("/v2/models/{name}")
    async def describe(name: str) -> dict[str, Any]:
        return protocol.metadata_v2(name, server.model(name).description)

    @app.get("/v2/models/{name}/ready")
    async def model_ready(name: str) -> dict[str, Any]:
        server.model(name)
        return {"name": name, "ready": True}

    @app.post("/v2/models/{name}/infer")
    async def infer(name: str, request: Request) -> JSONResponse:
        model = server.model(name)
        body = await server.body(request)
        inference, prediction = await server.predict(
            model, lambda: protocol.read_v2(body, model.description, server.options.max_batch)
        )
        return JSONResponse(protocol.write_v2(name, model.description, inference, prediction))


def _add_v1(app: FastAPI, server: Server) -> None:
    @app.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        return {"models": [server.options.model_name]}

    @app.get("/v1/models/{name}")
    async def status(name: str) -> dict[str, Any]:
        server.model(name)
        return {"name": name, "ready": True}

    @app.post("/v1/models/{name}:predict")
    async def predict(name: str, request: Request) -> JSONResponse:
        model = server.model(name)
        body = await server.body(request)
        _, prediction = await server.predict(model, lambda: protocol.read_v1(body, server.options.max_batch))
        return JSONResponse(protocol.write_v1(prediction))
