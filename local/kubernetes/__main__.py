"""Starts the Kubernetes stand-in: `python -m local.kubernetes --state <folder>`; SIGTERM stops it and its pods."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
from pathlib import Path
from typing import Any

from local.kubernetes.stand_in import serve
from local.kubernetes.store import Store


def main() -> None:
    """Serves until it is told to stop."""
    parser = argparse.ArgumentParser(prog="local.kubernetes", description=__doc__)
    parser.add_argument("--state", type=Path, required=True, help="folder for the kubeconfig and the pods")
    parser.add_argument("--port", type=int, default=0, help="of the API; 0: any free one")
    parser.add_argument("--ingress-port", type=int, default=0, help="the port that services' URLs name")
    parser.add_argument("--images", default="{}", help="JSON: image name to entrypoint and cwd; or the path of a file")
    parser.add_argument("--namespace", action="append", default=[], help="made at the start (default: models)")
    parser.add_argument(
        "--deployment-mode",
        choices=("Knative", "Standard"),
        default="Knative",
        help="KServe's, for InferenceServices without the annotation serving.kserve.io/deploymentMode",
    )
    parser.add_argument(
        "--no-traffic-split", action="store_true", help="in Standard mode, as KServe 0.20.0: canaries get no traffic"
    )
    arguments = parser.parse_args()
    arguments.state = arguments.state.resolve()
    arguments.state.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    asyncio.run(_run(arguments))


async def _run(arguments: argparse.Namespace) -> None:
    from local.kubernetes.controllers import run_controllers

    state: Path = arguments.state
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    store = Store()
    namespaces = arguments.namespace or ["models"]
    async with serve(store, state=state, port=arguments.port, namespaces=namespaces) as kubeconfig:
        controllers = asyncio.create_task(
            run_controllers(
                store,
                state=state,
                ingress_port=arguments.ingress_port,
                images=_images(arguments.images),
                deployment_mode=arguments.deployment_mode,
                splits_traffic=not arguments.no_traffic_split,
            )
        )
        print(f"ready kubeconfig={kubeconfig}", flush=True)
        stopping = asyncio.create_task(stopped.wait())
        await asyncio.wait({controllers, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        controllers.cancel()
        await asyncio.gather(controllers, return_exceptions=not controllers.done())


def _images(text: str) -> dict[str, Any]:
    if not text.lstrip().startswith("{"):
        text = Path(text).read_text()
    images: dict[str, Any] = json.loads(text)
    return images


if __name__ == "__main__":
    main()
