"""A cluster, a Prometheus and model folders for tests of rollouts: the Kubernetes stand-in with its controllers, tiny
servers as model pods, and counters that grow with the traffic that the InferenceService's status shows."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import threading
import time
import urllib.parse
from collections import defaultdict
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml
from jinja2 import StrictUndefined, Template

from local.kubernetes.rights import Rights
from local.kubernetes.stand_in import KubernetesStandIn
from ml_lifecycle.kserve import look
from ml_lifecycle.kserve.client import RolloutClient
from ml_lifecycle.kserve.look import look as take_look
from ml_lifecycle.kserve.request import RolloutRequest
from ml_lifecycle.kserve.rollout import STATE_ANNOTATION, Phase, RolloutState, begin_canary
from ml_lifecycle.kserve.triggers import CanaryTrigger, CloseTrigger, RevisionReadyTrigger
from ml_lifecycle.kubernetes.client import KubernetesClient
from ml_lifecycle.kubernetes.resource import CONFIG_MAP, HTTP_ROUTE, INFERENCE_SERVICE, LEASE
from ml_lifecycle.resources import resource
from ml_lifecycle.settings import parse_settings

RUN = "roll_out_model/run"
MODEL, NAMESPACE, IMAGE = "digits", "models", "test/server:1"
BOUNDS = ("0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1.0", "+Inf")
# Serves what the model's file `answer` says: `crash` ends at once, `memory` is killed as for want of memory, `never`
# never listens, all else is healthy.
SERVER = """
import http.server, os, pathlib, signal, sys, time
folder = pathlib.Path(next(a for a in sys.argv if a.startswith("--model_dir=")).partition("=")[2])
answer = (folder / "answer").read_text()
if answer == "crash": sys.exit("the model is broken")
if answer == "memory": os.kill(os.getpid(), signal.SIGKILL)
while answer == "never": time.sleep(1)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
    def log_message(self, *_): pass
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""
FAST = {
    "rollout.steps": [10, 50, 100],
    "rollout.dwell_seconds": 0.3,
    "rollout.look_seconds": 0.1,
    "rollout.min_requests": 20,
    "rollout.floor": 0.01,
    "serving.image": IMAGE,
}


@dataclass
class Behaviour:
    """How a version answers: share of errors, seconds a request takes (a bucket's bound); or not at all."""

    errors: float = 0.0
    seconds: str = "0.01"
    silent: bool = False


class Stored:
    """What Prometheus has scraped, and what it says a series grew by; the rules are those of the rollout's queries.

    A series is (revision, pod, code or bound). `wiped` is a Prometheus that has lost its storage, not the pods'
    counters.
    """

    def __init__(self):
        self.scrapes = []  # (time, series → counter)

    def wiped(self):
        self.scrapes = []

    def scrape(self, at, counters):
        self.scrapes.append((at, counters))

    def at(self, moment):
        """The last scrape's counters by then."""
        return next((found for at, found in reversed(self.scrapes) if at <= moment + _ROUNDING), {})

    def grown(self, begin, end):
        """Series → growth."""
        base = self.at(begin)
        window = [found for at, found in self.scrapes if begin + _ROUNDING < at <= end + _ROUNDING]
        past = {series for at, found in self.scrapes if at <= begin + _ROUNDING for series in found}
        values = defaultdict(list)
        for found in window:
            for series, value in found.items():
                values[series].append(value)
        grown = {series: seen[-1] - min([*seen, base.get(series, seen[0])]) for series, seen in values.items()}
        most = sum(grown.values())
        for series in values.keys() - past:
            beside = any(other[:2] == series[:2] for other in base)
            new = not any(other[:2] == series[:2] for other in past) and values[series][0] <= most
            if beside or (new and self.at(2 * begin - end)):
                grown[series] = values[series][-1]
        return grown


_ROUNDING = 0.002


