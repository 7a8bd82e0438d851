"""Where the laptop keeps its state, and on which loopback ports it listens."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent

# The ports a person expects; where one is taken, the next free one is used and `make status` says which.
PREFERRED = {
    "airflow": 8080,
    "mlflow": 5000,
    "prometheus": 9090,
    "ingress": 8081,
    "ingress-admin": 8082,
    "load": 8083,
    "kubernetes": 6443,
    "yandex": 8443,
    "yandex-http": 8444,
}


@dataclass(frozen=True)
class Layout:
    """The state folder: `.local` in the checkout, or what ML_LIFECYCLE_STATE names."""

    state: Path

    @classmethod
    def default(cls) -> Layout:
        """The layout of this checkout."""
        return cls(Path(os.environ.get("ML_LIFECYCLE_STATE", REPOSITORY / ".local")).resolve())

    @property
    def logs(self) -> Path:
        """A log file for each process."""
        return self.state / "logs"

    @property
    def processes(self) -> Path:
        """What was started, so that it can be stopped."""
        return self.state / "processes.json"

    @property
    def environment(self) -> Path:
        """Shell exports under which `airflow` commands use this stack."""
        return self.state / "env"

    @property
    def airflow_home(self) -> Path:
        """AIRFLOW_HOME."""
        return self.state / "airflow"

    @property
    def data_lake(self) -> Path:
        """The folder that stands in for the bucket."""
        return self.state / "data_lake"

    @property
    def data_lake_uri(self) -> str:
        """Its URI, in plain text as all URIs of the data lake: a space is a space."""
        return f"file://{self.data_lake}"

    @cached_property
    def ports(self) -> dict[str, int]:
        """Port of each service: those of the running stack, else preferred ones or the next free."""
        file = self.state / "ports.json"
        if file.exists():
            return dict(json.loads(file.read_text()))
        ports = {name: _free_port(port) for name, port in PREFERRED.items()}
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(ports, indent=1))
        return ports

    def forget_ports(self) -> None:
        """The next start chooses anew."""
        (self.state / "ports.json").unlink(missing_ok=True)
        self.__dict__.pop("ports", None)

    def url(self, service: str) -> str:
        """The loopback address of a service."""
        scheme = "https" if service == "kubernetes" else "http"
        return f"{scheme}://127.0.0.1:{self.ports[service]}"


def _free_port(preferred: int) -> int:
    for port in range(preferred, preferred + 2000, 20):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port near {preferred}")
