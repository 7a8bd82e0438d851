"""`python -m local.ingress --kubeconfig <path> --port <p> --admin-port <p>`: serve until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal

from local.ingress.cluster import follow_cluster
from local.ingress.server import Ingress
from ml_lifecycle.kubernetes.client import KubernetesClient


async def serve(kubeconfig: str, host: str, port: int, admin_port: int) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with (
        KubernetesClient.from_kubeconfig(kubeconfig) as client,
        Ingress(host=host, port=port, admin_port=admin_port) as ingress,
    ):
        following = asyncio.create_task(follow_cluster(client, ingress.routes))
        stopping = asyncio.create_task(stop.wait())
        print(f"ready http://{host}:{ingress.port} admin http://{host}:{ingress.admin_port}", flush=True)
        await asyncio.wait({following, stopping}, return_when=asyncio.FIRST_COMPLETED)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        if not stop.is_set():
            following.result()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m local.ingress", description=__doc__)
    parser.add_argument("--kubeconfig", required=True, help="path of the cluster's kubeconfig")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="port for requests; 0: any free one")
    parser.add_argument("--admin-port", type=int, default=0, help="port of /metrics, /faults and /routes")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    asyncio.run(serve(arguments.kubeconfig, arguments.host, arguments.port, arguments.admin_port))


if __name__ == "__main__":
    main()
