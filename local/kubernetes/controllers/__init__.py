"""The controllers of the Kubernetes stand-in: Deployments, Revisions, InferenceServices, and pods that really run."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from local.kubernetes.controllers.deployment import DeploymentController
from local.kubernetes.controllers.inference_service import InferenceServiceController
from local.kubernetes.controllers.kubelet import Kubelet
from local.kubernetes.controllers.pod import Pace
from local.kubernetes.controllers.revision import RevisionController
from local.kubernetes.controllers.serving import STORAGE_INITIALIZER_IMAGE
from local.kubernetes.store import Store

_STORAGE_INITIALIZER = Path(__file__).with_name("storage_initializer.py")


async def run_controllers(
    store: Store,
    *,
    state: Path,
    ingress_port: int,
    images: Mapping[str, Mapping[str, Any]],
    scale_to_zero_seconds: float = 30.0,
    pace: Pace = Pace(),  # noqa: B008 - frozen
) -> None:
    """Run until cancelled; every pod's process has ended then.

    `images` maps an image's name to `{"entrypoint": [program, argument, …], "cwd": folder, "env": {…}}`; all but
    the entrypoint may be left out. `state` receives the pods' folders and logs (see `local.kubernetes.logs`).
    """
    # Isolated and without site-packages: it starts in a few milliseconds.
    own = {STORAGE_INITIALIZER_IMAGE: {"entrypoint": [sys.executable, "-I", "-S", str(_STORAGE_INITIALIZER)]}}
    kubelet = Kubelet(store, state=state, images={**own, **images}, pace=pace)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(kubelet.run())
        tasks.create_task(DeploymentController(store).run())
        tasks.create_task(RevisionController(store, scale_to_zero_seconds=scale_to_zero_seconds).run())
        tasks.create_task(InferenceServiceController(store, ingress_port=ingress_port).run())
