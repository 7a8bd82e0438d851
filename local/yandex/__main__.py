"""`python -m local.yandex --state <folder>`: serves until SIGTERM or Ctrl-C; writes `<state>/env.json`."""

from __future__ import annotations

import argparse
import json
import signal
import threading
from pathlib import Path

from local.yandex.stand_in import YandexStandIn


def main() -> None:
    """Serve, say so in one line, and stop every job on the way out."""
    parser = argparse.ArgumentParser(prog="python -m local.yandex", description=__doc__)
    parser.add_argument("--state", type=Path, required=True, help="folder for keys, job folders, unpacked archives")
    parser.add_argument("--port", type=int, default=0, help="gRPC port; 0 is any free one")
    parser.add_argument("--http-port", type=int, default=0, help="port of metadata, Lockbox, /history and /faults")
    parser.add_argument("--creation-seconds", type=float, default=2.0, help="how long a cluster takes to start")
    parser.add_argument("--secrets", type=Path, help='JSON file {"<secret id>": {"<KEY>": "<value>"}}')
    parser.add_argument("--spark-master", default="local[2]", help="master of every job")
    arguments = parser.parse_args()
    secrets = json.loads(arguments.secrets.read_text()) if arguments.secrets else None
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with YandexStandIn(
        arguments.state,
        port=arguments.port,
        http_port=arguments.http_port,
        creation_seconds=arguments.creation_seconds,
        secrets=secrets,
        spark_master=arguments.spark_master,
    ) as stand_in:
        print(f"ready yandex grpc={stand_in.endpoint} http={stand_in.http_url}", flush=True)
        stop.wait()


if __name__ == "__main__":
    main()
