"""How fast images reach the network: our shards beside the ImageFolder way and a bare decode-and-resize loop.

    python -m tests.benchmarks.loader [--images N] [--seconds S] [--rounds R] [--json]

JPEG photographs of two sizes, made here, end as batches of 224 × 224 floats on the CPU. The variants take turns, and a
ratio is the median over the rounds of what two neighbours reached, because other work on the machine comes and goes;
CPU time, of threads and worker processes together, hardly notices it. Files lie in the page cache. The bare loop is
decode, crop and resize from memory: no file, no batch, no normalising. What misses its aim is marked with an
exclamation mark.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from tests.benchmarks.loader_photographs import photograph, write_folder
from tests.benchmarks.loader_variants import BATCH, BareLoop, ImageFolderWay, Shards, Variant

FOLDER, PIXELS, FILES, BARE = "ImageFolder, Pillow", "shards of pixels", "shards of files", "bare decode and resize"
WORKERS = (0, 2)


@dataclass(frozen=True)
class Picture:
    """A size of photographs, how many fewer of them are made, and by how much `pixels` are to beat ImageFolder."""

    width: int
    height: int
    fewer: int
    aim: float


PICTURES = (Picture(500, 375, 1, 2.0), Picture(1600, 1200, 4, 10.0))
FILES_AIM = 0.9
MIN_BATCHES = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=256, help="photographs of 500 × 375; a quarter of 1600 × 1200")
    parser.add_argument("--seconds", type=float, default=1.2, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of every variant")
    parser.add_argument("--json", action="store_true", help="print every number as JSON instead of tables")
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=120, stderr=options.json)
    numbers: dict = {"machine": machine(), "loading": [], "ingest": []}
    console.print(numbers["machine"])
    with tempfile.TemporaryDirectory() as folder:
        for picture in PICTURES:
            random = np.random.default_rng(0)
            count = options.images // picture.fewer
            photographs = [photograph(random, picture.width, picture.height) for _ in range(count)]
            root = Path(folder) / str(picture.width)
            write_folder(root / "images", photographs, count)
            measured = compare(root, photographs, options)
            numbers["loading"] += [{"width": picture.width, "height": picture.height, **row} for row in measured]
            size = np.mean([len(each) for each in photographs]) / 1000
            console.print(loading_table(picture, size, measured))
            if picture is PICTURES[0]:
                numbers["ingest"] = measure_ingest(root, photographs, options.images)
                console.print(ingest_table(numbers["ingest"]))
    if options.json:
        print(json.dumps(numbers, indent=2))


def machine() -> str:
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    packages = ", ".join(f"{name} {version(name)}" for name in ("simplejpeg", "pillow", "pyarrow", "torch", "pyspark"))
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    return f"{cores} cores of {model} (load {load:.1f} at the start), Python {platform.python_version()}, {packages}"


def compare(root: Path, photographs: list[bytes], options: argparse.Namespace) -> list[dict]:
    """For every variant and number of workers the images per second, and the ratios to ImageFolder and bare loop."""
    variants: dict[str, Variant] = {
        FOLDER: ImageFolderWay(root / "images"),
        PIXELS: Shards(root, photographs, "pixels"),
        FILES: Shards(root, photographs, "files"),
        BARE: BareLoop(photographs),
    }
    rows = []
    for workers in WORKERS:
        lengths = {name: _length(variant, workers, options.seconds) for name, variant in variants.items()}
        rounds = [
            {name: _measure(variant, lengths[name], workers) for name, variant in variants.items()}
            for _ in range(options.rounds)
        ]
        rows += [
            {
                "variant": name,
                "workers": workers,
                "images_per_second": median(each[name].rate for each in rounds),
                "cpu_milliseconds": median(each[name].cpu_milliseconds for each in rounds),
                "to_image_folder": median(each[name].rate / each[FOLDER].rate for each in rounds),
                "to_bare_loop": median(each[name].rate / each[BARE].rate for each in rounds),
            }
            for name in variants
        ]
    return rows


@dataclass(frozen=True)
class Measured:
    """Images per second, and the CPU time of one."""

    rate: float
    cpu_milliseconds: float


def _length(variant: Variant, workers: int, seconds: float) -> int:
    """How many images take about `seconds`, in so many batches that workers end together; the trial warms up, too."""
    rate = _measure(variant, 2 * BATCH, workers).rate
    return max(MIN_BATCHES, 2 * round(rate * seconds / BATCH / 2)) * BATCH


def _measure(variant: Variant, rows: int, workers: int) -> Measured:
    started, cpu_started = perf_counter(), _cpu_seconds()
    variant(rows, workers)
    return Measured(rows / (perf_counter() - started), (_cpu_seconds() - cpu_started) / rows * 1000)


def _cpu_seconds() -> float:
    """Of this process and of those that it started and that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def loading_table(picture: Picture, size: float, rows: list[dict]) -> Table:
    title = f"{picture.width} × {picture.height}, {size:.0f} kB → 224 × 224, images per second"
    table = Table(title=title, title_justify="left", caption_justify="left")
    for column in ("", "workers", "images/s", "CPU ms", "× ImageFolder", "× bare loop", "aim"):
        table.add_column(column, justify="right" if column else "left")
    for row in rows:
        aim = ""
        if row["variant"] == PIXELS:
            aim = _judged(row["to_image_folder"], picture.aim, f"≥ {picture.aim:g} × ImageFolder")
        if row["variant"] == FILES:
            aim = _judged(row["to_bare_loop"], FILES_AIM, f"≥ {FILES_AIM:g} × bare loop")
        table.add_row(
            row["variant"], str(row["workers"]), f"{row['images_per_second']:,.0f}",
            f"{row['cpu_milliseconds']:.2f}", f"{row['to_image_folder']:.2f}",
            f"{row['to_bare_loop']:.2f}", aim, end_section=row["variant"] == BARE,
        )  # fmt: skip
    return table


def _judged(value: float, limit: float, aim: str) -> str:
    return aim if value >= limit else f"[red]! {aim}[/red]"


def measure_ingest(root: Path, photographs: list[bytes], images: int) -> list[dict]:
    """Ingest of an image folder on one core and on two."""
    count = 6 * images
    write_folder(root / "many", photographs, count)
    write_folder(root / "few", photographs, 64)
    rows = []
    for cores in (1, 2):
        command = [sys.executable, "-m", "tests.benchmarks.loader_ingest", "--cores", str(cores)]
        for name, place in (("warm-up", "few"), ("folder", "many"), ("prepared", f"prepared-{cores}")):
            command += [f"--{name}", str(root / place)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise SystemExit(ended.stderr)
        rate = count / float(ended.stdout.splitlines()[-1])
        rows.append({"cores": cores, "images": count, "images_per_second": rate, "per_core": rate / cores})
    return [{**row, "scaling": row["images_per_second"] / rows[0]["images_per_second"]} for row in rows]


def ingest_table(rows: list[dict]) -> Table:
    title = f"Ingest of {rows[0]['images']} files of 500 × 375 into shards of pixels (Spark, warm)"
    table = Table(title=title, title_justify="left")
    for column in ("cores", "images/s", "per core", "× one core"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            str(row["cores"]), f"{row['images_per_second']:,.0f}", f"{row['per_core']:,.0f}", f"{row['scaling']:.2f}"
        )
    return table


if __name__ == "__main__":
    main()
