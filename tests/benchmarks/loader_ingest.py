"""How fast ingest is: the job itself, on `local[cores]`, after a small ingest has warmed Spark up.

Run by `tests.benchmarks.loader`; prints seconds as JSON.
"""

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path
from time import perf_counter

from pyspark.sql import SparkSession

from spark_jobs.ingest import SESSION, ingest
from spark_jobs.specification import IngestSpecification

REPOSITORY = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cores", type=int, required=True)
    parser.add_argument("--warm-up", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--prepared", type=Path, required=True)
    options = parser.parse_args()
    os.environ |= {"PYSPARK_PYTHON": sys.executable, "PYTHONPATH": str(REPOSITORY)}
    builder = SparkSession.builder.master(f"local[{options.cores}]")
    local = {"spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1", "spark.ui.enabled": "false"}
    for key, value in (SESSION | local).items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    with contextlib.redirect_stdout(sys.stderr):
        ingest(_specification(options.warm_up, options.prepared))
        started = perf_counter()
        ingest(_specification(options.folder, options.prepared))
        seconds = perf_counter() - started
    print(json.dumps(seconds))
    session.stop()


def _specification(folder: Path, prepared: Path) -> IngestSpecification:
    return IngestSpecification(
        image_size=224, channels=3, dataset_uri=f"file://{folder}", prepared_base_uri=f"file://{prepared}",
        holdout=0.2, max_corrupt=0.01, shard_rows=512, encoding="pixels", result_uri="", secret_id=None,
    )  # fmt: skip


if __name__ == "__main__":
    main()
