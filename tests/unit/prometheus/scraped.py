"""A real Prometheus that scrapes what a test shows it."""

import socket
import subprocess
from contextlib import contextmanager

from tests.unit.prometheus.expositions import target


class World:
    """What is scraped, and the Prometheus that scrapes it four times a second."""

    def __init__(self, text):
        self.text = text

    @contextmanager
    def prometheus(self, folder, *, seconds=0.0):
        with target(lambda: self.text(), seconds=seconds) as scraped, socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
            probe.close()
            folder.mkdir(exist_ok=True)
            configuration = folder / "prometheus.yml"
            configuration.write_text(
                "global: {scrape_interval: 250ms, scrape_timeout: 240ms}\n"
                f"scrape_configs: [{{job_name: plane, static_configs: [{{targets: ['127.0.0.1:{scraped}']}}]}}]\n"
            )
            process = subprocess.Popen(
                ["prometheus", f"--config.file={configuration}", f"--storage.tsdb.path={folder / 'data'}"]
                + [f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
            )
            try:
                yield f"http://127.0.0.1:{port}"
            finally:
                process.terminate()
                process.wait(10)
