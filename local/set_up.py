"""Makes the one venv that satisfies Airflow, the cluster's jobs, the model server and the tools.

Standard library only: it runs before anything is installed. Prometheus is a system package; as root on
Debian or Ubuntu it is installed, elsewhere one line says how.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
REQUIREMENTS = (
    "requirements.txt",
    "requirements-forecast.txt",
    "spark_jobs/requirements.txt",
    "serving/requirements.txt",
    "local/requirements.txt",
)


def main() -> int:
    """Set up; the exit status is 0 when everything that the package needs is there."""
    if not (3, 11) <= sys.version_info < (3, 13):
        return fail(f"Python 3.11 or 3.12 is needed, this is {sys.version.split()[0]}: make PYTHON=/path/to/python3.11")
    started = time.monotonic()
    log = ROOT / ".local" / "logs" / "set_up.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        if not (VENV / "bin" / "python").exists():
            say("making the virtual environment .venv")
            if not run([sys.executable, "-m", "venv", str(VENV)], output):
                return fail(f"the virtual environment could not be made (Debian: apt-get install python3-venv): {log}")
        say("installing the pinned packages, about four minutes the first time")
        command = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check"]
        for requirements in REQUIREMENTS:
            command += ["--requirement", str(ROOT / requirements)]
        command += ["--constraint", str(ROOT / "local" / "requirements.lock")]
        # Of two builds of one version pip takes the one with a suffix: the CPU's, where this index has it.
        if index := os.environ.get("TORCH_INDEX"):
            command += ["--extra-index-url", index]
        if not run(command, output):
            return fail(f"the packages could not be installed: {last_line(log)} (all of it: {log})")
        if not prometheus(output):
            return fail(
                "Prometheus is needed on PATH: apt-get install prometheus, brew install prometheus, or prometheus.io"
            )
    (VENV / "installed").touch()
    say(f"ready after {time.monotonic() - started:.0f} s")
    return 0


def prometheus(output: object) -> bool:
    """Whether Prometheus is on PATH, after an attempt to install it where that is ours to do."""
    if shutil.which("prometheus"):
        return True
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return False
    say("installing Debian's package prometheus")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    run(["apt-get", "update"], output, environment)
    run(["apt-get", "install", "--yes", "--no-install-recommends", "prometheus"], output, environment)
    return shutil.which("prometheus") is not None


def run(command: list[str], output: object, environment: dict[str, str] | None = None) -> bool:
    """Run a command into the log; whether it succeeded."""
    return subprocess.run(command, stdout=output, stderr=output, env=environment, check=False).returncode == 0  # type: ignore[call-overload]


def last_line(log: Path) -> str:
    """The last thing the log says."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no output"


def say(text: str) -> None:
    """Progress, one line."""
    print(f"set-up: {text}", flush=True)


def fail(reason: str) -> int:
    """The reason in one sentence, and the exit status 1."""
    print(f"set-up failed: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
