"""The cluster's Python environment as one archive, built once for each lock file: `make environment`.

The archive is a virtual environment made relocatable by venv-pack. It holds no Python of its own: it finds that of the
hosts below `--python-prefix`, so it is best built on a host of the cluster's image, where nothing need be said. Spark's
own pyspark is left out, because a cluster brings its own.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import venv_pack

REPOSITORY = Path(__file__).resolve().parent.parent
LOCK = REPOSITORY / "spark_jobs" / "requirements.lock"
CLUSTER_BRINGS = "pyspark"


def archive_name(lock: str, python: str, prefix: str | None) -> str:
    """`environment-<digest>.tar.gz`: another lock, Python or prefix makes another archive."""
    digest = hashlib.sha256("\0".join((lock, python, prefix or "")).encode()).hexdigest()
    return f"environment-{digest[:16]}.tar.gz"


def shipped(lock: str) -> str:
    """The lock without what the cluster brings, each package with its hashes."""
    packages = re.split(r"^(?=[a-z0-9])", lock, flags=re.MULTILINE | re.IGNORECASE)
    return "".join(package for package in packages if not package.startswith(f"{CLUSTER_BRINGS}=="))


def build(folder: Path, prefix: str | None) -> Path:
    """The archive in `folder`: found, or built."""
    lock = shipped(LOCK.read_text())
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    archive = folder / archive_name(lock, python, prefix)
    if archive.exists():
        return archive
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        environment = Path(scratch) / "environment"
        venv.create(environment, with_pip=True, symlinks=True)
        wanted = Path(scratch) / "requirements.lock"
        wanted.write_text(lock)
        install = ["-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
        listed = ["--require-hashes", "--no-deps", "--requirement", str(wanted)]
        subprocess.run([str(environment / "bin" / "python"), *install, *listed], check=True)
        draft = folder / f".{os.getpid()}.tar.gz"
        venv_pack.pack(prefix=str(environment), output=str(draft), python_prefix=prefix)
        draft.replace(archive)
    return archive


def main() -> None:
    """Build it and say where it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=REPOSITORY / "dist", help="folder of the archive")
    parser.add_argument("--python-prefix", help="sys.base_prefix of Python 3.11 on the cluster's hosts, if not as here")
    arguments = parser.parse_args()
    archive = build(arguments.output, arguments.python_prefix)
    print(f"{archive} ({archive.stat().st_size / 1e6:.0f} MB): name it in the setting cluster.environment")


if __name__ == "__main__":
    main()
