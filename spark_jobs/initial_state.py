"""Start from the weights of an earlier training in the data lake."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spark_jobs import checkpoints, storage
from spark_jobs.exceptions import TrainingError
from spark_jobs.job import say
from spark_jobs.network import HEAD, ResNet

STATE = "state.pt"


def load_initial_state(network: ResNet, uri: str, classes: Sequence[str]) -> None:
    """Load the weights at `uri`, a state or a folder of checkpoints, by name; the head only for the same classes.

    Raises TrainingError if anything but the head does not fit.
    """
    file, saved = _read(uri)
    have, want = saved["configuration"], network.configuration
    for key in ("channels", "width", "depth"):
        if have[key] != want[key]:
            raise TrainingError(
                f"training.initial_state = {uri!r} does not fit: its network has {key} {have[key]}, this training "
                f"{want[key]}; set {key} to {have[key]}, or name another state"
            )
    weights = saved["state"]
    same_head = saved["classes"] == list(classes)
    if not same_head:
        weights = {name: value for name, value in weights.items() if not name.startswith(HEAD)}
    missing, unexpected = network.load_state_dict(weights, strict=False)
    wrong = [name for name in [*missing, *unexpected] if not name.startswith(HEAD)]
    if wrong:
        raise TrainingError(f"training.initial_state = {uri!r} does not fit: {wrong[0]} is in one network only")
    say(
        f"started from {file}"
        + ("" if same_head else f", without its head, which knows {len(saved['classes'])} classes")
    )


def _read(uri: str) -> tuple[str, dict[str, Any]]:
    file = uri
    if not storage.exists(uri):
        found = [STATE] if storage.exists(storage.join(uri, STATE)) else checkpoints.names(uri)
        if not found:
            raise TrainingError(
                f"training.initial_state = {uri!r}: there is neither a file nor a folder of checkpoints"
            )
        file = storage.join(uri, found[0])
    saved = checkpoints.read_state(file)
    if "learner" in saved:  # a checkpoint
        saved = {**saved["model"], "state": saved["best"] or saved["learner"]["network"]}
    if not saved.keys() >= {"configuration", "classes", "state"}:
        raise TrainingError(f"training.initial_state = {uri!r}: {file} holds no state of this job's training")
    return file, saved
