"""KServe's finalizer on an InferenceService: written under a field manager of its own, and taken off at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from local.kubernetes.store import Store
from ml_lifecycle.kubernetes.resource import INFERENCE_SERVICE

FINALIZER = "inferenceservice.finalizers"
FIELD_MANAGER = "manager"
"""How KServe's controller is called as a program, and so as a field manager."""


def goes_on(store: Store, service: Mapping[str, Any]) -> bool:
    """Whether there is more to do: what lives bears the finalizer; from what is deleted it goes, and so does that."""
    metadata = service["metadata"]
    present = list(metadata.get("finalizers") or ())
    lives = not metadata.get("deletionTimestamp")
    if lives is (FINALIZER in present):
        return lives
    wanted = [*present, FINALIZER] if lives else None
    others = [name for name in present if name != FINALIZER]
    patch = {"metadata": {"finalizers": wanted or others or None}}
    store.merge_patch(INFERENCE_SERVICE, metadata["name"], metadata["namespace"], patch, field_manager=FIELD_MANAGER)
    return lives
