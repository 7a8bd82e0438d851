"""`python -m local.load`: send requests to one service until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import signal
from pathlib import Path

from local.load.generator import LoadGenerator
from local.load.requests import NoImagesError, read_bodies


async def generate(generator: LoadGenerator) -> None:
    """Send until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with generator:
        print(f"ready admin http://{generator.admin_host}:{generator.admin_port}", flush=True)
        await stop.wait()


def main() -> None:
    """Read the command line and send."""
    parser = argparse.ArgumentParser(prog="python -m local.load", description=__doc__)
    parser.add_argument("--ingress", required=True, help="where requests go, as in http://127.0.0.1:8081")
    parser.add_argument("--host", required=True, help="the service's host, as in digits-models.localhost")
    parser.add_argument("--model", required=True, help="the InferenceService's name")
    parser.add_argument("--images", required=True, type=Path, help="folder of PNG and JPEG files, searched deeply")
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second; 0 waits for PUT /rate")
    parser.add_argument("--arrivals", choices=("constant", "poisson"), default="constant", help="gaps of requests")
    parser.add_argument("--concurrency", type=int, default=64, help="requests under way at most")
    parser.add_argument("--admin-port", type=int, default=0, help="port of /rate and /statistics; 0: any free one")
    arguments = parser.parse_args()
    try:
        bodies = read_bodies(arguments.images)
    except NoImagesError as error:
        parser.error(str(error))
    asyncio.run(
        generate(
            LoadGenerator(
                ingress=arguments.ingress,
                host=arguments.host,
                model=arguments.model,
                bodies=bodies,
                rate=arguments.rate,
                arrivals=arguments.arrivals,
                concurrency=arguments.concurrency,
                admin_port=arguments.admin_port,
            )
        )
    )


if __name__ == "__main__":
    main()
