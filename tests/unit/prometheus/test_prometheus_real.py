"""The rollout's queries through a real Prometheus that scrapes Knative's metrics."""

import asyncio
import http.server
import shutil
import socket
import subprocess
import threading
import time

import pytest

from ml_lifecycle.canary.snapshot import Gap, between
from ml_lifecycle.kserve.queries import PRESETS, snapshot
from ml_lifecycle.prometheus.client import PrometheusClient
from ml_lifecycle.prometheus.exceptions import PrometheusError, PrometheusQueryError

pytestmark = pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not on PATH")
PRESET = PRESETS["knative_otel"]


class Exposition:
    """What is scraped: requests of both revisions by status code, all of them below 10 ms."""

    def __init__(self):
        self.requests = {("new", "200"): 0, ("old", "200"): 100}

    def text(self):
        lines = []
        for (revision, code), count in self.requests.items():
            labels = (
                f'kn_revision_name="{revision}",kn_configuration_name="digits-predictor",k8s_namespace_name="models"'
            )
            labels += f',http_response_status_code="{code}"'
            for le in ("0.005", "0.01", "+Inf"):
                below = 0 if le == "0.005" else count
                lines.append(f'kn_serving_invocation_duration_seconds_bucket{{{labels},le="{le}"}} {below}')
            lines.append(f"kn_serving_invocation_duration_seconds_count{{{labels}}} {count}")
        return ("\n".join(lines) + "\n").encode()


@pytest.fixture
def exposition():
    return Exposition()


@pytest.fixture
def prometheus(tmp_path, exposition):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(exposition.text())

        def log_message(self, *_):
            pass

    target = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=target.serve_forever, daemon=True).start()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    configuration = tmp_path / "prometheus.yml"
    configuration.write_text(
        "global: {scrape_interval: 250ms, scrape_timeout: 200ms}\n"
        f"scrape_configs: [{{job_name: ingress, static_configs: [{{targets: ['127.0.0.1:{target.server_port}']}}]}}]\n"
    )
    process = subprocess.Popen(
        ["prometheus", f"--config.file={configuration}", f"--storage.tsdb.path={tmp_path / 'data'}"]
        + [f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)
        target.shutdown()
        target.server_close()


async def look(client, wanted):
    """The snapshot once `wanted(snapshot)`; the test's patience is 20 s."""
    for _ in range(100):
        try:
            found = await snapshot(
                client,
                PRESET,
                service="digits",
                namespace="models",
                canary="new",
                stable="old",
                at=time.time(),
                window_seconds=30,
            )
            if wanted(found):
                return found
        except PrometheusError:
            pass
        await asyncio.sleep(0.2)
    raise AssertionError("Prometheus never showed it")


@pytest.mark.slow
async def test_a_window_of_both_revisions_first_errors_and_resets(prometheus, exposition):
    async with PrometheusClient(prometheus) as client:
        before = await look(client, lambda found: found.stable.codes.get("200") == 100)
        exposition.requests |= {("new", "200"): 20, ("new", "503"): 3, ("old", "200"): 180}
        after = await look(client, lambda found: found.canary.codes.get("503") == 3)
        window = between(before, after)
        assert (window.canary.requests, window.canary.errors, window.stable.requests) == (23, 3, 80)
        assert window.canary.latency.quantile(0.95) == pytest.approx(0.01, abs=0.001)

        exposition.requests |= {("old", "200"): 7}
        reset = await look(client, lambda found: found.stable.codes.get("200") == 7)
        assert isinstance(between(after, reset), Gap)

        series = await client.range("kn_serving_invocation_duration_seconds_count", time.time() - 5, time.time(), 1)
        assert {item.labels["kn_revision_name"] for item in series} == {"new", "old"}
        with pytest.raises(PrometheusQueryError, match="sum by"):
            await client.instant("sum by (", time.time())
