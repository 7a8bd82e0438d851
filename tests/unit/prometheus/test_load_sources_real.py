"""The scaler's load through a real Prometheus that scrapes what each data plane shows."""

import asyncio
import shutil
import time

import pytest

from ml_lifecycle.prometheus.client import PrometheusClient
from ml_lifecycle.scaling.load_sources import SOURCES
from tests.unit.prometheus.expositions import CANARY, EXPOSITIONS, STABLE, STANDARD_CANARY, STANDARD_STABLE
from tests.unit.prometheus.scraped import World

pytestmark = [
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not on PATH"),
    pytest.mark.slow,
]
WINDOW = 2  # seconds
STRANGER = "digits-large-predictor"  # another service whose name begins alike


async def test_every_source_counts_each_request_of_a_service_once(tmp_path) -> None:
    """Both sides of a canary, in both modes, and nothing of another service; the loads differ by mode."""
    begin = time.time()

    def show() -> str:
        passed = time.time() - begin
        knative = {STABLE: {"200": 30 * passed}, CANARY: {"200": 8 * passed, "503": 2 * passed}}
        standard = {STANDARD_STABLE: {"200": 15 * passed}, STANDARD_CANARY: {"200": 5 * passed}}
        stranger = {STRANGER: {"200": 700 * passed}}
        return "".join(
            text(knative if name.startswith("knative") else knative | standard | stranger)
            for name, text in EXPOSITIONS.items()
        )

    with World(show).prometheus(tmp_path) as url:
        async with PrometheusClient(url) as client:
            await asyncio.sleep(4 * WINDOW)
            for name, source in SOURCES.items():
                now = time.time()
                found = await client.instant(source.query(["models"], ["digits", "letters"], WINDOW), now)
                assert [one.labels for one in found] == [{"namespace": "models", "service": "digits"}], name
                wanted = 40 if name.startswith("knative") else 60
                assert found[0].value == pytest.approx(wanted, rel=0.25), name
