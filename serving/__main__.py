"""`python -m serving --model_name=<name> --model_dir=/mnt/models`: serve until SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import sys
from types import FrameType

import uvicorn

from serving.app import Server, create_app
from serving.options import parse_options


class DrainingServer(uvicorn.Server):
    """Goes on serving for a moment after SIGTERM, while routers still send requests here, saying it is not ready."""

    def __init__(self, config: uvicorn.Config, server: Server) -> None:
        super().__init__(config)
        self._server = server

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal; the second one ends at once."""
        if self._server.draining or not self._server.ready:
            super().handle_exit(sig, frame)
            return
        self._server.draining = True
        asyncio.get_running_loop().call_later(
            self._server.options.drain_seconds, lambda: setattr(self, "should_exit", True)
        )


def main() -> int:
    """Serve; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    options = parse_options()
    server = Server(options)
    config = uvicorn.Config(
        create_app(server, on_failure=lambda: setattr(http, "should_exit", True)),
        host=options.host,
        port=options.port,
        access_log=False,
        log_config=None,
        # Longer than routers keep idle connections, so that none is closed under a request.
        timeout_keep_alive=120,
        timeout_graceful_shutdown=30,
    )
    http = DrainingServer(config, server)
    http.run()
    return 1 if server.failure or not http.started else 0


if __name__ == "__main__":
    sys.exit(main())
