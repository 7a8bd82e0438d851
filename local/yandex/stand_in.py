"""Yandex Cloud on loopback, for as long as a `with` block lasts."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import grpc

from local.yandex import web
from local.yandex.certificates import create_identity
from local.yandex.cloud import Cloud, Timing
from local.yandex.driver import Machine, kill_container
from local.yandex.faults import Faults
from local.yandex.services import Services, Tokens

FOLDER_ID = "laptop"


class YandexStandIn:
    """Serves the API (gRPC over TLS) and its HTTP side; jobs are processes of this machine.

    state: folder for keys, job folders and unpacked archives. Ports 0 mean any free one. secrets: Lockbox secrets
    by id. runner: `spark-submit`, or `python` for tests whose jobs need no Spark.
    """

    def __init__(
        self,
        state: Path,
        *,
        port: int = 0,
        http_port: int = 0,
        creation_seconds: float = 2.0,
        deletion_seconds: float = 0.5,
        secrets: Mapping[str, Mapping[str, str]] | None = None,
        runner: Literal["spark-submit", "python"] = "spark-submit",
        spark_master: str = "local[2]",
    ) -> None:
        self._state = state.resolve()
        self._wanted_port = port
        self._timing = Timing(creation_seconds, deletion_seconds)
        self._runner: Literal["spark-submit", "python"] = runner
        self._spark_master = spark_master
        self._secrets = secrets if secrets is not None else {"laptop-secret": {}}
        self._http_port = http_port
        self.faults = Faults()
        self.port = 0
        self.http_port = 0

    def __enter__(self) -> Self:
        self._identity = create_identity(self._state)
        # A stand-in that was killed could not take its jobs along.
        kill_container(*(folder.name for folder in (self._state / "jobs").glob("*")))
        job_environment: dict[str, str] = {}
        machine = Machine(self._runner, self._state / "archives", job_environment, self._spark_master)
        self._cloud = Cloud(self._state, machine, self._timing)
        key = self._identity.service_account_public_key
        self._services = Services(self._cloud, self.faults, Tokens(), key, self._secrets)
        self._web = web.serve(self._services, self._http_port)
        self.http_port = self._web.server_address[1]
        job_environment["YC_METADATA_ADDR"] = f"127.0.0.1:{self.http_port}"
        job_environment["YC_LOCKBOX_PAYLOAD_ENDPOINT"] = self.http_url
        self._server = grpc.server(ThreadPoolExecutor(max_workers=16), options=[("grpc.so_reuseport", 0)])
        pair = (self._identity.server_key, self._identity.server_certificate)
        self.port = self._server.add_secure_port(f"127.0.0.1:{self._wanted_port}", grpc.ssl_server_credentials([pair]))
        self._services.address = self.endpoint
        (self._state / "env.json").write_text(json.dumps(self.environment(), indent=1))
        self._services.register(self._server)
        self._server.start()
        self._web_thread = threading.Thread(target=self._web.serve_forever, daemon=True)
        self._web_thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.stop(grace=1).wait()
        self._web.shutdown()
        self._web.server_close()
        self._web_thread.join()
        self._cloud.close()

    @property
    def endpoint(self) -> str:
        """Address of the gRPC API."""
        return f"127.0.0.1:{self.port}"

    @property
    def http_url(self) -> str:
        """Address of the HTTP side."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def timing(self) -> Timing:
        """How long creating and deleting take; may be changed at any time."""
        return self._timing

    @property
    def calls(self) -> list[str]:
        """Every call so far, as `ClusterService.Create`."""
        return list(self._services.calls)

    @property
    def issued_tokens(self) -> list[str]:
        """Every IAM token so far: no log may hold one."""
        return self._services.tokens.issued

    def connection(self) -> str:
        """JSON of the Airflow connection `yandexcloud_default`; the key stays in its file."""
        extra = {
            "endpoint": self.endpoint,
            "service_account_json_path": str(self._identity.service_account_file),
            "folder_id": FOLDER_ID,
        }
        return json.dumps({"conn_type": "yandexcloud", "extra": extra})

    def environment(self) -> dict[str, str]:
        """What a process needs to reach this stand-in through Airflow and the SDK, past a proxy too."""
        given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
        direct = ",".join(filter(None, [given, "127.0.0.1,localhost"]))
        return {
            "no_proxy": direct,
            "NO_PROXY": direct,
            "AIRFLOW_CONN_YANDEXCLOUD_DEFAULT": self.connection(),
            "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(self._identity.authority_file),
            "YC_METADATA_ADDR": f"127.0.0.1:{self.http_port}",
            "YC_LOCKBOX_PAYLOAD_ENDPOINT": self.http_url,
        }

    def history(self) -> list[dict[str, Any]]:
        """Every cluster that ever was, with its jobs."""
        return list(self._cloud.history()["clusters"])
