"""Decisions are pure: the syntax trees show no Airflow, no I/O, no clock and no unseeded chance.

Every module of a domain is pure unless it is listed here as one that does I/O.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "plugins" / "ml_lifecycle"

DOES_IO = {
    "data_lake/job_code.py",  # reads the installation's files
    "data_lake/published.py",  # reads and keeps what was promoted
    "data_lake/writing.py",  # writes files
    "dataproc/cleanup.py",  # deletes clusters
    "kserve/missing_metrics.py",  # asks Prometheus
    "kubernetes/access.py",  # opens the API's client
    "kserve/notifiers.py",  # tells people
    "kserve/own_queries.py",  # asks Prometheus
    "kserve/queries.py",  # asks Prometheus
    "kserve/smoke_test.py",  # a KubernetesPodOperator
    "scaling/asking_why.py",  # asks Prometheus
    "scaling/budget.py",  # runs tasks by the clock
    "scaling/histories.py",  # asks Prometheus
    "scaling/history_cache.py",  # keeps files
    "scaling/measuring.py",  # asks Prometheus and Kubernetes
    "scaling/reconciler.py",  # reads load, patches targets
    "tracking/rollout_aliases.py",  # moves aliases in MLflow
    "tracking/run_cost.py",  # logs to MLflow
    "tracking/promotion.py",  # judges with MLflow, publishes to the data lake
    "assets.py",  # Airflow's assets
    "deferral.py",  # Airflow's triggers
    "params.py",  # Airflow's params
    "resources.py",  # finds files of the installation
    "settings_variable.py",  # reads the Variable
    "sharing.py",  # opens and closes clients
}
ROOMS_OF_IO = {"client.py", "operators.py", "triggers.py", "links.py"}

FORBIDDEN = {
    *("airflow", "mlflow", "pyspark", "yandex", "yandexcloud", "grpc", "kubernetes", "kubernetes_asyncio"),
    *("httpx", "requests", "aiohttp", "boto3", "botocore", "fsspec", "urllib3", "sqlalchemy"),
    *("os", "io", "shutil", "subprocess", "socket", "tempfile", "threading", "asyncio"),
    *("time", "random", "secrets", "uuid", "logging"),
}
CLOCKS = {"now", "utcnow", "today"}
CHANCE = {"rand", "randn", "randint", "randperm", "normal", "multinomial", "bernoulli"}


def is_pure(module: Path) -> bool:
    room = f"{module.parent.name}.py" if f"{module.parent.name}.py" in ROOMS_OF_IO else module.name
    return room not in ROOMS_OF_IO and module.relative_to(PACKAGE).as_posix() not in DOES_IO


PURE = sorted(module for module in PACKAGE.rglob("*.py") if is_pure(module) and "resources" not in module.parts)


def runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those below `if TYPE_CHECKING:`."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield from runtime_nodes(other)
        else:
            yield from runtime_nodes(child)


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def impure_module(name: str) -> bool:
    """Whether a name of this package is, or comes from, a module that does I/O."""
    parts = name.split(".")[1:]
    paths = [PACKAGE.joinpath(*parts[:end]) for end in range(1, len(parts) + 1)]
    files = [file for path in paths for file in (path.with_suffix(".py"), path / "__init__.py")]
    return any(file.exists() and not is_pure(file) for file in files)


def impurities(tree: ast.AST) -> Iterator[str]:
    for node in runtime_nodes(tree):
        for name in imported(node):
            if name.split(".")[0] in FORBIDDEN or (name.startswith("ml_lifecycle.") and impure_module(name)):
                yield f"line {node.lineno}: imports {name}"  # type: ignore[attr-defined]
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            last = called.rsplit(".", 1)[-1]
            file_access = last in ("open", "read_text", "read_bytes", "write_text", "write_bytes", "glob", "iterdir")
            if called in ("input", "print") or file_access or (last in CLOCKS and "." in called):
                yield f"line {node.lineno}: calls {called}"
            seeded = bool(node.args) or any(keyword.arg == "seed" for keyword in node.keywords)
            if last == "default_rng" and not seeded:
                yield f"line {node.lineno}: {called} without a seed"
            generator = any(keyword.arg == "generator" for keyword in node.keywords)
            if called.startswith(("np.random.", "numpy.random.")) and last != "default_rng":
                yield f"line {node.lineno}: {called} draws from the global generator"
            if called.startswith("torch.") and last in CHANCE and not generator:
                yield f"line {node.lineno}: {called} without a generator"


@pytest.mark.parametrize("module", PURE, ids=lambda module: module.relative_to(PACKAGE).as_posix())
def test_pure_modules_are_pure(module: Path) -> None:
    assert list(impurities(ast.parse(module.read_text()))) == []


def test_the_exceptions_exist() -> None:
    assert [name for name in sorted(DOES_IO) if not (PACKAGE / name).exists()] == []


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "from airflow.sdk import Variable",
        "def f():\n    import httpx",
        "from datetime import datetime\ndatetime.now()",
        "open('x')",
        "folder.joinpath('x').read_text()",
        "np.random.default_rng()",
        "np.random.normal(0, 1)",
        "torch.randn(3)",
        "from ml_lifecycle.data_lake.client import DataLake",
        "from ml_lifecycle.tracking import client",
    ],
)
def test_the_test_sees_impurity(source: str) -> None:
    assert list(impurities(ast.parse(source)))


@pytest.mark.parametrize(
    "source",
    [
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from airflow.sdk import Context",
        "np.random.default_rng(seed)",
        "torch.randn(3, generator=generator)",
        "from datetime import timedelta",
        "from ml_lifecycle.data_lake.layout import Layout",
    ],
)
def test_the_test_accepts_purity(source: str) -> None:
    assert not list(impurities(ast.parse(source)))
