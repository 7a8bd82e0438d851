"""Many rollouts at once, in one triggerer: `python -m tests.benchmarks.rollouts [--services 200] [--looks 60,5]`.

Every service has version 1 live; version 2 of all of them is opened, looked at and closed at the same time, by the
operators' own calls and by the real triggers in Airflow's own triggerer. One service in ten has a bad version 2. Four
processes: this one (the workers), the triggerer, the Kubernetes API and what answers as Prometheus.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import local  # noqa: F401  puts plugins/ on the path

os.environ |= {"AIRFLOW__CORE__LOAD_EXAMPLES": "False", "AIRFLOW__CORE__UNIT_TEST_MODE": "False"}

import psutil
from rich.console import Console
from rich.table import Table

from tests.benchmarks import rollouts_cluster, rollouts_prometheus, rollouts_triggerer

NAMESPACES = tuple(f"team-{index}" for index in range(20))
HOLDER = "roll_out_model/benchmark"
PHASES = {"opening": "RevisionReadyTrigger", "canary": "CanaryTrigger", "closing": "CloseTrigger"}
ENDS = {"opening": "ready", "canary": "decided", "closing": "closed"}
WORKERS = 8
_PROCESSES = multiprocessing.get_context("spawn")


def namespace_of(service: str) -> str:
    """Its team's."""
    return NAMESPACES[int(service[-3:]) % len(NAMESPACES)]


def is_bad(service: str) -> bool:
    """One service in ten."""
    return service.endswith("0")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.rollouts", description=__doc__)
    parser.add_argument("--services", type=int, default=200)
    parser.add_argument("--looks", default="60,5", help="seconds between two looks, with commas between")
    parser.add_argument("--json", type=Path, help="write every number to this file")
    options = parser.parse_args()
    found = [_measured(options.services, float(seconds)) for seconds in options.looks.split(",")]
    Console(width=140).print(_table(found))
    for each in found:
        print(
            f"looks of {each['look_seconds']:g} s: {each['decided']}, {each['wrong']} of them wrong, "
            f"{each['left_open']} left open; requests of a rollout: {each['requests']}; load average {each['load']:.1f}"
        )
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    sys.exit(any(each["wrong"] + each["left_open"] for each in found))


def _measured(services: int, look_seconds: float) -> dict:
    with tempfile.TemporaryDirectory() as folder, _world(Path(folder)) as (cluster, triggerer, runner):
        names = [f"model-{index:03d}" for index in range(services)]
        bench = Bench(Path(folder), names, look_seconds, cluster, triggerer, runner)
        return asyncio.run(bench.run())


@contextmanager
def _world(folder: Path):
    """The three other processes: pipes to the cluster and the triggerer, and the runner's process."""
    processes = []

    def started(target, *arguments):
        here, there = _PROCESSES.Pipe()
        process = _PROCESSES.Process(target=target, args=(*arguments, there))
        process.start()
        processes.append(process)
        return here

    try:
        cluster = started(rollouts_cluster.serve, folder / "cluster", NAMESPACES)
        connection = cluster.recv()
        kubeconfig = json.loads(connection)["extra"]["kube_config_path"]
        prometheus = started(rollouts_prometheus.serve, Path(kubeconfig), is_bad)
        address = {"conn_type": "http", "host": "127.0.0.1", "port": prometheus.recv()}
        environment = {
            "AIRFLOW_HOME": str(folder / "airflow"),
            "AIRFLOW_CONN_KUBERNETES_DEFAULT": connection,
            "AIRFLOW_CONN_PROMETHEUS_DEFAULT": json.dumps(address),
        }
        os.environ.update(environment)
        triggerer = started(rollouts_triggerer.serve, folder, environment)
        yield cluster, triggerer, _runner(processes[-1])
        triggerer.send(None)
        processes[-1].join(30)
    finally:
        for process in processes:
            for child in psutil.Process(process.pid).children(recursive=True) if process.is_alive() else ():
                child.kill()
            process.kill()
            process.join()


