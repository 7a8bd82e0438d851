"""How the server is told to run."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MEBIBYTE = 1024 * 1024


@dataclass(frozen=True)
class Options:
    """What the command line says. `workers` is how many requests are computed at a time, 0 for one a core.

    `model_digest` is the sha256 of the version's `checksums.json`; empty: the files are not compared with anything.
    """

    model_name: str
    model_dir: Path
    model_digest: str = ""
    host: str = "0.0.0.0"  # noqa: S104 - a pod is reached from outside
    port: int = 8080
    intra_op_threads: int = 1
    workers: int = 0
    max_batch: int = 128
    max_body_bytes: int = 32 * MEBIBYTE
    max_waiting: int = 256
    drain_seconds: float = 1.0


def parse_options(arguments: Sequence[str] | None = None) -> Options:
    """Options from the command line, with HOST and PORT from the environment as KServe sets them."""
    parser = argparse.ArgumentParser(prog="python -m serving", description="serve one model over HTTP")
    add = parser.add_argument
    add("--model_name", required=True, help="the name under which the model answers")
    add("--model_dir", type=Path, default=Path("/mnt/models"), help="holds model.onnx and model.json")
    add("--model_digest", default=os.environ.get("MODEL_DIGEST", ""), help="sha256 of the model's checksums.json")
    add("--host", default=os.environ.get("HOST", Options.host), help="address to listen on")
    add("--port", type=int, default=int(os.environ.get("PORT", Options.port)), help="port to listen on")
    add("--intra_op_threads", type=int, default=Options.intra_op_threads, help="threads of one computation")
    add("--workers", type=int, default=Options.workers, help="computations at a time; 0 for one a core")
    add("--max_batch", type=int, default=Options.max_batch, help="images in one request")
    add("--max_body_bytes", type=int, default=Options.max_body_bytes, help="size of one request")
    add("--max_waiting", type=int, default=Options.max_waiting, help="requests under way or waiting, else 503")
    add("--drain_seconds", type=float, default=Options.drain_seconds, help="goes on serving so long after SIGTERM")
    return Options(**vars(parser.parse_args(arguments)))
