"""The image's recipe, read: what Kubernetes and a repeatable build need of it. (No test machine need have Docker.)"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

SERVING = Path(__file__).resolve().parents[3] / "serving"
DOCKERFILE = (SERVING / "Dockerfile").read_text().replace("\\\n", " ")
INSTRUCTIONS = [line.split(maxsplit=1) for line in DOCKERFILE.splitlines() if line and not line.startswith("#")]


def given(instruction: str) -> list[str]:
    return [rest for name, rest in INSTRUCTIONS if name == instruction]


def test_its_user_is_a_number_other_than_root() -> None:
    """`runAsNonRoot` refuses a user by name, for it may be root."""
    user = given("USER")[-1]
    assert re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", user), user


def test_its_base_is_pinned_by_digest() -> None:
    (version,) = given("ARG")
    assert re.fullmatch(r"PYTHON=3\.11\.\d+-slim-bookworm@sha256:[0-9a-f]{64}", version), version
    assert {image.split()[0] for image in given("FROM")} == {"python:${PYTHON}"}


def test_it_installs_what_is_asked_for_in_the_versions_that_are_locked() -> None:
    (install,) = given("RUN")
    assert "--require-hashes --requirement requirements.lock" in install
    asked, locked = ((SERVING / f"requirements.{end}").read_text() for end in ("txt", "lock"))
    names = re.findall(r"^([\w-]+==\S+)", asked, re.MULTILINE)
    assert names
    assert set(names) <= set(locked.split())


def test_it_copies_every_module_and_needs_nothing_else_of_the_repository() -> None:
    assert "serving/*.py serving/" in given("COPY")
    assert [path for path in SERVING.rglob("*.py") if path.parent != SERVING] == [], "COPY does not reach folders"
    imported: set[str] = set()
    for module in SERVING.glob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            if isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    locked = {line.split("==")[0].replace("-", "_") for line in (SERVING / "requirements.lock").read_text().split()}
    assert imported - set(sys.stdlib_module_names) - {"serving", "PIL"} <= locked


def test_what_it_copies_is_in_the_build_context() -> None:
    kept = {line[1:] for line in (SERVING / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"}
    copied = {name for names in given("COPY") if "--from" not in names for name in names.split()[:-1]}
    assert copied == kept