def _runner(process) -> psutil.Process:
    """The process in which the triggers run: the triggerer's only child."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if children := psutil.Process(process.pid).children():
            return children[0]
        time.sleep(0.1)
    raise TimeoutError("the triggerer has not started its runner")


class Bench:
    """One round: all services from version 1 to version 2."""

    def __init__(self, folder, names, look_seconds, cluster, triggerer, runner) -> None:
        self.folder, self.names, self.look_seconds = folder, names, look_seconds
        self.cluster, self.triggerer, self.runner = cluster, triggerer, runner
        self.events: dict[int, asyncio.Future] = {}
        self.seconds = Counter()  # of all rollouts together, by phase
        self.peak = 0

    async def run(self) -> dict:
        from ml_lifecycle.kserve.client import connect

        receiving = asyncio.create_task(self._receive())
        sampling = asyncio.create_task(self._sample())
        async with connect("kubernetes_default", HOLDER) as client:
            await self._make_live(client)
            numbers, counts, cpu = {}, [self._counted()], [self._cpu()]
            began = time.time()
            for phase in PHASES:
                print(f"looks of {self.look_seconds:g} s: {len(self.names)} rollouts, {phase}", file=sys.stderr)
                numbers[phase] = await self._together(phase, client)
                counts.append(self._counted())
                cpu.append((self._cpu(), time.time()))
            left = await self._left_open(client)
        receiving.cancel(), sampling.cancel()
        return self._result(numbers, counts, cpu, began, left)

    async def _together(self, phase, client):
        """One phase of all rollouts at once; the events by service."""
        workers = asyncio.Semaphore(WORKERS)

        async def one(number, name):
            async with workers:
                await self._task(phase, client, name)
            begun = time.monotonic()
            event = await self._triggered(phase, number, name)
            self.seconds[phase] += time.monotonic() - begun
            return name, event

        first = 1000 * list(PHASES).index(phase)
        return dict(await asyncio.gather(*(one(first + number, name) for number, name in enumerate(self.names, 1))))

    async def _task(self, phase, client, name):
        """What the task does on a worker before it defers; each task is a driver of its own, as its process is."""
        from ml_lifecycle.kserve.client import RolloutClient
        from ml_lifecycle.kserve.rollout import begin_canary

        client = RolloutClient(client.kubernetes, HOLDER)

        if phase == "opening":
            await client.open(self._request(name, 2), "{}")
        if phase == "canary":
            await client.save(begin_canary(await client.own(namespace_of(name), name)))

    async def _triggered(self, phase, number, name):
        look = self.look_seconds
        arguments = {
            "kubernetes_conn_id": "kubernetes_default",
            "namespace": namespace_of(name),
            "service": name,
            "holder": HOLDER,
            "poll_seconds": {"opening": min(5.0, look / 2), "canary": look, "closing": min(2.0, look)}[phase],
        }
        self.events[number] = asyncio.get_running_loop().create_future()
        self.triggerer.send((number, f"ml_lifecycle.kserve.triggers.{PHASES[phase]}", arguments))
        event = await self.events[number]
        if event["status"] != ENDS[phase]:
            raise RuntimeError(f"{phase} of {name}: {event}")
        return event

    async def _receive(self):
        while True:
            while self.triggerer.poll():
                number, payload = self.triggerer.recv()
                self.events[number].set_result(payload)
            await asyncio.sleep(0.05)

    async def _sample(self):
        while True:
            self.peak = max(self.peak, self.runner.memory_info().rss)
            await asyncio.sleep(1)

    def _request(self, name, version):
        from ml_lifecycle.kserve.request import RolloutRequest
        from ml_lifecycle.settings import parse_settings

        dwell = max(20.0, self.look_seconds)
        plan = {
            "rollout.steps": [10, 50, 100],
            "rollout.dwell_seconds": dwell,
            "rollout.look_seconds": self.look_seconds,
            "rollout.deadline_minutes": 30,
            "rollout.floor": 0.01,
            "serving.namespace": namespace_of(name),
        }
        settings = parse_settings({"defaults": {"data_lake": "file:///lake"}, "locked": []}, name, plan)
        return RolloutRequest.of(settings, version=str(version))

    async def _make_live(self, client):
        from ml_lifecycle.kserve.client import FIELD_MANAGER
        from ml_lifecycle.kserve.manifest import Templates
        from ml_lifecycle.kserve.predictor import predictor
        from ml_lifecycle.kubernetes.resource import INFERENCE_SERVICE
        from ml_lifecycle.resources import resource

        templates = Templates(resource("k8s_templates"))
        for name in self.names:
            request = self._request(name, 1)
            runtime = templates.serving_runtime(request.serving)
            await client.kubernetes.apply(runtime, field_manager=FIELD_MANAGER)
            wanted = predictor(request.serving, request.storage_uri, runtime["metadata"]["name"])
            manifest = templates.inference_service(name, namespace_of(name), wanted, None)
            await client.kubernetes.apply(manifest, field_manager=FIELD_MANAGER)
        while True:
            found = await client.kubernetes.list(INFERENCE_SERVICE)
            components = [item.get("status", {}).get("components", {}).get("predictor", {}) for item in found]
            if all(component.get("latestRolledoutRevision") for component in components):
                return
            await asyncio.sleep(1)

    async def _left_open(self, client):
        """Services with an open canary or a held Lease: there should be none."""
        from ml_lifecycle.kubernetes.resource import INFERENCE_SERVICE, LEASE

        services = await client.kubernetes.list(INFERENCE_SERVICE)
        held = await client.kubernetes.list(LEASE)
        return sum("canaryTrafficPercent" in item["spec"]["predictor"] for item in services) + sum(
            bool(item["spec"].get("holderIdentity")) for item in held
        )

    def _counted(self):
        self.cluster.send("count")
        return self.cluster.recv()

    def _cpu(self):
        used = self.runner.cpu_times()
        return used.user + used.system

    def _result(self, numbers, counts, cpu, began, left):
        services = len(self.names)
        moments = [began, *(at for _, at in cpu[1:])]
        used = [cpu[0], *(each for each, _ in cpu[1:])]
        phases = {}
        for index, phase in enumerate(PHASES):
            lasted, asked = moments[index + 1] - moments[index], counts[index + 1] - counts[index]
            phases[phase] = {
                "seconds": lasted,
                "cpu": (used[index + 1] - used[index]) / lasted,
                "requests_each": asked.total() / services,
                "requests_per_minute": 60 * asked.total() / self.seconds[phase],
            }
        asked = counts[-1] - counts[0]
        decided = {name: event["decision"] for name, event in numbers["canary"].items()}
        expected = {name: "rolled_back" if is_bad(name) else "promoted" for name in self.names}
        return {
            "services": services,
            "look_seconds": self.look_seconds,
            "decided": dict(Counter(decided.values())),
            "wrong": sum(decided[name] != expected[name] for name in self.names),
            "left_open": left,
            **_lag([json.loads(line) for line in (self.folder / "looks.jsonl").read_text().splitlines()]),
            "phases": phases,
            "requests_per_minute": 60 * asked.total() / sum(self.seconds.values()),
            "requests": {kind: round(count / services, 1) for kind, count in asked.most_common()},
            "peak_mb": self.peak / 1e6,
            "load": os.getloadavg()[1],
        }


def _lag(looks):
    """Seconds of the slowest looks: from when one was due to its beginning and its end; of first ones, their time."""
    first, later = ([each for each in looks if each["first"] is kind] for kind in (True, False))
    return {
        "looks": len(looks),
        "slowest_begin": max(each["begun"] - each["due"] for each in later),
        "slowest_end": max(each["ended"] - each["due"] for each in later),
        "slowest_first": max(each["ended"] - each["begun"] for each in first),
        "median_look": statistics.median(each["ended"] - each["begun"] for each in later),
    }


def _table(found) -> Table:
    table = Table(title=f"{found[0]['services']} rollouts at once, one triggerer")
    columns = (
        "looks every",
        "looks",
        "slowest begins",
        "ends after due",
        "first look",
        "CPU",
        "memory",
        "API requests a rollout and minute",
        "opening + canary + closing, each",
    )
    for heading in columns:
        table.add_column(heading, justify="right")
    for each in found:
        phases = each["phases"].values()
        table.add_row(
            f"{each['look_seconds']:g} s",
            f"{each['looks']:,}",
            f"{each['slowest_begin']:.2f} s",
            f"{each['slowest_end']:.2f} s",
            f"{each['slowest_first']:.2f} s",
            f"{each['phases']['canary']['cpu']:.0%}",
            f"{each['peak_mb']:.0f} MB",
            f"{each['requests_per_minute']:.1f}",
            " + ".join(f"{phase['requests_each']:.0f}" for phase in phases),
        )
    return table


if __name__ == "__main__":
    main()
