"""One pass over so many MLScalers: `python -m tests.benchmarks.scaling_tick [--scalers 100,1000,10000] [--json]`.

First the decision alone: forecast and policy, each scaler with a week of one-minute history. Then the whole tick
against the stand-ins of Kubernetes and Prometheus (`scaling_cluster`), which run in a process of their own on the same
cores: a first pass, in which every scaler and its target are written, and the third, as in any other minute. Time, peak
memory and how they grow; each size runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "plugins"))

import numpy as np

MINUTES = 10_080
NOW = 1_800_000_000.0
THREADS = 2
SPEC = {
    "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "measured"},
    "maxReplicas": 1000,
    "metric": {"query": "load"},
    "historySize": MINUTES,
    "capacityPerReplica": 50,
    "leadTimeSeconds": 180,
}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scaling_tick", description=__doc__)
    parser.add_argument("--scalers", default="100,1000,10000", help="sizes, with commas between them")
    parser.add_argument("--history", type=int, default=MINUTES, help="minutes that the whole tick reads of each scaler")
    parser.add_argument("--no-cache", action="store_true", help="let every tick read whole histories from Prometheus")
    parser.add_argument("--decision-only", action="store_true", help="leave the whole tick out")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--alone", choices=("decision", "tick"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = [int(size) for size in options.scalers.split(",")]
    if options.alone:
        measure: dict[str, Callable[[], dict[str, float]]] = {
            "decision": lambda: _measure(sizes[0]),
            "tick": lambda: _tick(sizes[0], options.history, cached=not options.no_cache),
        }
        print(json.dumps(measure[options.alone]()))
        return
    kinds = ("decision",) if options.decision_only else ("decision", "tick")
    found = [{"scalers": size, **{kind: _in_a_process(kind, size, options) for kind in kinds}} for size in sizes]
    if options.json:
        print(json.dumps(found, indent=1))
        return
    print(f"{'scalers':>8}  {'decision':>9}  {'of it policy':>12}  {'CPU':>8}  {'memory':>8}  of it histories")
    for row in found:
        one = row["decision"]
        print(
            f"{row['scalers']:>8,}  {one['seconds']:>7.2f} s  {one['policy_seconds']:>10.2f} s"
            f"  {one['cpu_seconds']:>6.2f} s  {one['peak_memory_mb']:>5.0f} MB  {one['histories_mb']:.0f} MB"
        )
    if "tick" in kinds:
        print(f"\n{'scalers':>8}  {'first tick':>10}  {'later one':>9}  {'CPU':>8}  {'memory':>8}  samples read")
    for row in found:
        if one := row.get("tick"):
            print(
                f"{row['scalers']:>8,}  {one['first_seconds']:>8.2f} s  {one['later_seconds']:>7.2f} s"
                f"  {one['cpu_seconds']:>6.2f} s  {one['peak_memory_mb']:>5.0f} MB  {one['samples']:,.0f}"
            )


def _in_a_process(kind: str, scalers: int, options: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.scaling_tick", "--alone", kind, "--scalers", str(scalers)]
    command += ["--history", str(options.history), *(["--no-cache"] if options.no_cache else [])]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def _tick(scalers: int, history: int, *, cached: bool) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.scaling_cluster", str(scalers), str(history)]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as cluster,
    ):
        assert cluster.stdin is not None
        assert cluster.stdout is not None
        try:
            where = json.loads(cluster.stdout.readline())
            cache = Path(folder) if cached else None
            return {**asyncio.run(_passes(where, cache)), "samples": scalers * history}
        finally:
            cluster.stdin.close()


async def _passes(where: dict[str, str], cache: Path | None) -> dict[str, float]:
    from ml_lifecycle.kubernetes.client import KubernetesClient
    from ml_lifecycle.prometheus.client import PrometheusClient
    from ml_lifecycle.scaling.reconciler import PassOptions, reconcile

    options, seconds = PassOptions(deadline_seconds=3600, history_cache=cache), []
    async with (
        KubernetesClient.from_kubeconfig(where["kubeconfig"]) as kubernetes,
        PrometheusClient(where["prometheus"], timeout=300) as prometheus,
    ):
        for number in range(3):
            cpu, begin = time.process_time(), time.perf_counter()
            decisions = await reconcile(kubernetes, prometheus, datetime.fromtimestamp(NOW + 60 * number, UTC), options)
            seconds.append(time.perf_counter() - begin)
            failed = [decision.why for decision in decisions if decision.error]
            if failed:
                raise SystemExit(f"{len(failed)} scalers were not served; the first: {failed[0]}")
    return {
        "first_seconds": seconds[0],
        "later_seconds": seconds[2],
        "cpu_seconds": time.process_time() - cpu,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _measure(scalers: int) -> dict[str, float]:
    from ml_lifecycle.scaling.forecast import Question, forecast
    from ml_lifecycle.scaling.policy import Observation, plans
    from ml_lifecycle.scaling.resource import parse_spec

    spec = parse_spec(SPEC)
    loads = _histories(scalers)
    steps = spec.stabilization_steps

    def questions(count: int) -> list[Question]:
        horizon = spec.horizon_steps(60)
        return [Question(row, spec.load_per_replica, horizon, spec.covered, steps, 60.0, NOW) for row in loads[:count]]

    forecast(questions(10))  # what is loaded once is not the pass's time
    begin, cpu = time.perf_counter(), time.process_time()
    answers = forecast(questions(scalers), threads=THREADS)
    between = time.perf_counter()
    seen = [
        Observation(
            replicas=4, load=float(row[-1]), recent_load=float(row[-steps:].max()), coverage=1.0, forecast=answer
        )
        for row, answer in zip(loads, answers, strict=True)
    ]
    plans([spec] * scalers, seen, NOW)
    end = time.perf_counter()
    return {
        "seconds": end - begin,
        "policy_seconds": end - between,
        "cpu_seconds": time.process_time() - cpu,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "histories_mb": loads.nbytes / 1e6,
    }


def _histories(scalers: int) -> np.ndarray:
    """[scaler, minute]: daily seasons of random size and phase with counting noise."""
    random = np.random.default_rng(0)
    minute = np.arange(MINUTES, dtype=np.float32)
    loads = np.empty((scalers, MINUTES), dtype=np.float32)
    for row in loads:
        mean = random.uniform(50, 500) * np.exp(np.sin(2 * np.pi * (minute / 1440 + random.random())))
        row[:] = mean + np.sqrt(mean) * random.standard_normal(MINUTES, dtype=np.float32)
    return np.maximum(loads, 0)


if __name__ == "__main__":
    main()
