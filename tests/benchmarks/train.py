"""What the training job costs beside the bare loop that it wraps, and how it scales with processes.

`python -m tests.benchmarks.train [--seconds S] [--json]`. Images per second of an epoch of `spark_jobs.training`
(shuffled Parquet shards, clipping, metrics, preemption) against a single-file torch loop with the same model, batch
size, optimizer and threads: once over the same shards, once over tensors in memory, once as one would write it first
(in memory, without channels-last and the fused optimizer). Epochs are interleaved in an order drawn anew each round and
medians compared; and one thread is measured in seconds of its processor, because the machine has other things to do.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from spark_jobs import storage
from spark_jobs.measurement import refresh_statistics
from spark_jobs.network import ResNet
from spark_jobs.preemption import Preemption
from spark_jobs.prepared import DOCUMENT, FORMAT, PreparedDataset, read_dataset, read_shard, write_shard
from spark_jobs.process_group import ProcessGroup, join
from spark_jobs.specification import TrainSpecification
from spark_jobs.training import Training
from spark_jobs.training_report import TrainingReport

REPOSITORY = Path(__file__).parents[2]
AIM = 0.95
CLASSES = 10
SHARD = 512
# Side of the images, channels, width, images of a batch, batches of an epoch.
NETWORKS = {"small": (32, 1, 16, 64, 16), "middle": (64, 3, 32, 32, 16)}
# Processes and threads of each.
SHAPES = ((1, 1), (1, 2), (2, 1))
PLAIN = {
    "shards": "plain loop, same shards",
    "memory": "plain loop, in memory",
    "first": "plain loop as first written",
}
CPU = torch.device("cpu")


def write_prepared(uri: str, size: int, channels: int, images: int) -> None:
    """A prepared dataset of random images, a fifth of them held out."""
    random = np.random.default_rng(0)
    preprocessing = {"image_size": size, "channels": channels, "mean": [0.5] * channels, "std": [0.25] * channels}
    document: dict[str, Any] = {"format": FORMAT, "digest": "random", "encoding": "pixels"}
    document |= {"classes": [str(number) for number in range(CLASSES)], "preprocessing": preprocessing}
    for split, rows in (("train", images), ("holdout", images // 4)):
        document[split] = []
        for shard, start in enumerate(range(0, rows, SHARD)):
            count = min(SHARD, rows - start)
            # Compressible, as images are.
            pixels = random.integers(0, 16, (count, size, size, channels), np.uint8) * 16
            file = f"{split}/shard-{shard:05d}.parquet"
            labels = random.integers(0, CLASSES, count).tolist()
            write_shard(storage.join(uri, file), labels, [image.tobytes() for image in pixels])
            document[split].append({"file": file, "rows": count})
    storage.write_json(storage.join(uri, DOCUMENT), document)


def specification(name: str, folder: Path, processes: int = 1) -> TrainSpecification:
    """A training of this network; the dataset is written where it is missing."""
    size, channels, width, batch_size, batches = NETWORKS[name]
    uri = f"file://{folder}/prepared/{name}"
    if not storage.exists(storage.join(uri, DOCUMENT)):
        write_prepared(uri, size, channels, batch_size * batches)
    return TrainSpecification(
        image_size=size, channels=channels, prepared_uri=uri, tracking_uri="", run_id="", result_uri="",
        checkpoint_uri=f"file://{folder}/checkpoints/{name}-{processes}", epochs=100_000, fraction=1.0,
        batch_size=batch_size, accumulation=1, learning_rate=1e-3, weight_decay=0.05, label_smoothing=0.0,
        class_weights="none", flip=False, shift=0.0, validation=0.0, patience=None, processes=processes,
        loader_workers=None, width=width, depth=1, initial_state=None, precision="auto", checkpoint_minutes=10.0,
        seed=0, gpu=False, secret_id=None,
    )  # fmt: skip


def ours(told: TrainSpecification, group: ProcessGroup | None = None) -> Training:
    """Our training, which logs nowhere: MLflow has a thread of its own, and its server is not what is measured."""
    return Training(told, group or ProcessGroup(), CPU, Preemption(), TrainingReport(None))


def plain(told: TrainSpecification, form: str) -> Callable[[], None]:
    """An epoch of a loop that does nothing but learn."""
    dataset = read_dataset(told.prepared_uri, image_size=told.image_size, channels=told.channels)
    tuned = form != "first"
    torch.manual_seed(told.seed)
    network = ResNet(classes=CLASSES, channels=told.channels, width=told.width, image_size=told.image_size)
    network = network.to(memory_format=torch.channels_last if tuned else torch.contiguous_format)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=told.learning_rate, weight_decay=told.weight_decay, fused=tuned or None
    )
    held = None if form == "shards" else torch.cat([images for images, _ in shards(dataset)])
    labels_held = None if held is None else torch.cat([labels for _, labels in shards(dataset)])
    network.train()

    def learn(images: Tensor, labels: Tensor) -> None:
        for which in torch.randperm(len(labels)).split(told.batch_size):
            batch = images[which]
            loss = nn.functional.cross_entropy(
                network(batch.to(memory_format=torch.channels_last) if tuned else batch), labels[which]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def epoch() -> None:
        for images, labels in shards(dataset) if held is None or labels_held is None else [(held, labels_held)]:
            learn(images, labels)

    return epoch


def shards(dataset: PreparedDataset) -> Iterator[tuple[Tensor, Tensor]]:
    """One shard after the other, as tensors."""
    for shard in dataset.train:
        pixels, labels = read_shard(shard.uri, dataset.preprocessing)
        yield torch.from_numpy(dataset.preprocessing.normalise(pixels)), torch.from_numpy(labels)


def compare(name: str, folder: Path, seconds: float, threads: int) -> dict[str, Any]:
    """Images per second of every form, the ratios, and what the end of an epoch costs."""
    torch.set_num_threads(threads)
    told = specification(name, folder)
    training = ours(told)
    epochs: dict[str, Callable[[], None]] = {"ours": lambda: training._train_batches(0)}
    epochs |= {form: plain(told, form) for form in PLAIN}
    rates: dict[str, list[float]] = {form: [] for form in epochs}
    deadline = time.monotonic() + seconds
    rounds, order = 0, np.random.default_rng(0)
    while rounds < 4 or (time.monotonic() < deadline and rounds < 60):
        # What a neighbour leaves in the caches hits now one, now another.
        for form in order.permutation(list(epochs)):
            taken = clocked(epochs[form], time.process_time if threads == 1 else time.perf_counter)
            if rounds:  # the first round warms up
                rates[form].append(training.data.images / taken)
        rounds += 1
    medians = {form: statistics.median(values) for form, values in rates.items()}
    ratios = {form: medians["ours"] / medians[form] for form in PLAIN}
    data, network = training.data, training.learner.network
    ends = {
        "statistics": lambda: refresh_statistics(network, data.load(data.training), CPU, training.group),
        "hold-out": lambda: training._measure(data.holdout),
        "checkpoint": training._write_checkpoint,
    }
    end = {what: statistics.median(clocked(act, time.process_time) for _ in range(3)) for what, act in ends.items()}
    step = told.batch_size / medians["ours"]
    return {
        "images_per_second": medians,
        "ratio": ratios,
        "rounds": rounds - 1,
        "end_of_epoch_steps": {what: taken / step for what, taken in end.items()},
        "epoch_steps": data.batches,
    }


def clocked(act: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds that it takes."""
    started = clock()
    act()
    return clock() - started