class Traffic:
    """Counters of pods; every later query time stands for `requests` more requests, split as the cluster says.

    In Knative mode that is the status, and the metrics are queue-proxy's, which name nothing but the pod; in Standard
    mode the HTTPRoute, and Istio's.
    `pods` says how many pods a revision has: `replaced` ends one and starts another, `reset` restarts all containers,
    `wiped` takes Prometheus its storage. `hidden` pods are not scraped; `says` is (status, document) in place of an
    answer, and `warnings` stand beside one.
    """

    def __init__(self, store, mode="Knative"):
        self._store = store
        self._mode = mode
        knative = ("side", "http_response_status_code")
        self._revision, self._code = knative if mode == "Knative" else ("destination_service_name", "response_code")
        self._unit = 1 if mode == "Knative" else 1000
        self.requests = 200
        self.down = False
        self.says = None
        self.warnings = []
        self.slow_seconds = 0.0
        self.churn = set()  # revisions of which a pod is replaced at each look
        self.hidden = set()
        self.behaviours = defaultdict(Behaviour)  # by revision
        self.pods = defaultdict(lambda: ["a"])
        self.codes, self.buckets = defaultdict(int), defaultdict(int)  # series → counter
        self._stored = {"codes": Stored(), "buckets": Stored()}
        self.served = defaultdict(list)  # revision → percents seen
        self._time = None
        self._lock = threading.Lock()

    def answer(self, query, at):
        with self._lock:
            if query == "vector(1)":
                return [{"metric": {}, "value": [at, "1"]}]
            if query.startswith(("topk(", "max(")):
                return []
            if query.startswith("label_replace(group by"):
                series = "kn_serving_invocation_duration_seconds_count/pod"
                known = {"naming": series, "namespace": NAMESPACE}
                return [{"metric": known, "value": [at, "1"]}] if self.codes else []
            if self._time is None or at > self._time:
                self._time = at
                self._serve()
                self._scrape(at)
            seconds = float(re.search(r"offset (\d+)ms", query)[1]) / 1000
            if query.startswith("count("):
                known = len(self._stored["codes"].at(at - seconds))
                return [{"metric": {}, "value": [at, str(known)]}] if known else []
            kind, label = (
                ("buckets", "le") if query.startswith(f"sum by ({self._revision},le)") else ("codes", self._code)
            )
            sums = defaultdict(int)
            for (revision, _, last), value in self._stored[kind].grown(at - seconds, at).items():
                sums[revision, last] += value
            return [
                {
                    "metric": {self._revision: name, label: self._bound(last) if label == "le" else last},
                    "value": [at, str(value)],
                }
                for (name, last), value in sums.items()
            ]

    def reset(self):
        """All containers start again."""
        with self._lock:
            for counters in (self.codes, self.buckets):
                for series in counters:
                    counters[series] = 0

    def wiped(self):
        """Prometheus is back without its storage."""
        with self._lock:
            for stored in self._stored.values():
                stored.wiped()

    def replaced(self, revision):
        """The revision's first pod ends, another starts."""
        old = self.pods[revision].pop(0)
        self.pods[revision].append(f"{old}'")
        for counters in (self.codes, self.buckets):
            for series in [series for series in counters if series[:2] == (revision, old)]:
                del counters[series]

    def grown(self, revision, begin, end):
        """(Requests, failed, timed) that a revision's counters grew by between two moments; no pod may have ended."""
        found = {}
        for kind, stored in self._stored.items():
            found[kind] = defaultdict(int)
            for series, value in stored.at(end).items():
                if series[0] == revision:
                    found[kind][series[2]] += value - stored.at(begin).get(series, 0)
        return sum(found["codes"].values()), found["codes"]["500"], found["buckets"]["+Inf"]

    def _bound(self, le):
        return le if le == "+Inf" else str(float(le) * self._unit)

    def shares(self):
        """Revision and percent of every entry of the traffic."""
        if self._mode == "Standard":
            route = self._store.find(HTTP_ROUTE, MODEL, NAMESPACE)
            backends = route["spec"]["rules"][0]["backendRefs"] if route else []
            total = sum(item.get("weight", 1) for item in backends)
            return [(item["name"], round(100 * item.get("weight", 1) / total)) for item in backends]
        service = self._store.find(INFERENCE_SERVICE, MODEL, NAMESPACE) or {}
        traffic = service.get("status", {}).get("components", {}).get("predictor", {}).get("traffic", [])
        return [(item["revisionName"], item["percent"]) for item in traffic]

    def _serve(self):
        for name, percent in self.shares():
            self.served[name].append(percent)
            behaviour = self.behaviours[name]
            if behaviour.silent:
                continue
            if name in self.churn:
                self.replaced(name)
            count = round(self.requests * percent / 100)
            for number, pod in enumerate(self.pods[name]):
                share = count // len(self.pods[name]) + (number < count % len(self.pods[name]))
                self._answered(name, pod, share, behaviour)

    def _answered(self, name, pod, count, behaviour):
        failed = round(count * behaviour.errors)
        if count - failed:
            self.codes[name, pod, "200"] += count - failed
        if failed:
            self.codes[name, pod, "500"] += failed
        for le in BOUNDS:
            self.buckets[name, pod, le] += count if float(le) >= float(behaviour.seconds) else 0

    def _scrape(self, at):
        for kind, counters in (("codes", self.codes), ("buckets", self.buckets)):
            seen = {series: value for series, value in counters.items() if series[:2] not in self.hidden}
            self._stored[kind].scrape(at, seen)


