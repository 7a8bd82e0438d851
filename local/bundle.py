"""Writes what travels to another Airflow.

`dist/managed/dags/` is for services that take one folder of DAGs and know no plugins (Yandex's managed Airflow: copy
it to the bucket's `dags/`); `dist/airflow/{dags,plugins}/` is for every other Airflow. Both hold the package with its
templates and job files. Beside them: a zip of each, a wheel of the package, and bills of materials (CycloneDX) of what
is installed with it: on Airflow's machines, in the serving image, on the cluster.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
LOCKS = {
    "airflow": "requirements.lock",
    "serving": "serving/requirements.lock",
    "cluster": "spark_jobs/requirements.lock",
}
FORECAST = "requirements-forecast.txt"
RESOURCES = ("k8s_templates", "spark_jobs", "serving")
IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", ".mypy_cache")


def main() -> int:
    """Write the bundle."""
    parser = argparse.ArgumentParser(prog="python -m local.bundle")
    parser.add_argument("--target", type=Path, default=REPOSITORY / "dist")
    for written in write_bundle(parser.parse_args().target):
        print(written)
    return 0


def write_bundle(target: Path) -> list[Path]:
    """Write both folders, both zips and the wheel into `target`, replacing what is there; returns their paths."""
    shutil.rmtree(target, ignore_errors=True)
    managed = target / "managed" / "dags"
    _dags(managed)
    _package(managed / "ml_lifecycle")
    # Airflow would take every file of the package for a DAG file.
    (managed / ".airflowignore").write_text("ml_lifecycle/\n")
    (target / "managed" / "requirements.txt").write_text(_managed_requirements())

    ordinary = target / "airflow"
    _dags(ordinary / "dags")
    _package(ordinary / "plugins" / "ml_lifecycle")
    shutil.copy2(REPOSITORY / "plugins" / ".airflowignore", ordinary / "plugins" / ".airflowignore")
    for name in ("requirements.txt", "requirements.lock", FORECAST):
        shutil.copy2(REPOSITORY / name, ordinary / name)
    shutil.copy2(REPOSITORY / FORECAST, target / "managed" / FORECAST)

    zips = [
        Path(shutil.make_archive(str(target / f"ml-lifecycle-{folder}"), "zip", target / folder))
        for folder in ("managed", "airflow")
    ]
    return [managed, ordinary, *zips, *_wheel(target), *_bills_of_materials(target)]


def _managed_requirements() -> str:
    """Without Airflow itself, and with its providers unpinned: a managed service fixes those versions."""
    lines = (REPOSITORY / "requirements.txt").read_text().splitlines(keepends=True)
    free = (re.sub(r"^(apache-airflow-providers-[^=]+)==\S+", r"\1", line) for line in lines)
    return "".join(line for line in free if not line.startswith("apache-airflow=="))


def _commit() -> str:
    """The commit that the bundle is made of; jobs tag their MLflow runs with it."""
    asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    return asked.stdout.strip()


def _dags(target: Path) -> None:
    target.mkdir(parents=True)
    for file in sorted((REPOSITORY / "dags").glob("*.py")):
        shutil.copy2(file, target / file.name)


def _package(target: Path) -> None:
    shutil.copytree(REPOSITORY / "plugins" / "ml_lifecycle", target, ignore=IGNORED)
    for folder in RESOURCES:
        shutil.copytree(REPOSITORY / folder, target / "resources" / folder, ignore=IGNORED)
    if commit := _commit():
        (target / "resources" / "GIT_COMMIT").write_text(commit)


def _wheel(target: Path) -> Iterable[Path]:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(target)]
    subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    return sorted(target.glob("*.whl"))


def _bills_of_materials(target: Path) -> Iterable[Path]:
    """Of each lock, its packages with versions and hashes; the same lock gives the same file."""
    for name, lock in LOCKS.items():
        file = target / f"{name}.cdx.json"
        command = [sys.executable, "-m", "cyclonedx_py", "requirements", str(REPOSITORY / lock)]
        subprocess.run([*command, "--output-reproducible", "--output-file", str(file)], check=True, capture_output=True)
        yield file


if __name__ == "__main__":
    sys.exit(main())
