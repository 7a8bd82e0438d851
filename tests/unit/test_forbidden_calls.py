"""What no code of the product calls, and what no file of the repository holds: the syntax trees and the files tell."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_lifecycle.secrets import FORMS

REPOSITORY = Path(__file__).resolve().parents[2]
PRODUCT = ("plugins", "dags", "spark_jobs", "serving")
RUNS_WHAT_IT_READS = {
    "eval",
    "exec",
    "pickle.load",
    "pickle.loads",
    "cloudpickle.loads",
    "joblib.load",
    "dill.loads",
    "marshal.loads",
    "np.load",
    "numpy.load",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "os.system",
    "os.popen",
}
# These two know the forms, and write them down.
KNOWS_FORMS = {"plugins/ml_lifecycle/address.py", "plugins/ml_lifecycle/secrets.py"}
UNPACKS = {"unpack_archive", "extractall", "extract"}


def calls(source: str) -> Iterator[tuple[str, ast.Call]]:
    """Every call with the dotted name of what it calls."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def forbidden(source: str) -> list[str]:
    """The calls that run what they read, start a shell, or unpack an archive."""
    found = []
    for name, call in calls(source):
        options = {word.arg: ast.unparse(word.value) for word in call.keywords}
        unsafe_torch = name == "torch.load" and options.get("weights_only") != "True"
        if name in RUNS_WHAT_IT_READS or name.rpartition(".")[2] in UNPACKS or unsafe_torch:
            found.append(name)
        if options.get("shell") == "True":
            found.append(f"{name} in a shell")
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle; pickle.loads(x)",
        "np.load(x, allow_pickle=True)",
        "yaml.load(x)",
        "eval(x)",
        "subprocess.run(x, shell=True)",
        "torch.load(x)",
        "torch.load(x, weights_only=False)",
        "tarfile.open(x).extractall(y)",
        "shutil.unpack_archive(x)",
    ],
)
def test_a_forbidden_call_would_be_noticed(source: str) -> None:
    assert forbidden(source)


def test_methods_of_the_same_name_are_no_such_calls() -> None:
    assert not forbidden("network.eval(); yaml.safe_load(x); torch.load(x, weights_only=True); subprocess.run([x])")


@pytest.mark.parametrize("folder", PRODUCT)
def test_the_product_runs_nothing_that_it_reads_and_unpacks_nothing(folder: str) -> None:
    files = sorted((REPOSITORY / folder).rglob("*.py"))
    assert files
    assert {str(file): found for file in files if (found := forbidden(file.read_text()))} == {}


WAITS = re.compile(r"stub\.\w+|rpc|\w+\.urlopen|httpx\.(get|post|put|request)")


def test_every_request_that_is_sent_by_hand_has_an_end() -> None:
    """gRPC waits for ever unless a call says how long."""
    files = [file for folder in PRODUCT for file in sorted((REPOSITORY / folder).rglob("*.py"))]
    sent = [(file, call) for file in files for name, call in calls(file.read_text()) if WAITS.fullmatch(name)]
    assert len(sent) > 3
    endless = [f"{file}:{call.lineno}" for file, call in sent if "timeout" not in {word.arg for word in call.keywords}]
    assert endless == []


def test_no_file_of_the_repository_holds_a_secret() -> None:
    """By the forms of secrets; tests hold made-up ones."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("no checkout of git")
    names = [
        name for name in listed.stdout.split("\0") if name and not name.startswith("tests/") and name not in KNOWS_FORMS
    ]
    assert len(names) > 100
    assert form_of("AKIA" + "Q" * 16) == "an AWS access key"
    files = [REPOSITORY / name for name in names if (REPOSITORY / name).is_file()]
    found = {str(file): form for file in files if (form := form_of(file.read_text(errors="replace")))}
    assert found == {}


def form_of(text: str) -> str:
    """The form of the first secret in it; empty where there is none."""
    return next((form for form, pattern in FORMS.items() if pattern.search(text)), "")
