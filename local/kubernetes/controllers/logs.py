"""Where the logs of pods lie: `<state>/pods/<namespace>_<name>_<uid>/<container>.log`.

As kubelet keeps them, every line begins with its time (RFC 3339, UTC) and a space: a reader that was not asked for
times takes them off.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def pod_folder(state: Path, pod: Mapping[str, Any]) -> Path:
    """The pod's own folder."""
    metadata = pod["metadata"]
    return state / "pods" / f"{metadata['namespace']}_{metadata['name']}_{metadata['uid']}"


def log_file(state: Path, pod: Mapping[str, Any], container: str) -> Path:
    """The container's log; absent until its first start."""
    return pod_folder(state, pod) / f"{container}.log"
