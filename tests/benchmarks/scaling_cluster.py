"""A cluster of N services for the whole tick: `python -m tests.benchmarks.scaling_cluster N HISTORY`.

The Kubernetes stand-in holds N InferenceServices in Knative mode, each with its Revision and its MLScaler; a small
Prometheus answers the preset's range queries with a daily season. Both run in this process, apart from the tick that is
measured. Prints where they are as one line of JSON, and ends with its standard input.
"""

from __future__ import annotations

import json
import math
import re
import sys
import tempfile
import threading
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "plugins"))

import numpy as np

from local.kubernetes.stand_in import KubernetesStandIn
from ml_lifecycle.kubernetes.resource import INFERENCE_SERVICE

SHAPES = 16  # different loads; more would only slow the stand-in down
NAMESPACE = "models"
PERIOD = 20_011  # minutes after which the noise repeats


def main() -> None:
    """Serves until standard input ends."""
    services, history = int(sys.argv[1]), int(sys.argv[2])
    prometheus = _Server(("127.0.0.1", 0), _Prometheus)
    threading.Thread(target=prometheus.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder, KubernetesStandIn(Path(folder)) as cluster:
        for number in range(services):
            for manifest in _service(f"service-{number}", history):
                cluster.store.create(manifest)
            live = {"revisionName": f"service-{number}-predictor-00001", "percent": 100}
            status = {"components": {"predictor": {"traffic": [live]}}}
            cluster.store.update_status(INFERENCE_SERVICE, f"service-{number}", NAMESPACE, status)
        address = f"http://127.0.0.1:{prometheus.server_address[1]}"
        print(json.dumps({"kubeconfig": str(cluster.kubeconfig), "prometheus": address}), flush=True)
        sys.stdin.read()


def _service(name: str, history: int) -> list[dict[str, Any]]:
    metadata = {"name": name, "namespace": NAMESPACE}
    revision = f"{name}-predictor-00001"
    model = {"modelFormat": {"name": "onnx"}, "storageUri": f"s3://bucket/{name}"}
    return [
        {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": metadata,
            "spec": {"predictor": {"model": model}},
        },
        {
            "apiVersion": "serving.knative.dev/v1",
            "kind": "Revision",
            "metadata": {"name": revision, "namespace": NAMESPACE},
            "spec": {"containers": [{"name": "kserve-container", "image": "i"}]},
        },
        {
            "apiVersion": "ml-lifecycle.io/v1alpha1",
            "kind": "MLScaler",
            "metadata": metadata,
            "spec": {
                "targetRef": {
                    "apiVersion": "serving.kserve.io/v1beta1",
                    "kind": "InferenceService",
                    "name": name,
                },
                "maxReplicas": 1000,
                "metric": {"preset": "requests_per_second"},
                "historySize": history,
                "capacityPerReplica": 50,
                "leadTimeSeconds": 180,
                "behavior": {"scaleUp": {"maxPercent": 10_000}},
            },
        },
    ]


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


class _Prometheus(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        start, end, step = (float(form[name][0]) for name in ("start", "end", "step"))
        names = re.search(r'kn_configuration_name=~"\(([^)]+)\)-predictor"', form["query"][0])
        series = [
            b'{"metric":{"namespace":"%s","service":"%s"},"values":%s}'
            % (NAMESPACE.encode(), name.encode(), _values(start, end, step, hash(name) % SHAPES))
            for name in (names[1].split("|") if names else ())
        ]
        body = b'{"status":"success","data":{"resultType":"matrix","result":[' + b",".join(series) + b"]}}"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@lru_cache(maxsize=4 * SHAPES)
def _values(start: float, end: float, step: float, shape: int) -> bytes:
    times = start + step * np.arange(round((end - start) / step) + 1)
    mean = 50 * (1 + shape) * np.exp(np.sin(2 * math.pi * (times / 86_400 + shape / SHAPES)))
    # By the minute, so that two ticks see the same past.
    minutes = np.round(times / 60).astype(int)
    noise = np.random.default_rng(shape).standard_normal(PERIOD)[minutes % PERIOD]
    loads = np.maximum(mean + np.sqrt(mean) * noise, 0)
    return (
        "[" + ",".join(f'[{at:.3f},"{load!r}"]' for at, load in zip(times, loads.tolist(), strict=True)) + "]"
    ).encode()


if __name__ == "__main__":
    main()