class FakePrometheus:
    """An HTTP server that answers instant queries from `traffic`, and has no history; it may be stopped and started."""

    def __init__(self, traffic):
        self.port = 0
        self._traffic = traffic

    def start(self):
        traffic = self._traffic

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                form = urllib.parse.parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                time.sleep(traffic.slow_seconds)
                if self.path.endswith("query_range"):
                    self._say(200, {"status": "success", "data": {"resultType": "matrix", "result": []}})
                    return
                # Users go on and are counted, whatever the answer is.
                rows = traffic.answer(form["query"][0], float(form["time"][0]))
                if traffic.down:
                    self._say(503, {"status": "error", "error": "starting up"})
                    return
                if traffic.says:
                    self._say(*traffic.says)
                    return
                document = {"status": "success", "data": {"resultType": "vector", "result": rows}}
                self._say(200, document | ({"warnings": traffic.warnings} if traffic.warnings else {}))

            def _say(self, status, document):
                body = json.dumps(document).encode()
                with suppress(ConnectionError):  # who asked may have gone
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()


class World:
    """What a test of a rollout touches."""

    def __init__(self, stand_in, traffic, lake, prometheus):
        self.stand_in, self.store, self.traffic, self.lake = stand_in, stand_in.store, traffic, lake
        self.prometheus = prometheus

    def version(self, version, answer="fine"):
        """Serving files of a version; returns their URI."""
        folder = self.lake / "models" / MODEL / version
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "answer").write_text(answer)
        for name in ("model.onnx", "model.json", "golden.json"):
            (folder / name).write_text('{"cases": []}')
        self.publish(version)
        return f"file://{folder}"

    def publish(self, version, **files):
        """Write serving files, named with `_` for the dot, and the checksums of all of them."""
        folder = self.lake / "models" / MODEL / version
        for name, content in files.items():
            (folder / name.replace("_", ".")).write_text(content)
        names = sorted(file.name for file in folder.iterdir() if file.name != "checksums.json")
        checksums = {name: sha256((folder / name).read_bytes()).hexdigest() for name in names}
        (folder / "checksums.json").write_text(json.dumps(checksums))

    def request(self, version, **overrides):
        """A rollout of a version that exists."""
        variable = {"defaults": {"data_lake": f"file://{self.lake}"}, "locked": []}
        settings = parse_settings(variable, MODEL, {**FAST, **overrides})
        return RolloutRequest.of(settings, version=version)

    @asynccontextmanager
    async def client(self, holder="roll_out_model/run"):
        async with KubernetesClient.from_kubeconfig(self.stand_in.account) as kubernetes:
            yield RolloutClient(kubernetes, holder)

    @property
    def service(self):
        return self.store.find(INFERENCE_SERVICE, MODEL, NAMESPACE)

    @property
    def component(self):
        return self.service["status"]["components"]["predictor"]

    @property
    def lease(self):
        return self.store.find(LEASE, f"ml-lifecycle-{MODEL}", NAMESPACE)

    def shares(self):
        """Revision to percent."""
        return {name: percent for name, percent in self.traffic.shares() if percent}

    def is_given_back(self):
        """Nobody holds the Lease, and no golden cases are left, whatever others have made of the service."""
        return not self.lease["spec"].get("holderIdentity") and not self.store.list(
            CONFIG_MAP, NAMESPACE, "ml-lifecycle.io/model"
        )

    def is_clean(self):
        """Nothing of a rollout is left: no open canary, no Lease held, no golden cases."""
        service = self.service
        opened = service and {"canaryTrafficPercent", "canary"} & {*service["spec"], *service["spec"]["predictor"]}
        return not opened and self.is_given_back()


