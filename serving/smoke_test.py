"""Is this deployment the model that it should be? Asked of one revision before it gets traffic.

`python -m serving.smoke_test --url <URL of the revision> --model <name> --golden <golden.json>` checks readiness,
the contract of inputs and outputs, the golden answers within their tolerance, and the latency budget. It prints a
JSON report and exits with 0 or 1. Standard library only. With `--connect http://127.0.0.1:port` the connection goes
there, and the URL's host only into the Host header, for gateways whose names do not resolve.
"""

from __future__ import annotations

import argparse
import functools
import http.client
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

TIMEOUT_SECONDS = 10.0
RETRY_SECONDS = 0.5
EXCERPT = 300


class CheckFailedError(Exception):
    """A check did not hold; the message says what was expected and what was found."""


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
    """One deployment, reached at its URL or by way of another address."""

    def __init__(self, url: str, connect: str | None) -> None:
        self._url = _http(url)
        self._address = _http(connect) if connect else self._url

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
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise CheckFailedError(f"{method} {path} at {self._address.netloc}: {error}") from error
        finally:
            connection.close()
        try:
            return response.status, json.loads(content)
        except ValueError:
            return response.status, content[:EXCERPT].decode(errors="replace")


def smoke_test(endpoint: Endpoint, model: str, golden: Mapping[str, Any], report: Report, wait_seconds: float) -> None:
    """Run every check and note its outcome; the later ones are skipped when the model never gets ready."""
    if not _check(report, "ready", lambda: _ready(endpoint, model, wait_seconds)):
        return
    _check(report, "contract", lambda: _contract(endpoint, model, golden))
    for number, case in enumerate(golden["cases"]):
        _check(report, f"golden {number}", functools.partial(_golden, endpoint, model, case, golden, report))
    _check(report, "refuses nonsense", lambda: _refusal(endpoint, model))
    _check(report, "latency", lambda: _latency(report, float(golden["latency_budget_seconds"])))


def _check(report: Report, name: str, action: Callable[[], str]) -> bool:
    try:
        detail, passed = action(), True
    except CheckFailedError as error:
        detail, passed = str(error), False
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        detail, passed = f"the answer has another form than the protocol's: {type(error).__name__} {error}", False
    report.checks.append({"check": name, "passed": passed, "detail": detail})
    return passed


def _ready(endpoint: Endpoint, model: str, wait_seconds: float) -> str:
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            status, answer = endpoint.call("GET", f"/v2/models/{model}/ready")
            if status == 200:
                return f"model {model} is ready"
            problem = f"/v2/models/{model}/ready answered {status}: {answer}"
        except CheckFailedError as error:
            problem = str(error)
        if time.monotonic() > deadline:
            raise CheckFailedError(f"not ready after {wait_seconds:.0f} s: {problem}")
        time.sleep(RETRY_SECONDS)


def _contract(endpoint: Endpoint, model: str, golden: Mapping[str, Any]) -> str:
    status, answer = endpoint.call("GET", f"/v2/models/{model}")
    if status != 200:
        raise CheckFailedError(f"/v2/models/{model} answered {status}: {answer}")
    inputs = {entry["name"]: entry for entry in answer["inputs"]}
    outputs = {entry["name"]: entry for entry in answer["outputs"]}
    expected = {"image": "BYTES", "label": "BYTES", "probabilities": "FP32"}
    for name, datatype in expected.items():
        entry = {**inputs, **outputs}.get(name)
        if entry is None or entry["datatype"] != datatype:
            raise CheckFailedError(f"{name} must be described as {datatype}, not as {entry}")
    classes = len(golden["cases"][0]["probabilities"])
    if outputs["probabilities"]["shape"][-1] != classes:
        raise CheckFailedError(f"probabilities have shape {outputs['probabilities']['shape']}, not [-1, {classes}]")
    return f"inputs {sorted(inputs)}, outputs {sorted(outputs)}, {classes} classes"


def _golden(endpoint: Endpoint, model: str, case: Mapping[str, Any], golden: Mapping[str, Any], report: Report) -> str:
    body = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [case["image"]]}]}
    started = time.monotonic()
    status, answer = endpoint.call("POST", f"/v2/models/{model}/infer", body)
    report.latencies.append(time.monotonic() - started)
    if status != 200:
        raise CheckFailedError(f"inference answered {status}: {answer}")
    outputs = {entry["name"]: entry["data"] for entry in answer["outputs"]}
    difference = max(
        abs(given - expected) for given, expected in zip(outputs["probabilities"], case["probabilities"], strict=True)
    )
    if not difference <= float(golden["tolerance"]):
        raise CheckFailedError(
            f"probabilities differ by {difference:.6f}, more than {golden['tolerance']}; label "
            f"{outputs['label'][0]!r}, expected {case['label']!r}: another model or another preprocessing answers here"
        )
    if outputs["label"] != [case["label"]]:
        raise CheckFailedError(f"label {outputs['label']}, expected {case['label']!r}")
    return f"label {case['label']}, probabilities within {difference:.1e}"


def _refusal(endpoint: Endpoint, model: str) -> str:
    status, answer = endpoint.call("POST", f"/v2/models/{model}/infer", {"inputs": []})
    if status != 400:
        raise CheckFailedError(f"a request without inputs was answered with {status}: {answer}; expected is 400")
    return "a request without inputs is answered with 400"


def _latency(report: Report, budget: float) -> str:
    # The first request may pay for warming up.
    slowest = max(report.latencies[1:] or report.latencies)
    if slowest > budget:
        raise CheckFailedError(f"the slowest answer took {slowest:.3f} s, more than the budget of {budget:.3f} s")
    return f"the slowest answer took {slowest:.3f} s of {budget:.3f} s"


def _http(url: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SystemExit(f"{url!r} is no URL of the form http://host[:port][/path]")
    return parts


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the test of the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m serving.smoke_test", description="prove one deployment")
    parser.add_argument("--url", required=True, help="URL of the deployment")
    parser.add_argument("--model", required=True, help="name under which the model answers")
    parser.add_argument("--golden", required=True, type=Path, help="golden.json of the version")
    parser.add_argument("--connect", help="connect here instead, with the URL's host as Host header")
    parser.add_argument("--wait", type=float, default=30.0, help="seconds to wait for readiness")
    options = parser.parse_args(arguments)
    report = Report(options.model, options.url)
    try:
        golden = json.loads(options.golden.read_text())
    except (OSError, ValueError) as error:
        report.checks.append({"check": "golden cases", "passed": False, "detail": f"{options.golden}: {error}"})
    else:
        smoke_test(Endpoint(options.url, options.connect), options.model, golden, report, options.wait)
    sys.stdout.write(json.dumps(report.to_document(), indent=2) + "\n")
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
