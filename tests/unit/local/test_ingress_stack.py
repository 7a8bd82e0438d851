"""The three programs as they are started on the laptop: API with controllers, ingress, load generator."""

import asyncio
import contextlib
import json
import signal
import sys
from pathlib import Path

import aiohttp
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from local.kubernetes.controllers.process import free_port
from ml_lifecycle.kubernetes.client import KubernetesClient
from ml_lifecycle.kubernetes.resource import INFERENCE_SERVICE
from tests.unit.local.test_controllers_cluster import IMAGE, RUNTIME, SERVER, processes

REPOSITORY = Path(__file__).resolve().parents[3]


@contextlib.asynccontextmanager
async def program(module, *arguments):
    """A running `python -m <module>`, and the words of the line that it prints when it is ready."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *map(str, arguments)), stdout=asyncio.subprocess.PIPE, cwd=REPOSITORY
    )
    try:
        async with asyncio.timeout(20):
            line = (await process.stdout.readline()).decode()
        assert line.startswith("ready"), line
        yield process, line.split()
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            assert await process.wait() == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def until(true, seconds=10.0):
    async with asyncio.timeout(seconds):
        while not await true():  # noqa: ASYNC110 - the other side is a process
            await asyncio.sleep(0.05)


def service(uri, percent):
    return {
        "apiVersion": INFERENCE_SERVICE.api_version,
        "kind": INFERENCE_SERVICE.kind,
        "metadata": {"name": "digits", "namespace": "models"},
        "spec": {
            "predictor": {
                "canaryTrafficPercent": percent,
                "model": {"modelFormat": {"name": "onnx"}, "runtime": "server", "storageUri": uri},
            }
        },
    }


@pytest.mark.slow
async def test_a_canary_with_a_fault_under_load(tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "server.py").write_text(
        SERVER.replace("def do_GET", "def do_POST(self): self.do_GET()\n    def do_GET")
    )
    for answer in ("one", "two"):
        (tmp_path / answer).mkdir()
        (tmp_path / answer / "answer").write_text(answer)
        Image.new("L", (2, 2)).save(tmp_path / answer / "a.png")
    images = {IMAGE: {"entrypoint": [sys.executable, "-I", "-S", str(tmp_path / "server.py")]}}
    state = ("--state", tmp_path / "state")
    port = free_port()
    kubernetes = program("local.kubernetes", *state, "--ingress-port", port, "--images", json.dumps(images))
    ingress = program("local.ingress", "--kubeconfig", tmp_path / "state" / "kubeconfig", "--port", port)
    load = program(
        *("local.load", "--ingress", f"http://127.0.0.1:{port}", "--host", "digits-models.localhost"),
        *("--model", "digits", "--images", tmp_path / "one", "--rate", 100),
    )
    async with (
        kubernetes,
        ingress as (_, ingress_words),
        load as (_, load_words),
        aiohttp.ClientSession() as session,
        KubernetesClient.from_kubeconfig(tmp_path / "state" / "kubeconfig") as client,
    ):
        admin, generator = ingress_words[-1], load_words[-1]

        async def shares():
            async with session.get(f"{admin}/routes") as response:
                routes = await response.json()
            return {
                item["revision"][-1]: item["percent"] if item["endpoints"] else None
                for item in routes.get("digits-models.localhost", ())
            }

        async def statistics():
            async with session.get(f"{generator}/statistics") as response:
                return await response.json()

        async def requests():
            async with session.get(f"{admin}/metrics") as response:
                families = text_string_to_metric_families(await response.text())
            return {
                (sample.labels["kn_revision_name"][-1], sample.labels["http_response_status_code"]): sample.value
                for family in families
                for sample in family.samples
                if sample.name.endswith("_count")
            }

        async def shares_are(**wanted):
            wanted = {key.removeprefix("r"): value for key, value in wanted.items()}

            async def true():
                return await shares() == wanted

            await until(true)

        await client.apply(RUNTIME, field_manager="test")
        assert (await statistics())["waiting"]
        await client.apply(service(f"file://{tmp_path}/one", 0), field_manager="test")
        await shares_are(r1=100)
        await client.apply(service(f"file://{tmp_path}/two", 0), field_manager="test")
        await shares_are(r2=0, r1=100)

        # The user's traffic has not met the canary; its share is exact once it does.
        assert {revision for revision, _ in await requests()} <= {"1"}
        async with session.put(f"{admin}/faults/digits-predictor-00002", json={"error_rate": 1}) as response:
            assert response.status == 200
        await client.apply(service(f"file://{tmp_path}/two", 25), field_manager="test")
        await shares_are(r2=25, r1=75)
        before = await requests()

        async def enough():
            return sum((await requests()).values()) - sum(before.values()) >= 120

        await until(enough)
        after = await requests()
        canary = after[("2", "500")] - before.get(("2", "500"), 0)
        stable = after[("1", "200")] - before.get(("1", "200"), 0)
        assert canary / (canary + stable) == pytest.approx(0.25, abs=0.02)
        assert ("2", "200") not in after
        assert ("1", "500") not in after
        counted = await statistics()
        assert counted["failed"] == pytest.approx(after[("2", "500")], abs=10)
        assert set(counted["statuses"]) == {"200", "500"}

    state_folder = type("Cluster", (), {"state": tmp_path / "state"})
    assert processes(state_folder) == []
