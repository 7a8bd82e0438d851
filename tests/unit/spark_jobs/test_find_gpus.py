"""The script by which Spark learns the GPUs of a host, with an nvidia-smi of our own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "spark_jobs" / "find_gpus.sh"


def run(folder: Path, nvidia_smi: str | None) -> subprocess.CompletedProcess[str]:
    if nvidia_smi is not None:
        (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{nvidia_smi}\n")
        (folder / "nvidia-smi").chmod(0o755)
    environment = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(["sh", str(SCRIPT)], capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize(("said", "addresses"), [("echo 0", ["0"]), (r"printf '0\n1\n'", ["0", "1"])])
def test_spark_gets_the_indices_of_the_gpus(tmp_path: Path, said: str, addresses: list[str]) -> None:
    found = run(tmp_path, said)

    assert found.returncode == 0
    assert json.loads(found.stdout) == {"name": "gpu", "addresses": addresses}


def test_a_host_without_driver_says_what_is_missing(tmp_path: Path) -> None:
    found = run(tmp_path, "exit 9")

    assert found.returncode == 1
    assert found.stdout == ""
    assert "NVIDIA driver: install it by an initialization action" in found.stderr
