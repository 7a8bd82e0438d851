"""The stack as one object: up, down, status."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import httpx

from local.stack.cluster import Cluster
from local.stack.dataset import Subject, provide
from local.stack.environment import (
    airflow_configuration,
    base_environment,
    connections,
    real,
    settings,
    write_exports,
)
from local.stack.environment_archive import build_environment_archive
from local.stack.exceptions import StackError
from local.stack.layout import REPOSITORY, Layout
from local.stack.processes import Process, Processes, wait_until
from local.stack.services import VENV, Service, airflow, stand_ins

Progress = Callable[[str], None]


class Stack:
    """Everything that runs on the laptop for one state folder.

    `dags` and `plugins` are what Airflow loads: the checkout's, or a bundle's; `deferrable` is Airflow's default.
    """

    def __init__(
        self,
        layout: Layout | None = None,
        *,
        dags: Path = REPOSITORY / "dags",
        plugins: Path = REPOSITORY / "plugins",
        deferrable: bool = True,
    ) -> None:
        self.layout = layout or Layout.default()
        self._dags, self._plugins, self._deferrable = dags, plugins, deferrable
        self.processes = Processes(self.layout.processes)

    def up(self, progress: Progress = print) -> None:
        """Start everything and wait until it serves; on any failure stop what was started and raise StackError."""
        if running := [process.name for process in self.processes.all() if process.alive()]:
            raise StackError(
                f"the stack is already up ({', '.join(running)}): `make status` shows it, `make down` stops it"
            )
        self.processes.stop_all(grace_seconds=1)
        self.layout.forget_ports()
        try:
            self._start(progress)
        except BaseException:
            self.down()
            raise

    def provide(self, source: Path | None) -> Subject:
        """Bring what is trained into the data lake; StackError where it is no folder or the lake is not here."""
        if (lake := real("DATA_LAKE")) and not lake.startswith("file://"):
            if source is not None:
                raise StackError(f"copy {source} to {lake}/datasets/<name>/ yourself: make does not write to buckets")
            return Subject("digits", "digits", provide(self.layout.data_lake, None).folder)
        return provide(self.layout.data_lake, source)

    def start_load(self, model: str, images: Path, rate: float) -> None:
        """Send requests to the model as its users would; they wait quietly until it is served."""
        host = real("SERVICE_HOST") or f"{model}-models.localhost"
        if real("KUBECONFIG") and not (real("INGRESS") and real("SERVICE_HOST")):
            raise StackError(
                "a canary needs requests: on a real cluster name its ingress and the service's host, "
                "INGRESS=http://address:port SERVICE_HOST=<service>-predictor.<namespace>.<domain>"
            )
        process = self.processes.start(
            "load",
            [str(VENV / "python"), "-m", "local.load", "--ingress", real("INGRESS") or self.layout.url("ingress")]
            + ["--host", host, "--model", model, "--images", str(images)]
            + ["--rate", str(rate), "--admin-port", str(self.layout.ports["load"])],
            environment=base_environment(),
            log=self.layout.logs / "load.log",
            folder=REPOSITORY,
            url=self.layout.url("load"),
        )
        wait_until(lambda: bool(self.load_statistics()), process, timeout=30)

    def set_load(self, rate: float) -> None:
        """Requests a second from now on."""
        body = {"requests_per_second": rate}
        httpx.put(f"{self.layout.url('load')}/rate", json=body, timeout=5).raise_for_status()

    def load_statistics(self) -> dict[str, Any]:
        """What became of the requests; empty where no load is sent."""
        try:
            found: dict[str, Any] = httpx.get(f"{self.layout.url('load')}/statistics", timeout=2).json()
        except httpx.TransportError:
            return {}
        return found

    @property
    def kubeconfig(self) -> Path:
        """Of the serving cluster, real or not."""
        named = real("KUBECONFIG")
        return Path(named).resolve() if named else self.layout.state / "kubernetes" / "kubeconfig"

    def down(self) -> list[str]:
        """Stop every process; returns the names of those that had to be killed."""
        return self.processes.stop_all()

    def alive(self) -> list[Process]:
        """The processes that run."""
        return [process for process in self.processes.all() if process.alive()]

    @property
    def environment(self) -> dict[str, str]:
        """Connections, settings and configuration for Airflow."""
        file = self.layout.state / "environment.json"
        return dict(json.loads(file.read_text()))

    def wipe(self) -> None:
        """Forget the last stack's data: databases, models, clusters. The logs are begun anew."""
        if self.alive():
            raise StackError("the stack is up: `make down` first")
        for entry in ("airflow", "data_lake", "kubernetes", "mlflow", "prometheus", "yandex", "logs/tasks"):
            shutil.rmtree(self.layout.state / entry, ignore_errors=True)

    def _start(self, progress: Progress) -> None:
        """Start what needs nothing, then Airflow beside it, then what needs the others; then wait for all."""
        services = list(stand_ins(self.layout))
        progress("starting " + ", ".join(service.name for service in services))
        archive = build_environment_archive(self.layout.state / "environment")
        variables = {
            **airflow_configuration(self.layout, self._dags, self._plugins, deferrable=self._deferrable),
            **connections(self.layout, self.kubeconfig),
            "AIRFLOW_VAR_ML_LIFECYCLE": json.dumps(settings(self.layout, archive)),
        }
        started = self._launch(service for service in services if not service.needs)
        migration = self._migrate(variables)
        self._await(started, "yandex")
        variables |= self._yandex_variables()
        self._remember(variables)
        if migration.wait() != 0:
            raise StackError(f"airflow db migrate failed (log: {self.layout.logs / 'airflow-migrate.log'})")
        progress("starting Airflow: API server, scheduler, DAG processor, triggerer")
        started |= self._launch(airflow(self.layout, variables))
        for service in services:
            self._await(started, *service.needs)
            if service.needs:
                started |= self._launch([service])
        self._await(started, *started)
        Cluster(self.kubeconfig).prepare()

    def _launch(self, services: Iterable[Service]) -> dict[str, tuple[Service, Process]]:
        """Start them all; wait for none."""
        return {
            service.name: (
                service,
                self.processes.start(
                    service.name,
                    service.command,
                    environment={**base_environment(), **service.environment},
                    log=self.layout.logs / f"{service.name}.log",
                    folder=service.folder,
                    url=service.url,
                ),
            )
            for service in services
        }

    def _await(self, started: dict[str, tuple[Service, Process]], *names: str) -> None:
        """Wait until those of them that were started serve."""
        for service, process in (started[name] for name in names if name in started):
            wait_until(service.ready, process, timeout=service.timeout)

    def _migrate(self, variables: dict[str, str]) -> subprocess.Popen[bytes]:
        self.layout.logs.mkdir(parents=True, exist_ok=True)
        with (self.layout.logs / "airflow-migrate.log").open("wb") as log:
            return subprocess.Popen(
                [str(VENV / "airflow"), "db", "migrate"],
                env={**base_environment(), **variables},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _yandex_variables(self) -> dict[str, str]:
        """The stand-in writes its connection and its certificate's place when it starts."""
        if real("YC_SERVICE_ACCOUNT_KEY"):
            return {}
        return dict(json.loads((self.layout.state / "yandex" / "env.json").read_text()))

    def _remember(self, variables: dict[str, str]) -> None:
        file = self.layout.state / "environment.json"
        file.touch(mode=0o600, exist_ok=True)
        file.write_text(json.dumps(variables, indent=1))
        write_exports(self.layout.environment, {**variables, "KUBECONFIG": str(self.kubeconfig)})


def wait_for(
    what: str, ready: Callable[[], bool], *, timeout: float, every: float = 0.5, check: Callable[[], None] | None = None
) -> None:
    """Wait until `ready`; StackError names what did not come, or what `check` finds wrong meanwhile."""
    deadline = time.monotonic() + timeout
    while not ready():
        if check is not None:
            check()
        if time.monotonic() > deadline:
            raise StackError(f"{what} did not happen within {timeout:.0f} s")
        time.sleep(every)
