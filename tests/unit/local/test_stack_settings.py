"""The stack's data sets, settings and what may replace a stand-in."""

import importlib
import json
import re
import socket
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.stack.dataset import model_name, provide
from local.stack.environment import (
    airflow_configuration,
    base_environment,
    connections,
    http_connection,
    settings,
    write_exports,
)
from local.stack.exceptions import StackError
from local.stack.layout import Layout
from local.stack.services import stand_ins
from ml_lifecycle.data_lake.client import DataLake
from ml_lifecycle.settings import MODEL_NAME, parse_settings
from spark_jobs.dataset_files import list_dataset

REPOSITORY = Path(__file__).resolve().parent.parent.parent.parent


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path)


@given(st.text(max_size=60))
def test_every_folder_gives_a_model_name_that_is_taken(name):
    assert MODEL_NAME.fullmatch(model_name(name)), model_name(name)


def test_an_image_folder_of_ones_own_comes_into_the_data_lake(tmp_path):
    image = tmp_path / "My Cats" / "tabby" / "a.png"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"picture")
    subject = provide(tmp_path / "lake", tmp_path / "My Cats")
    assert (subject.model, subject.dataset) == ("my-cats", "My-Cats")
    assert (tmp_path / "lake/datasets/My-Cats/tabby/a.png").read_bytes() == b"picture"


def test_a_folder_of_links_comes_whole_and_nothing_of_it_is_touched(tmp_path):
    for number in range(2):
        (tmp_path / "blobs").mkdir(exist_ok=True)
        (tmp_path / "blobs" / f"a{number}").write_bytes(b"picture %d" % number)
    own = tmp_path / "snapshots" / "digits"
    (own / "cat").mkdir(parents=True)
    (own / "cat" / "0.png").symlink_to("../../../blobs/a0")
    (own / "cat" / "1.png").symlink_to(tmp_path / "blobs" / "a1")
    (own / "cat" / "2.png").symlink_to("nowhere")
    (own / "dog").symlink_to(tmp_path / "blobs")
    lake = tmp_path / "lake"
    for _ in range(2):
        subject = provide(lake, own)
    listed = {file.path: file.reason for file in list_dataset(f"file://{subject.folder}")}
    assert listed == {
        "cat/0.png": None, "cat/1.png": None, "cat/2.png": "a link that leads nowhere", "dog/a0": None, "dog/a1": None,
    }  # fmt: skip
    assert DataLake(f"file://{lake}").check_dataset("digits") == ["cat", "dog"]
    # The digits have the same name, and the folder inside the lake may be named itself.
    provide(lake, None)
    assert sorted(path.name for path in own.iterdir()) == ["cat", "dog"]
    assert provide(lake, lake / "datasets" / "digits").folder == lake / "datasets" / "digits"
    assert (lake / "datasets" / "digits" / "0").is_dir()


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=80))
def test_every_folder_gives_a_data_set_name_that_is_taken(tmp_path_factory, name):
    root = tmp_path_factory.mktemp("named")
    source = root / name
    try:
        source.mkdir()
    except OSError:
        return
    subject = provide(root / "lake", source)
    parse_settings({"defaults": {"data_lake": "file:///lake", "dataset": {"name": subject.dataset}}}, subject.model)


@pytest.mark.parametrize("folder", ["My Projects", "иван"])
def test_the_stack_below_any_folder_has_settings_that_are_taken(tmp_path, folder):
    layout = Layout(tmp_path / folder)
    found = parse_settings(settings(layout, tmp_path / "environment.tar.gz"), "digits")
    assert found.data_lake == f"file://{layout.data_lake}"
    assert DataLake(found.data_lake).write_bytes("x", b"1") == f"file://{layout.data_lake}/x"
    assert (layout.data_lake / "x").read_bytes() == b"1"


def test_a_missing_folder_is_refused_with_what_is_expected(tmp_path):
    with pytest.raises(StackError, match=r"DATASET=.*absent is no folder: give a folder of images by class"):
        provide(tmp_path / "lake", tmp_path / "absent")


def test_the_laptops_settings_are_valid(layout, tmp_path):
    found = parse_settings(settings(layout, tmp_path / "environment.tar.gz"), "digits")
    assert found.data_lake == f"file://{layout.data_lake}"
    assert found.rollout.steps == (10, 25, 50, 100)


