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


async def until(true, seconds=30.0):
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


class Stack:
    """The running programs, and what they say."""

    def __init__(self, folder, session, client, ingress, generator):
        self.folder, self.session, self.client = folder, session, client
        self.ingress, self.generator = ingress, generator

    async def read(self, url):
        async with self.session.get(url) as response:
            return await response.json()

    async def apply(self, body):
        await self.client.apply(body, field_manager="test")

    async def fault(self, backend, **fault):
        async with self.session.put(f"{self.ingress}/faults/{backend}", json=fault) as response:
            assert response.status == 200

    async def statistics(self):
        return await self.read(f"{self.generator}/statistics")

    async def shares_are(self, **wanted):
        """The users' host is split so, by the last part of each backend's name, and each of these has a pod."""

        async def true():
            routes = await self.read(f"{self.ingress}/routes")
            return wanted == {
                short(item.get("revision") or item["service"]): item["percent"] if item["endpoints"] else None
                for item in routes.get("digits-models.localhost", ())
            }

        await until(true)

    async def requests(self, sample, backend, code):
        """Requests by backend and status code, from the counter `sample` with these labels."""
        async with self.session.get(f"{self.ingress}/metrics") as response:
            families = text_string_to_metric_families(await response.text())
        return {
            (short(item.labels[backend]), item.labels[code]): item.value
            for family in families
            for item in family.samples
            if item.name == sample
        }


def short(backend):
    """`r1` of digits-predictor-00001 and its pods, `stable` of digits-predictor, `v2` of digits-v2-predictor."""
    last = backend.partition("-deployment-")[0].removeprefix("digits-").removesuffix("predictor").strip("-") or "stable"
    return f"r{last[-1]}" if last.startswith("predictor") else last


@contextlib.asynccontextmanager
async def running(folder, *options):
    """The three programs, a model server's image and two model folders."""
    (folder / "state").mkdir()
    (folder / "server.py").write_text(SERVER.replace("def do_GET", "def do_POST(self): self.do_GET()\n    def do_GET"))
    for answer in ("one", "two"):
        (folder / answer).mkdir()
        (folder / answer / "answer").write_text(answer)
        Image.new("L", (2, 2)).save(folder / answer / "a.png")
    images = {IMAGE: {"entrypoint": [sys.executable, "-I", "-S", str(folder / "server.py")]}}
    port, kubeconfig = free_port(), folder / "state" / "kubeconfig"
    state = ("--state", folder / "state", "--ingress-port", port, "--images", json.dumps(images))
    async with (
        program("local.kubernetes", *state, *options),
        program("local.ingress", "--kubeconfig", kubeconfig, "--port", port) as (_, ingress_words),
        program(
            *("local.load", "--ingress", f"http://127.0.0.1:{port}", "--host", "digits-models.localhost"),
            *("--model", "digits", "--images", folder / "one", "--rate", 40),
        ) as (_, load_words),
        aiohttp.ClientSession() as session,
        KubernetesClient.from_kubeconfig(kubeconfig) as client,
    ):
        await client.apply(RUNTIME, field_manager="test")
        yield Stack(folder, session, client, ingress_words[-1], load_words[-1])
    assert processes(type("Cluster", (), {"state": folder / "state"})) == []


@pytest.mark.slow
async def test_a_canary_with_a_fault_under_load(tmp_path):
    async with running(tmp_path) as stack:

        async def requests():
            return await stack.requests(
                "kn_serving_invocation_duration_seconds_count", "pod", "http_response_status_code"
            )

        assert (await stack.statistics())["waiting"]
        await stack.apply(service(f"file://{tmp_path}/one", 0))
        await stack.shares_are(r1=100)
        await stack.apply(service(f"file://{tmp_path}/two", 0))
        await stack.shares_are(r2=0, r1=100)

        # The user's traffic has not met the canary; its share is exact once it does.
        assert {revision for revision, _ in await requests()} <= {"r1"}
        await stack.fault("digits-predictor-00002", error_rate=1)
        await stack.apply(service(f"file://{tmp_path}/two", 25))
        await stack.shares_are(r2=25, r1=75)
        before = await requests()

        async def enough():
            return sum((await requests()).values()) - sum(before.values()) >= 120

        await until(enough)
        after = await requests()
        canary = after[("r2", "500")] - before.get(("r2", "500"), 0)
        stable = after[("r1", "200")] - before.get(("r1", "200"), 0)
        assert canary / (canary + stable) == pytest.approx(0.25, abs=0.03)
        assert ("r2", "200") not in after
        assert ("r1", "500") not in after
        counted = await stack.statistics()
        assert counted["failed"] == pytest.approx(after[("r2", "500")], abs=10)
        assert set(counted["statuses"]) == {"200", "500"}


def standard_service(stable, *canaries):
    def predictor(uri, **fields):
        model = {"modelFormat": {"name": "onnx"}, "runtime": "server", "storageUri": uri}
        return {"model": model, **fields}

    body = service(stable[0], 0)
    body["spec"] = {"predictor": predictor(stable[0], **stable[1])}
    if canaries:
        body["spec"]["canary"] = [
            {"trafficPercent": percent, "predictor": predictor(uri, name="v2", minReplicas=1)}
            for uri, percent in canaries
        ]
    return body


@pytest.mark.slow
async def test_a_canary_in_standard_mode_is_promoted_without_a_failed_request(tmp_path):
    one, two = f"file://{tmp_path}/one", f"file://{tmp_path}/two"
    async with running(tmp_path, "--deployment-mode", "Standard") as stack:

        async def requests():
            return await stack.requests("istio_requests_total", "destination_service_name", "response_code")

        async def counted(backend, number):
            async def true():
                return (await requests()).get((backend, "200"), 0) >= number

            await until(true)

        await stack.apply(standard_service((one, {})))
        await stack.shares_are(stable=100)
        await stack.apply(standard_service((one, {}), (two, 0)))
        await stack.shares_are(stable=100, v2=0)
        routes = await stack.read(f"{stack.ingress}/routes")
        assert routes["digits-v2-predictor.models.svc.cluster.local"][0]["endpoints"]
        assert {backend for backend, _ in await requests()} <= {"stable"}

        await stack.apply(standard_service((one, {}), (two, 25)))
        await stack.shares_are(stable=75, v2=25)
        before = await requests()
        await counted("v2", before.get(("v2", "200"), 0) + 50)
        after = await requests()
        canary = after[("v2", "200")] - before.get(("v2", "200"), 0)
        stable = after[("stable", "200")] - before.get(("stable", "200"), 0)
        assert canary / (canary + stable) == pytest.approx(0.25, abs=0.03)

        await stack.apply(standard_service((two, {"name": "v2", "minReplicas": 1})))
        await stack.shares_are(v2=100)
        await counted("v2", after[("v2", "200")] + 50)
        assert {code for _, code in await requests()} == {"200"}
        assert set((await stack.statistics())["statuses"]) == {"200"}
