"""What Prometheus would say of the benchmark's services, in a process of its own.

Requests arrive at a constant rate and are split as each InferenceService's status says, which a watch follows; the
counts are random numbers. A bad version fails five times as often.
"""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from aiohttp import web

from ml_lifecycle.kubernetes.client import KubernetesClient
from ml_lifecycle.kubernetes.exceptions import KubernetesError
from ml_lifecycle.kubernetes.resource import INFERENCE_SERVICE

REQUESTS_PER_SECOND = 200.0
ERROR_RATE, BAD_ERROR_RATE = 0.005, 0.025
BOUNDS = ("0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "+Inf")
_SHARES = np.array([0.05, 0.2, 0.4, 0.25, 0.07, 0.02, 0.008, 0.001, 0.0005, 0.0003, 0.0001, 0.0001])
_CONFIGURATION = re.compile(r'kn_revision_name=~"([^"|]+)-predictor-')
_WINDOW = re.compile(r"offset (\d+)ms")
_NAMING = "kn_serving_invocation_duration_seconds_count/kn_revision_name"
_KEPT_SECONDS = 600.0


class Service:
    """The counters of one service's revisions."""

    def __init__(self, seed: int, *, bad: bool) -> None:
        self.namespace = ""
        self.traffic: list[tuple[str, float]] = []
        self.codes = defaultdict(lambda: np.zeros(2, dtype=np.int64))
        self.buckets = defaultdict(lambda: np.zeros(len(BOUNDS), dtype=np.int64))
        self._random = np.random.default_rng(seed)
        self._bad = bad
        self._at = None
        self._shots = []  # (Unix time, counters by status code, by bucket), as if scraped at each question

    def advance(self, at: float) -> None:
        """What was served until Unix time `at`."""
        seconds = 0.0 if self._at is None else max(0.0, at - self._at)
        self._at = at if self._at is None else max(at, self._at)
        for revision, share in self.traffic:
            count = self._random.poisson(REQUESTS_PER_SECOND * seconds * share)
            rate = BAD_ERROR_RATE if self._bad and not revision.endswith("-00001") else ERROR_RATE
            failed = self._random.binomial(count, rate)
            self.codes[revision] += (count - failed, failed)
            self.buckets[revision] += self._random.multinomial(count, _SHARES).cumsum()
        shot = tuple({name: counts.copy() for name, counts in each.items()} for each in (self.codes, self.buckets))
        self._shots = [each for each in self._shots if each[0] > at - _KEPT_SECONDS] + [(at, *shot)]

    def growth(self, begin: float, end: float, kind: int) -> dict[str, np.ndarray]:
        """By revision, what the counters of a kind (1: status codes, 2: buckets) grew by between two moments."""
        now = next((shot[kind] for shot in reversed(self._shots) if shot[0] <= end), {})
        then = next((shot[kind] for shot in reversed(self._shots) if shot[0] <= begin), {})
        return {name: counts - then.get(name, 0) for name, counts in now.items()}

    def history(self, start: float, end: float, step: float) -> list[tuple[str, list[list]]]:
        """A steady past: what each step grew by, by status code."""
        times = np.arange(start, end + step / 2, step)
        counts = self._random.poisson(REQUESTS_PER_SECOND * step, len(times))
        failed = self._random.binomial(counts, ERROR_RATE)
        grown = {"200": counts - failed, "500": failed}
        return [
            (code, [[float(at), str(value)] for at, value in zip(times, values, strict=True)])
            for code, values in grown.items()
        ]


class Answers:
    """The HTTP API, as far as a rollout asks."""

    def __init__(self, is_bad) -> None:
        self.services: dict[str, Service] = {}
        self._is_bad = is_bad

    def follow(self, manifest) -> None:
        """The traffic that an InferenceService's status shows now."""
        name = manifest["metadata"]["name"]
        bad = self._is_bad(name)
        service = self.services.setdefault(name, Service(sum(name.encode()), bad=bad))
        service.namespace = manifest["metadata"]["namespace"]
        component = manifest.get("status", {}).get("components", {}).get("predictor", {})
        service.traffic = [(share["revisionName"], share["percent"] / 100) for share in component.get("traffic", [])]

    async def instant(self, request):
        form = await request.post()
        query, at = form["query"], float(form["time"])
        if query == "vector(1)":
            return _success("vector", [{"metric": {}, "value": [at, "1"]}])
        service = self.services[_CONFIGURATION.search(query)[1]]
        service.advance(at)
        return _success("vector", list(_rows(service, query, at)))

    async def range(self, request):
        form = await request.post()
        service = self.services[_CONFIGURATION.search(form["query"])[1]]
        stable = service.traffic[-1][0]
        if form["query"].startswith("count("):
            start, end, step = (float(form[name]) for name in ("start", "end", "step"))
            known = [[float(at), "4"] for at in np.arange(start, end + step / 2, step)]
            return _success("matrix", [{"metric": {}, "values": known}])
        found = service.history(*(float(form[name]) for name in ("start", "end", "step")))
        metric = {"kn_revision_name": stable}
        rows = [{"metric": metric | {"http_response_status_code": code}, "values": values} for code, values in found]
        return _success("matrix", rows)


def _rows(service, query, at):
    if query.startswith("label_replace(group"):
        yield {"metric": {"naming": _NAMING, "k8s_namespace_name": service.namespace}, "value": [at, "1"]}
        return
    seconds = float(_WINDOW.search(query)[1]) / 1000
    if query.startswith("count("):
        yield {"metric": {}, "value": [at, "4"]}
        return
    of_buckets = query.startswith("sum by (kn_revision_name,le)")
    for revision, counts in service.growth(at - seconds, at, 2 if of_buckets else 1).items():
        label, names = ("le", BOUNDS) if of_buckets else ("http_response_status_code", ("200", "500"))
        for name, count in zip(names, counts, strict=True):
            if count:
                yield {"metric": {"kn_revision_name": revision, label: name}, "value": [at, str(count)]}


def _success(kind, rows):
    return web.json_response({"status": "success", "data": {"resultType": kind, "result": rows}})


def serve(kubeconfig: Path, is_bad, pipe: Connection) -> None:
    """Sends its port, and serves until it is killed."""
    asyncio.run(_serve(kubeconfig, Answers(is_bad), pipe))


async def _serve(kubeconfig, answers, pipe):
    app = web.Application()
    app.router.add_post("/api/v1/query", answers.instant)
    app.router.add_post("/api/v1/query_range", answers.range)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    pipe.send(runner.addresses[0][1])
    async with KubernetesClient.from_kubeconfig(kubeconfig) as client:
        while True:
            try:
                async for _, manifest in client.watch(INFERENCE_SERVICE, timeout_seconds=3600):
                    answers.follow(manifest)
            except KubernetesError:
                await asyncio.sleep(0.1)
