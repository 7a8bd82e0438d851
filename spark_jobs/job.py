"""The frame of every job: read the specification, export the secret, work, write the result, and really end."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

from spark_jobs import storage
from spark_jobs.exceptions import JobError
from spark_jobs.lockbox import export_secret
from spark_jobs.specification import parse

Specification = TypeVar("Specification")
LAST_LINES_SECONDS = 0.2


def run_job(form: type[Specification], work: Callable[[Specification], dict[str, Any]]) -> NoReturn:
    """Run `work` on the specification of the command line and end the process: 0, or 1 with the reason on stderr."""
    started = time.monotonic()
    # Threads that wait for work in a loop take the cores from the processes beside them. Read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    parser = argparse.ArgumentParser(description=work.__doc__)
    parser.add_argument("--specification", required=True, help="JSON of the form " + form.__name__)
    text = parser.parse_args().specification
    try:
        specification: Any = parse(form, text)
        export_secret(specification.secret_id)
        result = {**work(specification), "seconds": round(time.monotonic() - started, 3)}
        storage.write_json(specification.result_uri, result)
        say(f"result written to {specification.result_uri} after {result['seconds']:.1f} s")
    except JobError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        _end(1)
    except BaseException:
        traceback.print_exc()
        _end(1)
    _end(0)


def say(text: str) -> None:
    """A line of progress in the driver's log."""
    print(text, flush=True)


def open_session(name: str, properties: Mapping[str, str] | None = None) -> Any:
    """The Spark session, with `properties` on top of those of the submission."""
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.appName(name)
    for key, value in (properties or {}).items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("WARN")
    return session


def satisfy_yarn(name: str) -> None:
    """Open a Spark session where YARN runs the driver: it fails an application that never made one."""
    if "CONTAINER_ID" in os.environ:
        open_session(name)


def _end(code: int) -> NoReturn:
    """End the process now.

    Spark's barrier stages and other libraries leave threads that keep a JVM or an interpreter alive. In client mode
    a JVM whose driver succeeded must be told to exit; after a failure spark-submit exits by itself. In cluster mode
    it must not be told, because YARN takes a System.exit before the driver's end for a failure, and ends the JVM.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    spark = sys.modules.get("pyspark")
    context = spark.SparkContext._active_spark_context if spark else None  # noqa: SLF001
    if code == 0 and context is not None and context.getConf().get("spark.submit.deployMode", "client") == "client":
        # The driver's last lines pass through the JVM.
        time.sleep(LAST_LINES_SECONDS)
        # The JVM goes before it can answer, which Py4J takes for an error.
        with contextlib.suppress(Exception):
            context._gateway.jvm.java.lang.System.exit(code)  # noqa: SLF001
    os._exit(code)
