"""What runs: one entry for each process, how it starts and how one sees that it serves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from local.stack.environment import SERVING_IMAGE, real
from local.stack.layout import REPOSITORY, Layout

VENV = REPOSITORY / ".venv" / "bin"


@dataclass(frozen=True)
class Service:
    """A process of the stack. `needs` are services that must serve before this one starts."""

    name: str
    command: list[str]
    ready: Callable[[], bool]
    url: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    folder: Path = REPOSITORY
    timeout: float = 90


def stand_ins(layout: Layout) -> Iterator[Service]:
    """The stand-ins that the real thing does not replace."""
    state, ports = layout.state, layout.ports
    python = str(VENV / "python")
    if not real("YC_SERVICE_ACCOUNT_KEY"):
        yield Service(
            "yandex",
            [python, "-m", "local.yandex", "--state", str(state / "yandex")]
            + ["--port", str(ports["yandex"]), "--http-port", str(ports["yandex-http"])],
            _answers(f"{layout.url('yandex-http')}/history"),
            url=layout.url("yandex-http"),
            environment={"SPARK_LOCAL_IP": "127.0.0.1"},
        )
    if not real("KUBECONFIG"):
        kubeconfig = state / "kubernetes" / "kubeconfig"
        yield Service(
            "kubernetes",
            [python, "-m", "local.kubernetes", "--state", str(state / "kubernetes")]
            + ["--port", str(ports["kubernetes"]), "--ingress-port", str(ports["ingress"])]
            + ["--images", str(_images(layout))],
            lambda: kubeconfig.exists() and _listens(layout.url("kubernetes")),
            url=layout.url("kubernetes"),
        )
        yield Service(
            "ingress",
            [python, "-m", "local.ingress", "--kubeconfig", str(kubeconfig)]
            + ["--port", str(ports["ingress"]), "--admin-port", str(ports["ingress-admin"])],
            _answers(f"{layout.url('ingress-admin')}/routes"),
            url=layout.url("ingress"),
            needs=("kubernetes",),
        )
    if not real("MLFLOW_TRACKING_URI"):
        yield Service(
            "mlflow",
            [str(VENV / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(ports["mlflow"]), "--workers", "1"]
            + ["--backend-store-uri", f"sqlite:///{state / 'mlflow' / 'mlflow.db'}"]
            + ["--artifacts-destination", str(state / "mlflow" / "artifacts")],
            _answers(f"{layout.url('mlflow')}/health"),
            url=layout.url("mlflow"),
            environment={"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
        )
    if not real("PROMETHEUS_URL"):
        yield Service(
            "prometheus",
            ["prometheus", f"--config.file={_prometheus_configuration(layout)}"]
            + [f"--storage.tsdb.path={state / 'prometheus'}", "--storage.tsdb.retention.time=1d"]
            + [f"--web.listen-address=127.0.0.1:{ports['prometheus']}", "--log.level=warn"],
            _answers(f"{layout.url('prometheus')}/-/ready"),
            url=layout.url("prometheus"),
        )


def airflow(layout: Layout, environment: dict[str, str]) -> Iterator[Service]:
    """Airflow's own processes, started where the checkout is on no path but those that the configuration names."""
    program = str(VENV / "airflow")
    url = layout.url("airflow")
    yield Service(
        "airflow-api-server",
        [program, "api-server"],
        _answers(f"{url}/api/v2/version"),
        url=url,
        environment=environment,
        folder=layout.state,
        timeout=120,
    )
    # The API server reads the tasks' log files itself: no further server, which would listen on every address.
    for name, options in (
        ("scheduler", ["--skip-serve-logs"]),
        ("dag-processor", []),
        ("triggerer", ["--skip-serve-logs"]),
    ):
        yield Service(
            f"airflow-{name}", [program, name, *options], lambda: True, environment=environment, folder=layout.state
        )


def _answers(url: str) -> Callable[[], bool]:
    def ready() -> bool:
        try:
            return httpx.get(url, timeout=2).is_success
        except httpx.TransportError:
            return False

    return ready


def _listens(url: str) -> bool:
    try:
        httpx.get(f"{url}/version", timeout=2, verify=False)
    except httpx.TransportError:
        return False
    return True


def _images(layout: Layout) -> Path:
    """The images that the Kubernetes stand-in can run, each as a local command."""
    serving = {"entrypoint": [str(VENV / "python"), "-m", "serving"], "cwd": str(REPOSITORY)}
    file = layout.state / "images.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({SERVING_IMAGE: serving}, indent=1))
    return file


def _prometheus_configuration(layout: Layout) -> Path:
    """Scrapes the ingress every five seconds, as the demo's looks ask for."""
    (layout.state / "prometheus").mkdir(parents=True, exist_ok=True)
    (layout.state / "mlflow").mkdir(parents=True, exist_ok=True)
    file = layout.state / "prometheus.yml"
    target = f"127.0.0.1:{layout.ports['ingress-admin']}"
    file.write_text(
        "global:\n  scrape_interval: 5s\n  evaluation_interval: 5s\n"
        f"scrape_configs:\n  - job_name: ingress\n    static_configs: [{{targets: ['{target}']}}]\n"
    )
    return file
