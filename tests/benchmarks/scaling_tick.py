"""The decision of one pass alone: `python -m tests.benchmarks.scaling_tick [--scalers 100,1000,10000] [--json]`.

Forecast and policy for so many scalers, each with a week of one-minute history; time, peak memory and how they grow.
Each size runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
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
}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scaling_tick", description=__doc__)
    parser.add_argument("--scalers", default="100,1000,10000", help="sizes, with commas between them")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--alone", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(_measure(options.alone)))
        return
    found = [_in_a_process(int(size)) for size in options.scalers.split(",")]
    if options.json:
        print(json.dumps(found, indent=1))
        return
    print(
        f"{'scalers':>8}  {'forecast':>9}  {'policy':>8}  {'a scaler':>9}  {'CPU':>8}  {'memory':>9}  of it histories"
    )
    for row in found:
        print(
            f"{row['scalers']:>8,}  {row['forecast_seconds']:>7.2f} s  {row['policy_seconds']:>6.2f} s"
            f"  {1e3 * row['seconds_each']:>6.2f} ms  {row['cpu_seconds']:>6.2f} s"
            f"  {row['peak_memory_mb']:>6.0f} MB  {row['histories_mb']:.0f} MB"
        )


def _in_a_process(scalers: int) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.scaling_tick", "--alone", str(scalers)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _measure(scalers: int) -> dict[str, float]:
    from ml_lifecycle.scaling.forecast import Question, forecast
    from ml_lifecycle.scaling.policy import Observation, plans
    from ml_lifecycle.scaling.resource import parse_spec

    spec = parse_spec(SPEC)
    loads = _histories(scalers)
    steps = spec.stabilization_steps

    def questions(count: int) -> list[Question]:
        horizon = spec.horizon_steps(60)
        return [Question(row, spec.load_per_replica, horizon, spec.quantile, steps, 60.0, NOW) for row in loads[:count]]

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
        "scalers": scalers,
        "forecast_seconds": between - begin,
        "policy_seconds": end - between,
        "seconds_each": (end - begin) / scalers,
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
