"""Is this deployment the model that it should be? Asked of one revision before it gets traffic.

`python -m serving.smoke_test --url <URL of the revision> --model <name> --golden <golden.json>` checks readiness,
the contract of inputs and outputs, the golden answers within their tolerance, and the latency budget. It prints a
JSON report and exits with 0 or 1. With `--connect http://127.0.0.1:port` the connection goes there, and the URL's host
only into the Host header, for gateways whose names do not resolve. A test that is not over after `--within` seconds
(or SMOKE_TEST_SECONDS of the environment) has failed: a server may drip its answer for ever.

`--protocol` and `--cases` say what server it is: `images` is our own; `tensors` one of the bare ONNX graph, for which
golden images are preprocessed here; `requests` any other, of which cases say themselves what is asked. Cases that do so
are asked of any server.
"""

from __future__ import annotations

import argparse
import functools
import http.client
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from serving.golden import (
    CheckFailedError,
    check_label,
    check_probabilities,
    check_response,
    image_request,
    tensor_request,
)

TIMEOUT_SECONDS = 10.0
RETRY_SECONDS = 0.5
LARGEST_ANSWER = 2**24
EXCERPT = 300
TOLERANCE = 0.001

CLUSTER_LOCAL = ".svc.cluster.local"
READY_PATHS = {"v1": "/v1/models/{model}", "v2": "/v2/models/{model}/ready"}
METADATA_PATHS = {"v2": "/v2/models/{model}"}
PREDICT_PATHS = {"v1": "/v1/models/{model}:predict", "v2": "/v2/models/{model}/infer"}


@dataclass
class Report:
    """The checks that ran, in order, and the latencies that were seen, in seconds."""

    model: str
    url: str
    checks: list[dict[str, Any]] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every check held."""
        return all(check["passed"] for check in self.checks)

    def to_document(self) -> dict[str, Any]:
        """The report that is printed."""
        latency = {"slowest": round(max(self.latencies), 4)} if self.latencies else {}
        return {
            "passed": self.passed,
            "model": self.model,
            "url": self.url,
            "checks": self.checks,
            "latency_seconds": latency,
        }


class Endpoint:
    """One deployment, reached at its URL or by way of another address.

    A cluster's own names need no gateway where they resolve, and a gateway does not know them.
    """

    def __init__(self, url: str, connect: str | None) -> None:
        self._url = _http(url)
        host = self._url.hostname or ""
        direct = host.endswith(CLUSTER_LOCAL) and _resolves(host)
        self._address = _http(connect) if connect and not direct else self._url

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, Any]:
        """Status and JSON of the answer; raises CheckFailedError when nothing answers."""
        secure = self._address.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(self._address.hostname or "", self._address.port, timeout=TIMEOUT_SECONDS)
        headers = {"Host": self._url.netloc, "Content-Type": "application/json"}
        try:
            connection.request(
                method, self._url.path.rstrip("/") + path, json.dumps(body) if body is not None else None, headers
            )
            response = connection.getresponse()
            content = response.read(LARGEST_ANSWER + 1)
        except (OSError, http.client.HTTPException) as error:
            raise CheckFailedError(f"{method} {path} at {self._address.netloc}: {error}") from error
        finally:
            connection.close()
        if len(content) > LARGEST_ANSWER:
            raise CheckFailedError(f"{method} {path} answered with more than {LARGEST_ANSWER} bytes")
        try:
            return response.status, json.loads(content)
        except ValueError:
            return response.status, content[:EXCERPT].decode(errors="replace")


@dataclass(frozen=True)
class Subject:
    """What is tested: the `model` of an endpoint, its protocol (v1 or v2), and how golden cases are asked of it."""

    endpoint: Endpoint
    model: str
    protocol: str = "v2"
    cases: str = "images"

    def predict(self, body: Mapping[str, Any]) -> tuple[int, Any]:
        """Status and JSON of a prediction."""
        return self.endpoint.call("POST", PREDICT_PATHS[self.protocol].format(model=self.model), body)


def smoke_test(
    subject: Subject, golden: Mapping[str, Any], report: Report, *, wait_seconds: float, budget_seconds: float | None
) -> None:
    """Run every check and note its outcome; the later ones are skipped when the model never gets ready."""
    if not _check(report, "ready", lambda: _ready(subject, wait_seconds)):
        return
    _check(report, "contract", lambda: _contract(subject, golden))
    for number, case in enumerate(golden["cases"]):
        _check(report, f"golden {number}", functools.partial(_golden, subject, case, golden, report))
    if subject.cases == "images":
        _check(report, "refuses nonsense", lambda: _refusal(subject))
    budget = golden.get("latency_budget_seconds") if budget_seconds is None else budget_seconds
    if budget is not None:
        _check(report, "latency", lambda: _latency(report, float(budget)))


def _check(report: Report, name: str, action: Callable[[], str]) -> bool:
    try:
        detail, passed = action(), True
    except CheckFailedError as error:
        detail, passed = str(error), False
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        detail, passed = f"the answer has another form than the protocol's: {type(error).__name__} {error}", False
    report.checks.append({"check": name, "passed": passed, "detail": detail})
    return passed


def _ready(subject: Subject, wait_seconds: float) -> str:
    path = READY_PATHS[subject.protocol].format(model=subject.model)
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            status, answer = subject.endpoint.call("GET", path)
            if status == 200 and _says_ready(answer):
                return f"model {subject.model} is ready"
            problem = f"{path} answered {status}: {answer}"
        except CheckFailedError as error:
            problem = str(error)
        if time.monotonic() > deadline:
            raise CheckFailedError(f"not ready after {wait_seconds:.0f} s: {problem}")
        time.sleep(RETRY_SECONDS)


def _says_ready(answer: Any) -> bool:
    """KServe's v1 servers say {"ready": true}, TensorFlow Serving names states; those of v2 say it by the status."""
    if not isinstance(answer, Mapping):
        return True
    states = [version.get("state") for version in answer.get("model_version_status", ())]
    return "AVAILABLE" in states if states else answer.get("ready", True) in (True, "True", "true")


