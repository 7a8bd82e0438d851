"""The controllers of the Kubernetes stand-in: Deployments, KServe in both its modes, and pods that really run."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from local.kubernetes.controllers.admission import admit, default
from local.kubernetes.controllers.deployment import DeploymentController
from local.kubernetes.controllers.gateway import GatewayController
from local.kubernetes.controllers.inference_service import InferenceServiceController
from local.kubernetes.controllers.kubelet import Kubelet
from local.kubernetes.controllers.pod import Pace
from local.kubernetes.controllers.revision import RevisionController
from local.kubernetes.controllers.serving import STORAGE_INITIALIZER_IMAGE
from local.kubernetes.controllers.standard_service import StandardServiceController
from local.kubernetes.deployment_mode import DeploymentMode
from local.kubernetes.store import Store
from ml_lifecycle.kubernetes.resource import INFERENCE_SERVICE

_STORAGE_INITIALIZER = Path(__file__).with_name("storage_initializer.py")


async def run_controllers(
    store: Store,
    *,
    state: Path,
    ingress_port: int,
    images: Mapping[str, Mapping[str, Any]],
    deployment_mode: DeploymentMode = "Knative",
    splits_traffic: bool = True,
    scale_to_zero_seconds: float = 30.0,
    pace: Pace = Pace(),  # noqa: B008 - frozen
) -> None:
    """Run until cancelled; every pod's process has ended then.

    `images` maps an image's name to `{"entrypoint": [program, argument, …], "cwd": folder, "env": {…}}`; all but
    the entrypoint may be left out. `state` receives the pods' folders and logs (see `local.kubernetes.logs`).
    `deployment_mode` is KServe's for InferenceServices without the annotation; `splits_traffic=False` makes it KServe
    0.20.0, which in Standard mode starts canaries and sends them no traffic.
    """
    # Isolated and without site-packages: it starts in a few milliseconds.
    own = {STORAGE_INITIALIZER_IMAGE: {"entrypoint": [sys.executable, "-I", "-S", str(_STORAGE_INITIALIZER)]}}
    kubelet = Kubelet(store, state=state, images={**own, **images}, pace=pace)
    store.admit_by(INFERENCE_SERVICE, lambda service, old: admit(service, old, deployment_mode), default)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(kubelet.run())
        tasks.create_task(DeploymentController(store).run())
        tasks.create_task(RevisionController(store, scale_to_zero_seconds=scale_to_zero_seconds).run())
        tasks.create_task(
            InferenceServiceController(store, ingress_port=ingress_port, default_mode=deployment_mode).run()
        )
        tasks.create_task(
            StandardServiceController(
                store, ingress_port=ingress_port, default_mode=deployment_mode, splits_traffic=splits_traffic
            ).run()
        )
        tasks.create_task(GatewayController(store).run())
