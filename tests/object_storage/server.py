"""As much of S3 as pyarrow and s3fs ask for: objects, ranges, listings, copies, uploads in parts. Faults by order.

A fault is asked with each request, before it is answered: it may answer instead, cut the answer off, or hang up.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

TIME = "2026-01-01T00:00:00.000Z"
HTTP_TIME = "Thu, 01 Jan 2026 00:00:00 GMT"


@dataclass(frozen=True)
class Asked:
    """One request: its method, the key (empty for the bucket), and its query."""

    method: str
    key: str
    query: dict[str, str]


# What becomes of a request: None, an HTTP status, "truncate" (the answer breaks off) or "reset" (there is none).
Fault = Callable[[Asked], int | str | None]


class ObjectStorage:
    """One bucket. `objects` is its content by key; `asked` all requests; `fault` decides about each."""

    def __init__(self, bucket: str = "bucket") -> None:
        self.bucket = bucket
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.asked: list[Asked] = []
        self.fault: Fault = lambda _asked: None
        self.numbers = itertools.count()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"storage": self}))
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fail(self, times: int, what: int | str, *, method: str = "", part: str = "") -> None:
        """The next `times` requests of this method whose key or query holds `part` meet the fault."""
        left = iter(range(times))

        def fault(asked: Asked) -> int | str | None:
            fits = method in ("", asked.method) and part in f"{asked.key}?{asked.query}"
            return what if fits and next(left, None) is not None else None

        self.fault = fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    storage: ObjectStorage

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _handle(self) -> None:
        parts = urlsplit(self.path)
        bucket, _, key = unquote(parts.path).removeprefix("/").partition("/")
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        body = self._body()
        asked = Asked(self.command, key, query)
        self.storage.asked.append(asked)
        fault = self.storage.fault(asked)
        if fault == "reset":
            self.close_connection = True
            return
        if isinstance(fault, int):
            self._error(fault, "SlowDown" if fault == 503 else "AccessDenied" if fault == 403 else "InternalError")
            return
        if bucket != self.storage.bucket:
            self._error(404, "NoSuchBucket")
            return
        getattr(self, f"_{self.command.lower()}")(key, query, body, truncate=fault == "truncate")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle  # noqa: N815

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        else:
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
        return _signed(body) if "aws-chunked" in self.headers.get("Content-Encoding", "") else body

    def _get(self, key: str, query: dict[str, str], _body: bytes, *, truncate: bool) -> None:
        if not key:
            self._list(query)
            return
        content = self.storage.objects.get(key)
        if content is None:
            self._error(404, "NoSuchKey")
            return
        given = self.headers.get("Range")
        if given is None:
            self._answer(200, content, kind="binary/octet-stream", truncate=truncate)
            return
        first, _, last = given.removeprefix("bytes=").partition("-")
        start = int(first) if first else max(0, len(content) - int(last))
        end = min(int(last) if last and first else len(content) - 1, len(content) - 1)
        if start >= len(content):
            self._error(416, "InvalidRange")
            return
        headers = {"Content-Range": f"bytes {start}-{end}/{len(content)}"}
        self._answer(206, content[start : end + 1], headers, kind="binary/octet-stream", truncate=truncate)

    def _head(self, key: str, _query: dict[str, str], _body: bytes, *, truncate: bool) -> None:
        if not key:
            self._answer(200)
        elif key in self.storage.objects:
            self._answer(200, self.storage.objects[key], kind="binary/octet-stream")
        else:
            self._error(404, "NoSuchKey")

    def _put(self, key: str, query: dict[str, str], body: bytes, *, truncate: bool) -> None:
        if truncate:
            body = body[: len(body) // 2]
        if source := self.headers.get("x-amz-copy-source"):
            found = self.storage.objects.get(unquote(source).removeprefix("/").partition("/")[2])
            if found is None:
                self._error(404, "NoSuchKey")
                return
            self.storage.objects[key] = found
            self._answer(200, f"<CopyObjectResult><ETag>{_tag(found)}</ETag></CopyObjectResult>".encode())
        elif "partNumber" in query:
            self.storage.uploads[query["uploadId"]][int(query["partNumber"])] = body
            self._answer(200, headers={"ETag": _tag(body)})
        else:
            if key:
                self.storage.objects[key] = body
            self._answer(200, headers={"ETag": _tag(body)})

    def _post(self, key: str, query: dict[str, str], body: bytes, *, truncate: bool) -> None:
        if "uploads" in query:
            upload = f"upload-{next(self.storage.numbers)}"
            self.storage.uploads[upload] = {}
            text = f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            self._answer(200, text.encode())
        elif "uploadId" in query:
            parts = self.storage.uploads.pop(query["uploadId"])
            named = [int(part.text or 0) for part in ElementTree.fromstring(body).iter() if "PartNumber" in part.tag]
            self.storage.objects[key] = b"".join(parts[number] for number in named)
            tag = _tag(self.storage.objects[key])
            self._answer(
                200, f"<CompleteMultipartUploadResult><ETag>{tag}</ETag></CompleteMultipartUploadResult>".encode()
            )
        else:
            for found in ElementTree.fromstring(body).iter():
                if found.tag.endswith("Key"):
                    self.storage.objects.pop(found.text or "", None)
            self._answer(200, b"<DeleteResult></DeleteResult>")

    def _delete(self, key: str, query: dict[str, str], _body: bytes, *, truncate: bool) -> None:
        if "uploadId" in query:
            self.storage.uploads.pop(query["uploadId"], None)
        else:
            self.storage.objects.pop(key, None)
        self._answer(204)

    def _list(self, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        most = int(query.get("max-keys", 1000))
        entries: dict[str, str] = {}
        for key in sorted(key for key in list(self.storage.objects) if key.startswith(prefix)):
            inner, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            if found:
                folder = escape(prefix + inner + delimiter)
                entries[folder] = f"<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>"
            else:
                content = self.storage.objects[key]
                entries[key] = (
                    f"<Contents><Key>{escape(key)}</Key><LastModified>{TIME}</LastModified><ETag>{_tag(content)}</ETag>"
                    f"<Size>{len(content)}</Size><StorageClass>STANDARD</StorageClass></Contents>"
                )
        shown = list(entries.values())[:most]
        self._answer(
            200,
            f"<ListBucketResult><Name>{self.storage.bucket}</Name><Prefix>{escape(prefix)}</Prefix>"
            f"<KeyCount>{len(shown)}</KeyCount><MaxKeys>{most}</MaxKeys><IsTruncated>false</IsTruncated>"
            f"{''.join(shown)}</ListBucketResult>".encode(),
        )

    def _error(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())

    def _answer(
        self,
        status: int,
        content: bytes = b"",
        headers: dict[str, str] | None = None,
        *,
        kind: str = "application/xml",
        truncate: bool = False,
    ) -> None:
        self.send_response(status)
        given = {"Content-Type": kind, "Last-Modified": HTTP_TIME, "ETag": _tag(content), **(headers or {})}
        for name, value in given.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if truncate else content)
        if truncate:
            self.close_connection = True


def _tag(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


def _signed(body: bytes) -> bytes:
    """The content of a body in AWS' own chunks, each with its length and signature, and a checksum after the last."""
    content, rest = b"", body
    while rest:
        head, _, rest = rest.partition(b"\r\n")
        size = int(head.split(b";")[0], 16)
        if size == 0:
            break
        content, rest = content + rest[:size], rest[size + 2 :]
    return content