def _contract(subject: Subject, golden: Mapping[str, Any]) -> str:
    if subject.protocol not in METADATA_PATHS:
        return "protocol v1 describes no inputs and outputs"
    path = METADATA_PATHS[subject.protocol].format(model=subject.model)
    status, answer = subject.endpoint.call("GET", path)
    if status != 200:
        raise CheckFailedError(f"{path} answered {status}: {answer}")
    inputs = {entry["name"]: entry for entry in answer.get("inputs") or ()}
    outputs = {entry["name"]: entry for entry in answer.get("outputs") or ()}
    for name, datatype in _described(subject, golden).items():
        entry = {**inputs, **outputs}.get(name)
        if entry is None or entry["datatype"] != datatype:
            raise CheckFailedError(f"{name} must be described as {datatype}, not as {entry}")
    if subject.cases == "images":
        _count_classes(outputs["probabilities"]["shape"], golden)
    return f"inputs {sorted(inputs)}, outputs {sorted(outputs)}"


def _described(subject: Subject, golden: Mapping[str, Any]) -> dict[str, str]:
    """Inputs and outputs that the server must describe, with their datatypes."""
    if subject.cases == "images":
        return {"image": "BYTES", "label": "BYTES", "probabilities": "FP32"}
    if subject.cases == "tensors" and "model" in golden:
        return {golden["model"]["input"]["name"]: "FP32", golden["model"]["output"]["name"]: "FP32"}
    return {}


def _count_classes(shape: Sequence[int], golden: Mapping[str, Any]) -> None:
    for case in golden["cases"][:1]:
        if shape[-1] != len(case["probabilities"]):
            raise CheckFailedError(f"probabilities have shape {shape}, not [-1, {len(case['probabilities'])}]")


