"""What the params of one run may not loosen. Pure.

A locked path holds for all below it. A param may still tighten a locked setting where it is known which way that is,
and may say what the settings say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from ml_lifecycle.exceptions import SettingsError

DEFAULT_LOCKS = ("gate", "cost", "serving.namespace", "serving.image")

# Which way is tighter; None stands for "no limit".
TIGHTER: Mapping[str, Literal["higher", "lower"]] = {
    "gate.min_accuracy": "higher",
    "gate.max_loss": "lower",
    "gate.max_accuracy_drop": "lower",
    "gate.confidence": "higher",
    "gate.min_class_accuracy": "higher",
    "gate.max_model_mb": "lower",
    "gate.max_latency_ms": "lower",
    "gate.max_onnx_difference": "lower",
    "gate.approval.required": "higher",
    "cost.limit": "lower",
}


def lock_of(path: str, locked: Iterable[str]) -> str | None:
    """The locked path that covers a setting, or lies within it; None where it is free."""
    return next((lock for lock in locked if f"{path}.".startswith(f"{lock}.") or lock.startswith(f"{path}.")), None)


def check_lock(path: str, lock: str, settled: Any, asked: Any) -> None:
    """SettingsError where `asked` loosens what is `settled`."""
    if asked == settled or _tightens(path, settled, asked):
        return
    way = TIGHTER.get(path)
    may = (
        f"a run may only make it {'stricter' if isinstance(settled, bool) else way}"
        if way
        else "a run may not change it"
    )
    raise SettingsError(
        f"{path} = {asked!r}: it is locked at {settled!r}, and {may}; change the Variable ml_lifecycle, or take "
        f"{lock!r} out of its list `locked`"
    )


def _tightens(path: str, settled: Any, asked: Any) -> bool:
    way = TIGHTER.get(path)
    if way is None or asked is None:
        return False
    if settled is None:
        return True
    return bool(asked >= settled if way == "higher" else asked <= settled)