def test_real_things_leave_the_laptops_values_out(layout, tmp_path, monkeypatch):
    own = tmp_path / "own.json"
    own.write_text(
        json.dumps({"defaults": {"cluster": {"folder_id": "b1g"}, "serving": {"image": "registry/serving:1"}}})
    )
    for name, value in {"YC_SERVICE_ACCOUNT_KEY": "key.json", "KUBECONFIG": "config", "SETTINGS": str(own)}.items():
        monkeypatch.setenv(f"ML_LIFECYCLE_REAL_{name}", value)
    found = parse_settings(settings(layout, tmp_path / "environment.tar.gz"), "digits")
    assert found.cluster.folder_id == "b1g"
    assert found.cluster.secret_id is None
    assert found.serving.image == "registry/serving:1"
    assert found.serving.ingress is None


def test_a_kubeconfig_of_the_environment_reaches_nothing(layout, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", "/home/me/.kube/production")
    asked = subprocess.run(
        ["make", "--no-print-directory", "--eval", "shown: ; @echo [$(ML_LIFECYCLE_REAL_KUBECONFIG)]", "shown"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert asked.stdout.strip() == "[]"
    assert "KUBECONFIG" not in base_environment()


def test_a_kubeconfig_of_makes_command_line_replaces_the_stand_in():
    asked = subprocess.run(
        [
            "make",
            "--no-print-directory",
            "KUBECONFIG=own",
            "--eval",
            "shown: ; @echo [$$ML_LIFECYCLE_REAL_KUBECONFIG]",
            "shown",
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert asked.stdout.strip() == "[own]"


def test_connections_lead_to_the_stand_ins(layout, tmp_path):
    found = connections(layout, tmp_path / "kubeconfig")
    assert json.loads(found["AIRFLOW_CONN_MLFLOW_DEFAULT"])["port"] == layout.ports["mlflow"]
    assert json.loads(found["AIRFLOW_CONN_KUBERNETES_DEFAULT"])["extra"] == {
        "kube_config_path": str(tmp_path / "kubeconfig")
    }


def test_the_laptop_listens_on_itself_alone(layout):
    commands = {service.name: " ".join(service.command) for service in stand_ins(layout)}
    everywhere = [name for name, command in commands.items() if re.search(r"0\.0\.0\.0|--host=?\s*\*|\[::\]", command)]
    assert everywhere == []
    assert "--host 127.0.0.1" in commands["mlflow"]
    assert "--web.listen-address=127.0.0.1:" in commands["prometheus"]
    assert airflow_configuration(layout, Path("dags"), Path("plugins"), deferrable=True)["AIRFLOW__API__HOST"] == (
        "127.0.0.1"
    )


def test_files_with_secrets_are_their_owners_alone(layout, tmp_path):
    airflow_configuration(layout, Path("dags"), Path("plugins"), deferrable=True)
    write_exports(tmp_path / "env", {"AIRFLOW_CONN_X": "secret"})
    kept = [*(layout.state / "secrets").iterdir(), tmp_path / "env"]
    assert len(kept) > 2
    assert {file.stat().st_mode & 0o777 for file in kept} == {0o600}


def test_a_url_with_credentials_becomes_a_connection():
    assert json.loads(http_connection("https://me:secret@mlflow.example.org")) == {
        "conn_type": "http",
        "host": "mlflow.example.org",
        "schema": "https",
        "port": 443,
        "login": "me",
        "password": "secret",
    }


def test_airflow_starts_on_a_machine_whose_own_name_does_not_resolve(layout, monkeypatch):
    layout.forget_ports()
    configuration = airflow_configuration(layout, REPOSITORY / "dags", REPOSITORY / "plugins", deferrable=True)
    module, _, name = configuration["AIRFLOW__CORE__HOSTNAME_CALLABLE"].rpartition(".")

    def unresolvable(*_, **__):
        raise socket.gaierror("Name or service not known")

    for resolver in ("gethostbyname", "gethostbyaddr", "getaddrinfo", "getfqdn"):
        monkeypatch.setattr(socket, resolver, unresolvable)
    assert getattr(importlib.import_module(module), name)()