def _golden(subject: Subject, case: Mapping[str, Any], golden: Mapping[str, Any], report: Report) -> str:
    body = _body(subject, case, golden)
    started = time.monotonic()
    status, answer = subject.predict(body)
    report.latencies.append(time.monotonic() - started)
    if status != 200:
        raise CheckFailedError(f"inference answered {status}: {answer}")
    tolerance = float(golden.get("tolerance", TOLERANCE))
    if "request" in case:
        check_response(answer, case["response"], tolerance)
        return "the response is as expected"
    if subject.cases == "tensors":
        return check_probabilities(answer, golden["model"]["output"]["name"], case, tolerance)
    found = check_probabilities(answer, "probabilities", case, tolerance)
    check_label(answer, case)
    return found


def _body(subject: Subject, case: Mapping[str, Any], golden: Mapping[str, Any]) -> Mapping[str, Any]:
    if "request" in case:
        request: Mapping[str, Any] = case["request"]
        return request
    if subject.cases == "images":
        return image_request(case)
    if subject.cases == "tensors" and "model" in golden:
        return tensor_request(case, golden["model"])
    raise CheckFailedError("the case holds no request, and this server cannot be asked by an image")


def _refusal(subject: Subject) -> str:
    status, answer = subject.predict({"inputs": []})
    if status != 400:
        raise CheckFailedError(f"a request without inputs was answered with {status}: {answer}; expected is 400")
    return "a request without inputs is answered with 400"


def _latency(report: Report, budget: float) -> str:
    if not report.latencies:
        return "no golden case was asked, so nothing was timed"
    # The first request may pay for warming up.
    slowest = max(report.latencies[1:] or report.latencies)
    if slowest > budget:
        raise CheckFailedError(f"the slowest answer took {slowest:.3f} s, more than the budget of {budget:.3f} s")
    return f"the slowest answer took {slowest:.3f} s of {budget:.3f} s"


def _resolves(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True


def _http(url: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SystemExit(f"{url!r} is no URL of the form http://host[:port][/path]")
    return parts


class OutOfTimeError(Exception):
    """The test was not over in time."""


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """OutOfTimeError where what is done inside takes longer, whatever it waits for; 0: it may take for ever."""

    def over(*_: object) -> None:
        raise OutOfTimeError(f"the test was not over after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the test of the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m serving.smoke_test", description="prove one deployment")
    parser.add_argument("--url", required=True, help="URL of the deployment")
    parser.add_argument("--model", required=True, help="name under which the model answers")
    parser.add_argument("--golden", required=True, type=Path, help="golden.json of the version")
    parser.add_argument("--connect", help="connect here instead, with the URL's host as Host header")
    parser.add_argument("--protocol", choices=sorted(PREDICT_PATHS), default="v2", help="what the server speaks")
    parser.add_argument(
        "--cases", choices=["images", "tensors", "requests"], default="images", help="how golden cases are asked"
    )
    parser.add_argument("--latency-budget", type=float, help="seconds, instead of the golden cases' own")
    parser.add_argument("--wait", type=float, default=30.0, help="seconds to wait for readiness")
    parser.add_argument(
        "--within",
        type=float,
        default=float(os.environ.get("SMOKE_TEST_SECONDS") or 0),
        help="seconds that all of it may take; 0: any",
    )
    options = parser.parse_args(arguments)
    report = Report(options.model, options.url)
    try:
        golden = json.loads(options.golden.read_text())
    except (OSError, ValueError) as error:
        report.checks.append({"check": "golden cases", "passed": False, "detail": f"{options.golden}: {error}"})
    else:
        subject = Subject(Endpoint(options.url, options.connect), options.model, options.protocol, options.cases)
        try:
            with _within(options.within):
                smoke_test(subject, golden, report, wait_seconds=options.wait, budget_seconds=options.latency_budget)
        except OutOfTimeError as error:
            report.checks.append({"check": "time", "passed": False, "detail": str(error)})
    sys.stdout.write(json.dumps(report.to_document(), indent=2) + "\n")
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
