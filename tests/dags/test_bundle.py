"""`make bundle`: a real Airflow runs from the bundle alone, without the checkout on any path."""

import json
import re
import zipfile
from pathlib import Path

import pytest

from local.bundle import LOCKS, write_bundle
from local.dataset import write_digits
from local.demo.airflow_api import AirflowApi
from local.demo.follow import follow
from local.demo.narrator import Narrator
from local.stack.layout import Layout
from local.stack.stack import Stack, wait_for

REPOSITORY = Path(__file__).resolve().parent.parent.parent
DAGS = {file.stem for file in (REPOSITORY / "dags").glob("*.py")}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    target = tmp_path_factory.mktemp("bundle")
    write_bundle(target)
    return target


def test_both_layouts_hold_every_dag_the_package_and_its_files(bundle):
    for dags, package in (
        (bundle / "managed/dags", bundle / "managed/dags/ml_lifecycle"),
        (bundle / "airflow/dags", bundle / "airflow/plugins/ml_lifecycle"),
    ):
        assert {file.stem for file in dags.glob("*.py")} == DAGS
        for needed in (
            "settings/__init__.py",
            "resources/k8s_templates/inference_service.yaml",
            "resources/spark_jobs/train.py",
        ):
            assert (package / needed).is_file(), needed
        assert not list(package.rglob("__pycache__"))


def test_the_bills_of_materials_name_every_locked_package_with_its_hashes(bundle):
    for name, lock in LOCKS.items():
        bill = json.loads((bundle / f"{name}.cdx.json").read_text())
        locked = re.findall(r"^([\w.-]+)(?:\[.*\])?==(\S+)", (REPOSITORY / lock).read_text(), re.MULTILINE)
        assert {(part["name"], part["version"]) for part in bill["components"]} == set(locked)
        assert all(reference["hashes"] for part in bill["components"] for reference in part["externalReferences"]), (
            "a package without a hash"
        )
    assert "torch" not in (bundle / "airflow" / "requirements.lock").read_text(), "CUDA on every worker"


def test_airflow_takes_no_file_of_the_package_for_a_dag(bundle):
    assert (bundle / "managed/dags/.airflowignore").read_text() == "ml_lifecycle/\n"
    assert (bundle / "airflow/plugins/.airflowignore").read_text() == "ml_lifecycle/\n"


def test_zips_and_wheel_hold_the_same_package(bundle):
    expected = {
        path.relative_to(bundle / "airflow/plugins").as_posix()
        for path in (bundle / "airflow/plugins/ml_lifecycle").rglob("*")
        if path.is_file() and path.name != "GIT_COMMIT"  # a wheel's version says where it comes from
    }
    with zipfile.ZipFile(next(bundle.glob("*.whl"))) as wheel:
        packed = {name for name in wheel.namelist() if not re.match(r"ml_lifecycle-[^/]+\.dist-info/", name)}
    assert packed == expected
    with zipfile.ZipFile(bundle / "ml-lifecycle-managed.zip") as managed:
        assert {f"dags/{name}" for name in expected} <= set(managed.namelist())


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["airflow", "managed"])
def test_airflow_runs_from_the_bundle_alone(bundle, layout, tmp_path):
    """`managed` has no plugins folder: its triggers run inside the tasks, as a managed service runs them.

    It trains, too; with the plugins folder as in a checkout the demo does.
    """
    dags, plugins = bundle / layout / "dags", bundle / layout / "plugins"
    stack = Stack(Layout(tmp_path), dags=dags, plugins=plugins, deferrable=layout == "airflow")
    write_digits(stack.layout.data_lake / "datasets" / "digits")
    try:
        stack.up(print)
        assert str(REPOSITORY / "plugins") not in "".join(stack.environment.values())
        api = AirflowApi(stack.layout.url("airflow"))
        wait_for("Airflow reading the bundle", lambda: api.dags() >= DAGS or bool(api.import_errors()), timeout=90)
        assert api.import_errors() == []
        for dag in DAGS - {"train_model"}:
            api.pause(dag, paused=True)
        if layout == "managed":
            run = api.trigger("train_model", {"model": "digits", "epochs": 1, "fraction": 0.2, "processes": 1})
            tasks = follow(api, Narrator(), "train_model", run, timeout=400)
            states = {task.task: task.state for task in tasks}
            assert states["register"] == "success"
            assert states["delete_cluster"] == "success"
    finally:
        stack.down()
    assert stack.alive() == []
