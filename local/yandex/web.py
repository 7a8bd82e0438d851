"""The HTTP side: the host's metadata service, Lockbox's REST payload, and what people ask a stand-in."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from local.yandex.services import TOKEN_SECONDS, Services

METADATA_TOKEN = "/computeMetadata/v1/instance/service-accounts/default/token"
LOCKBOX_PAYLOAD = re.compile(r"/lockbox/v1/secrets/([^/]+)/payload")
TIMES = ("creation_seconds", "deletion_seconds")

Answer = tuple[HTTPStatus, Any]


def serve(services: Services, port: int) -> ThreadingHTTPServer:
    """A server on loopback, not yet serving."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(lambda: _get(services, urlsplit(self.path).path, dict(self.headers)))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._answer(lambda: _post(services, urlsplit(self.path).path, body))

        def do_DELETE(self) -> None:
            self._answer(lambda: _delete(services, urlsplit(self.path).path))

        def _answer(self, action: Callable[[], Answer]) -> None:
            try:
                status, document = action()
            except (ValueError, TypeError) as error:
                status, document = HTTPStatus.BAD_REQUEST, {"message": str(error)}
            body = json.dumps(document, indent=1).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class says so)
            """A poll a second would drown everything else."""

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def _get(services: Services, path: str, headers: dict[str, str]) -> Answer:
    if path == METADATA_TOKEN:
        if headers.get("Metadata-Flavor") != "Google":
            return HTTPStatus.FORBIDDEN, {"message": "Metadata-Flavor: Google is missing"}
        token = services.tokens.issue()
        return HTTPStatus.OK, {"access_token": token, "expires_in": TOKEN_SECONDS, "token_type": "Bearer"}
    if match := LOCKBOX_PAYLOAD.fullmatch(path):
        return _payload(services, match[1], headers.get("Authorization", ""))
    if path == "/history":
        return HTTPStatus.OK, services.cloud.history()
    if path == "/healthz":
        return HTTPStatus.OK, {"status": "ok"}
    return _not_found(path)


def _payload(services: Services, secret_id: str, authorization: str) -> Answer:
    if not services.tokens.valid(authorization):
        return HTTPStatus.UNAUTHORIZED, {"code": 16, "message": "The token is invalid"}
    entries = services.secrets.get(secret_id)
    if entries is None:
        return HTTPStatus.NOT_FOUND, {"code": 5, "message": f"Secret {secret_id} not found"}
    found = [{"key": key, "textValue": value} for key, value in entries.items()]
    return HTTPStatus.OK, {"versionId": "1", "entries": found}


def _post(services: Services, path: str, body: bytes) -> Answer:
    if path != "/faults":
        return _not_found(path)
    document = json.loads(body)
    for name in TIMES:
        if name in document:
            setattr(services.cloud.timing, name, float(document.pop(name)))
    if document:
        services.faults.add(document)
    return HTTPStatus.OK, {}


def _delete(services: Services, path: str) -> Answer:
    if path != "/faults":
        return _not_found(path)
    services.faults.clear()
    return HTTPStatus.OK, {}


def _not_found(path: str) -> Answer:
    return HTTPStatus.NOT_FOUND, {"message": f"nothing at {path}"}
