"""A real Prometheus that has what a test says it has scraped."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ml_lifecycle.prometheus.answer import Sample
from ml_lifecycle.prometheus.client import PrometheusClient
from ml_lifecycle.prometheus.exceptions import PrometheusError

# series, as PromQL writes it → times (Unix seconds) and values
Scraped = Mapping[str, Iterable[tuple[int, float]]]


@contextmanager
def prometheus(folder: Path, scraped: Scraped) -> Iterator[str]:
    """Its address; it may take some seconds to answer: see `asked`."""
    (folder / "metrics").write_text(_exposition(scraped))
    (folder / "prometheus.yml").write_text("global: {}\n")
    made = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(folder / "metrics"), str(folder / "data")]
    subprocess.run(made, check=True, capture_output=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = [
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--storage.tsdb.retention.time=9y",
        "--log.level=error",
    ]
    with subprocess.Popen(["prometheus", *options]) as server:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


async def asked(client: PrometheusClient, query: str, at: float) -> list[Sample]:
    """What an instant query gives, once Prometheus has started."""
    for _ in range(120):
        try:
            return await client.instant(query, at)
        except PrometheusError:  # it is starting
            await asyncio.sleep(0.5)
    raise AssertionError("Prometheus did not start")


def _exposition(scraped: Scraped) -> str:
    lines: list[str] = []
    for name in sorted({series.partition("{")[0] for series in scraped}):
        lines.append(f"# TYPE {name} gauge")
        lines += [
            f"{series} {value} {at}"
            for series, samples in scraped.items()
            if series.startswith(name + "{")
            for at, value in samples
        ]
    return "\n".join([*lines, "# EOF", ""])