@contextmanager
def world(tmp_path, monkeypatch, image=None, mode="Knative", **stand_in):
    """A running world; the Airflow connections lead to it. `image`: the folder in which its containers start."""
    images = {IMAGE: {"entrypoint": [sys.executable, "-S", "-c", SERVER], "cwd": str(image or tmp_path)}}
    rights = roles("rollout_role", namespaces=stand_in.get("namespaces", (NAMESPACE,)))
    options = {
        "rights": rights,
        "controllers": True,
        "ingress_port": 1,
        "images": images,
        "deployment_mode": mode,
        **stand_in,
    }
    with KubernetesStandIn(tmp_path / "cluster", **options) as stand_in:
        traffic = Traffic(stand_in.store, mode)
        prometheus = FakePrometheus(traffic)
        prometheus.start()
        address = {"conn_type": "http", "host": "127.0.0.1", "port": prometheus.port, "extra": {"timeout": 2}}
        monkeypatch.setenv("AIRFLOW_CONN_PROMETHEUS_DEFAULT", json.dumps(address))
        monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", stand_in.connection())
        try:
            yield World(stand_in, traffic, tmp_path / "lake", prometheus)
        finally:
            prometheus.stop()
    assert not rights.refused, (
        f"the package sent what no role of k8s_templates/ allows: {sorted(set(rights.refused))}; add the rule to "
        "rollout_role.yaml, or do not send it"
    )


def roles(*templates, namespaces):
    """The rights that templates of k8s_templates/ give, once for each namespace."""
    account = {"service_account": "airflow", "service_account_namespace": "airflow"}
    # The DAG names the namespaces that it sweeps; some tests do not.
    rule = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["list"]}
    everywhere = {"kind": "ClusterRole", "metadata": {}, "rules": [rule]}
    return Rights(
        [everywhere]
        + [
            manifest
            for name in templates
            for namespace in namespaces
            for manifest in yaml.safe_load_all(
                Template(resource(f"k8s_templates/{name}.yaml").read_text(), undefined=StrictUndefined).render(
                    namespace=namespace, **account
                )
            )
        ]
    )


def beginnings(monkeypatch):
    """A list that gets, at each look but the first, the moment from which it counts; the first look counts nothing."""
    moments = []

    def noted(state, *rest):
        moments.extend([state.snapshot.at] if state.snapshot else [])
        return take_look(state, *rest)

    monkeypatch.setattr(look, "look", noted)
    return moments


def saved(cluster):
    """The state on the Lease."""
    return RolloutState.from_json(json.loads(cluster.lease["metadata"]["annotations"][STATE_ANNOTATION]))


def counts(cluster, begin):
    """What the looks counted of each side, and what its pods served, from `begin` to the last look.

    Both as (requests, failed, timed). They are equal where all was counted, and once, be it in many looks or in few.
    A look of the warm-up keeps no times; each of its requests had one.
    """
    state = saved(cluster)
    counted, served = {}, {}
    for name, revision in (("canary", state.revision), ("stable", state.stable_revision)):
        seen = [getattr(step.seen, name) for step in state.steps]
        warmup = [(getattr(each, f"{name}_n"), getattr(each, f"{name}_e")) for each in state.evidence.warmup]
        looks = [(s.requests, s.errors, s.latency.total) for s in seen] + [(n, e, n) for n, e in warmup]
        counted[name] = tuple(map(sum, zip(*looks, strict=True)))
        served[name] = cluster.traffic.grown(revision, begin, state.snapshot.at)
    return counted, served


async def event(trigger, holder=RUN):
    built = trigger(
        kubernetes_conn_id="kubernetes_default",
        namespace=NAMESPACE,
        service=MODEL,
        holder=holder,
        poll_seconds=0.1,
    )
    path, arguments = built.serialize()
    assert path == f"ml_lifecycle.kserve.triggers.{trigger.__name__}"
    async for found in trigger(**arguments).run():
        return found.payload
    return None


async def open_and_wait(cluster, request, holder=RUN):
    async with cluster.client(holder) as client:
        await client.open(request, "{}")
    return await event(RevisionReadyTrigger, holder)


async def begin(cluster, holder=RUN):
    async with cluster.client(holder) as client:
        return await client.save(begin_canary(await client.own(NAMESPACE, MODEL)))


async def go_live(cluster, version, holder=RUN, **overrides):
    """A rollout from its beginning to its report."""
    ready = await open_and_wait(cluster, cluster.request(version, **overrides), holder)
    if ready["status"] == "ready" and (await begin(cluster, holder)).phase is Phase.CANARY:
        await event(CanaryTrigger, holder)
    return (await event(CloseTrigger, holder))["report"]


async def persevering(trigger, holder=RUN):
    """The first event that is not transient: Airflow tries the task again."""
    for _ in range(100):
        found = await event(trigger, holder)
        if not found.get("transient"):
            return found
    raise AssertionError("it never gets through")


async def until(condition, seconds=20.0):
    """Waits until `condition()` holds."""
    for _ in range(int(seconds / 0.05)):
        if condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it did not come to that in time")
