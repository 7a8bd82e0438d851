"""The environment under which Airflow and its commands use the stack: connections, settings, configuration.

Everything the cloud would hold in connections and in the Variable stands here as environment variables, so the
DAGs run unchanged. What make was told to take from the real world replaces the stand-in's entry.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from local.stack.layout import REPOSITORY, Layout
from ml_lifecycle.settings import overlay

SERVING_IMAGE = "ml-lifecycle/serving:1.0.0"
LOCKBOX_SECRET = "laptop-secret"

# A job of seconds is over before the second compiler or the web page of Spark pays off.
SHORT_JOBS = {
    "spark.ui.enabled": "false",
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    "spark.sql.shuffle.partitions": "4",
}


# So that the summary can show a cost; a laptop's hosts cost nothing.
MADE_UP_PRICES = {
    "currency": "RUB",
    "host_hour": {"s3-c4-m16": 15.0},
    "disk_gib_hour": {"network-ssd": 0.02},
    "expected_hours": 0.1,
}


def real(name: str) -> str | None:
    """The real thing that make's command line named in place of a stand-in (`KUBECONFIG`, `DATA_LAKE`, …)."""
    return os.environ.get(f"ML_LIFECYCLE_REAL_{name}") or None


def base_environment() -> dict[str, str]:
    """The caller's environment with the venv in front, and nothing that would reach a real cluster by accident."""
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "KUBE", "MLFLOW", "SPARK"))
    }
    kept["PATH"] = f"{REPOSITORY / '.venv' / 'bin'}{os.pathsep}{kept.get('PATH', '')}"
    kept.pop("PYTHONPATH", None)
    kept["PYTHONUNBUFFERED"] = "1"
    return kept


def http_connection(url: str) -> str:
    """An Airflow connection of type http for `url`."""
    parts = urlsplit(url)
    connection: dict[str, Any] = {"conn_type": "http", "host": parts.hostname, "schema": parts.scheme}
    connection["port"] = parts.port or (443 if parts.scheme == "https" else 80)
    if parts.username:
        connection |= {"login": parts.username, "password": parts.password}
    return json.dumps(connection)


def settings(layout: Layout, environment_archive: Path) -> dict[str, Any]:
    """The Variable `ml_lifecycle` of the laptop; see docs/settings.md for what each entry means.

    What the laptop says of a stand-in is left out where the real thing is used; SETTINGS=file.json says the rest.
    """
    laptop_cluster = {
        "folder_id": "laptop",
        "subnet_id": "laptop-subnet",
        "service_account_id": "laptop-service-account",
        "bucket": "laptop-logs",
        "create_timeout_minutes": 2,
        "job_timeout_minutes": 15,
        "time_to_live_hours": 1,
        "poll_seconds": 1,
        "environment": str(environment_archive),
        "secret_id": LOCKBOX_SECRET,
        "spark_properties": SHORT_JOBS,
    }
    laptop_serving = {"image": SERVING_IMAGE, "ingress": layout.url("ingress"), "max_replicas": 4}
    document = {
        "defaults": {
            "data_lake": real("DATA_LAKE") or layout.data_lake_uri,
            "cluster": {} if real("YC_SERVICE_ACCOUNT_KEY") else laptop_cluster,
            "cost": {} if real("YC_SERVICE_ACCOUNT_KEY") else MADE_UP_PRICES,
            "serving": {"ingress": real("INGRESS")} if real("KUBECONFIG") else laptop_serving,
            "rollout": {
                "dwell_seconds": 20,
                "look_seconds": 5,
                "min_requests": 50,
                "floor": 0.01,
                "ready_timeout_minutes": 2,
                "deadline_minutes": 8,
            },
        },
        "models": {"digits": {"dataset": {"image_size": 32, "channels": 1}}},
    }
    if own := real("SETTINGS"):
        document = overlay(document, json.loads(Path(own).read_text()))
    return document


def airflow_configuration(layout: Layout, dags: Path, plugins: Path, *, deferrable: bool) -> dict[str, str]:
    """Airflow on SQLite, on loopback, without a login, started by four processes of ours."""
    airflow = layout.url("airflow")
    return {
        "AIRFLOW_HOME": str(layout.airflow_home),
        # Four processes share the file: one that waits for another's write must not give up after SQLite's 5 s.
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{layout.airflow_home / 'airflow.db'}?timeout=60",
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(plugins),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{airflow}/execution/",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(layout.ports["airflow"]),
        "AIRFLOW__API__BASE_URL": airflow,
        "AIRFLOW__API__SECRET_KEY": _kept_secret(layout, "api"),
        "AIRFLOW__API__EXPOSE_CONFIG": "False",
        "AIRFLOW__API_AUTH__JWT_SECRET": _kept_secret(layout, "jwt"),
        # Nobody asks this host for anything, and a laptop without a network may not resolve its own name.
        "AIRFLOW__CORE__HOSTNAME_CALLABLE": "socket.gethostname",
        "AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE": str(deferrable),
        "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK": "False",
        "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "2",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "120",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "120",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    }


def connections(layout: Layout, kubeconfig: Path) -> dict[str, str]:
    """The connections of DESIGN's contract, to a stand-in or to the real thing."""
    found = {
        "AIRFLOW_CONN_MLFLOW_DEFAULT": http_connection(real("MLFLOW_TRACKING_URI") or layout.url("mlflow")),
        "AIRFLOW_CONN_PROMETHEUS_DEFAULT": http_connection(real("PROMETHEUS_URL") or layout.url("prometheus")),
    }
    kubernetes = {"conn_type": "kubernetes", "extra": {"kube_config_path": str(kubeconfig)}}
    found["AIRFLOW_CONN_KUBERNETES_DEFAULT"] = json.dumps(kubernetes)
    if key := real("YC_SERVICE_ACCOUNT_KEY"):
        extra = {"service_account_json_path": str(Path(key).resolve()), "folder_id": os.environ.get("YC_FOLDER_ID")}
        found["AIRFLOW_CONN_YANDEXCLOUD_DEFAULT"] = json.dumps({"conn_type": "yandexcloud", "extra": extra})
    if (real("DATA_LAKE") or "").startswith("s3://"):
        extra = {"endpoint_url": os.environ.get("AWS_ENDPOINT_URL", "https://storage.yandexcloud.net")}
        found["AIRFLOW_CONN_AWS_DEFAULT"] = json.dumps(
            {
                "conn_type": "aws",
                "login": os.environ.get("AWS_ACCESS_KEY_ID"),
                "password": os.environ.get("AWS_SECRET_ACCESS_KEY"),
                "extra": {**extra, "region_name": os.environ.get("AWS_REGION", "ru-central1")},
            }
        )
    return found


def write_exports(file: Path, variables: Mapping[str, str]) -> None:
    """A file for `source`, readable by its owner alone because connections carry secrets."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in sorted(variables.items())]
    lines.append(f'export PATH={shlex.quote(str(REPOSITORY / ".venv" / "bin"))}:"$PATH"')
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o600, exist_ok=True)
    file.chmod(0o600)
    file.write_text("\n".join(lines) + "\n")


def _kept_secret(layout: Layout, name: str) -> str:
    file = layout.state / "secrets" / name
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file.touch(mode=0o600)
        file.write_text(secrets.token_urlsafe(48))
    return file.read_text()