def scale(folder: Path, seconds: float) -> dict[str, float]:
    """Images per second of the middle network in every shape, each in processes of its own, in turn."""
    rates: dict[str, list[float]] = {f"{processes}x{threads}": [] for processes, threads in SHAPES}
    rounds = 2
    # As the job does: threads that wait in a loop take the cores from those that work.
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    for _ in range(rounds):
        for processes, threads in SHAPES:
            launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m"]
            told = ["--process", str(folder), str(threads), str(seconds / rounds / len(SHAPES))]
            ended = subprocess.run(
                [sys.executable, *launcher, "tests.benchmarks.train", *told],
                cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if ended.returncode:
                raise RuntimeError(ended.stdout + ended.stderr)
            rates[f"{processes}x{threads}"].append(float(ended.stdout.split("rate ")[1].split()[0]))
    return {shape: statistics.median(values) for shape, values in rates.items()}


def one_process(folder: Path, threads: int, seconds: float) -> None:
    """What torchrun starts: epochs until the time is over, the median of their images per second."""
    with join(CPU) as group:
        torch.set_num_threads(threads)
        training = ours(specification("middle", folder, group.size), group)
        training._train_batches(0)
        rates: list[float] = []
        deadline = time.monotonic() + seconds
        while group.from_first(len(rates) < 2 or time.monotonic() < deadline):
            rates.append(training.data.rows * group.size / clocked(lambda: training._train_batches(0)))
        if group.rank == 0:
            print("rate", statistics.median(rates), flush=True)


def machine() -> str:
    """Where this was measured."""
    with Path("/proc/cpuinfo").open() as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    return f"{names[0] if names else platform.machine()}, {cores} cores, load {load:.1f}, torch {torch.__version__}"


def show(report: dict[str, Any]) -> None:
    """The report as tables."""
    console = Console(width=None if sys.stdout.isatty() else 130)
    console.print(f"[bold]Training[/bold] on {report['machine']}")
    unit = (
        "images a processor second, one thread" if report["threads"] == 1 else f"images/s, {report['threads']} threads"
    )
    table = Table("network", "the job", *PLAIN.values(), f"first ≥ {AIM}", title=unit)
    for name, found in report["networks"].items():
        size, channels, width, batch, _ = NETWORKS[name]
        rates, ratio = found["images_per_second"], found["ratio"]
        cells = [f"{rates[form]:.0f} ({ratio[form]:.2f}×)" for form in PLAIN]
        met = "[green]met[/green]" if ratio["shards"] >= AIM else "[red]missed[/red]"
        shape = f"{name}: {size} px × {channels}, width {width}, batch {batch}"
        table.add_row(shape, f"{rates['ours']:.0f}", *cells, met)
    console.print(table)
    ends = Table("network", "statistics", "hold-out of a quarter", "checkpoint", title="after an epoch, in steps")
    for name, found in report["networks"].items():
        cells = [f"{steps:.1f}" for steps in found["end_of_epoch_steps"].values()]
        ends.add_row(f"{name}, an epoch of {found['epoch_steps']} steps", *cells)
    console.print(ends)
    scaling = Table("processes × threads", "images/s", "against 1 × 1", title="middle network, wall-clock")
    for shape, rate in report["scaling"].items():
        scaling.add_row(shape.replace("x", " × "), f"{rate:.0f}", f"{rate / report['scaling']['1x1']:.2f}×")
    console.print(scaling)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=90, help="time to measure, starts of processes not counted")
    parser.add_argument("--threads", type=int, default=1, help="threads of the comparison")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--process", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.process:
        folder, threads, seconds = arguments.process
        one_process(Path(folder), int(threads), float(seconds))
        return
    report: dict[str, Any] = {"machine": machine(), "threads": arguments.threads, "aim": AIM}
    with tempfile.TemporaryDirectory() as folder:
        share = arguments.seconds / 3
        report["networks"] = {name: compare(name, Path(folder), share, arguments.threads) for name in NETWORKS}
        report["scaling"] = scale(Path(folder), share)
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        show(report)


if __name__ == "__main__":
    main()
