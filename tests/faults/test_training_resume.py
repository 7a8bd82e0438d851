"""A training that loses its processes: killed without a word, then told to end, it ends with the same weights."""

import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from spark_jobs import storage
from spark_jobs.checkpoints import read_state
from spark_jobs.prepared import DOCUMENT, FORMAT, write_shard

REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
SCRIPT = """
import json, sys
from spark_jobs.training import run_process
result = run_process(sys.argv[1])
if result["state_uri"] and __import__("os").environ["RANK"] == "0":
    print("result", json.dumps(result), flush=True)
"""
PATIENCE = 120
OFTEN, SELDOM = 1e-9, 1e9


@pytest.fixture
def prepared_uri(tmp_path):
    """480 small images, so that an epoch of two processes has 60 batches of four."""
    uri = f"file://{tmp_path}/prepared/shades/abc"
    random = np.random.default_rng(0)
    document = {
        "format": FORMAT, "digest": "abc", "encoding": "pixels", "classes": ["bright", "dark"],
        "preprocessing": {"image_size": 8, "channels": 1, "mean": [0.5], "std": [0.25]},
    }  # fmt: skip
    for split, shards in (("train", 6), ("holdout", 1)):
        document[split] = []
        for shard in range(shards):
            labels = [int(row % 4 == 0) for row in range(100)]
            pixels = [random.integers(0 if dark else 50, 200 if dark else 256, (8, 8, 1), np.uint8) for dark in labels]
            file = f"{split}/shard-{shard:05d}.parquet"
            write_shard(storage.join(uri, file), labels, [image.tobytes() for image in pixels])
            document[split].append({"file": file, "rows": len(labels)})
    storage.write_json(storage.join(uri, DOCUMENT), document)
    return uri


@pytest.fixture
def tracking():
    """As much of MLflow's server as a training writes to: its URI, and the names of the metrics that came."""
    metrics = set()

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            metrics.update(metric["key"] for metric in (json.loads(body or b"{}")).get("metrics", []))
            info = {"run_id": "run", "experiment_id": "0", "status": "RUNNING", "artifact_uri": "file:///none"}
            answer = json.dumps({"run": {"info": info, "data": {}}}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = answer  # noqa: N815

        def log_message(self, *_):
            """Be quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", metrics
        server.shutdown()


class Job:
    """Two training processes under torchrun, as TorchDistributor starts them."""

    def __init__(self, folder, specification):
        script = folder / "process.py"
        script.write_text(SCRIPT)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_WAIT_POLICY": "PASSIVE"}
        self.lines = []
        self.process = subprocess.Popen(
            [*command, json.dumps(specification)],
            cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.reader = threading.Thread(target=lambda: self.lines.extend(self.process.stdout), daemon=True)
        self.reader.start()

    def wait_until(self, happened):
        deadline = time.monotonic() + PATIENCE
        while not happened():
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.002)

    def kill(self):
        for process in [*psutil.Process(self.process.pid).children(recursive=True), psutil.Process(self.process.pid)]:
            process.kill()
        self.output()

    def output(self):
        self.process.wait(PATIENCE)
        self.reader.join(PATIENCE)
        return "".join(self.lines)

    def result(self):
        output = self.output()
        assert self.process.returncode == 0, output
        return json.loads(re.search(r"^result (.*)$", output, re.MULTILINE)[1])


def test_killed_and_preempted_in_the_middle_of_an_epoch_it_ends_with_the_same_weights(prepared_uri, tracking, tmp_path):
    tracking_uri, metrics = tracking
    specification = {
        "prepared_uri": prepared_uri, "tracking_uri": tracking_uri, "run_id": "run", "result_uri": "file:///unused",
        "secret_id": None, "epochs": 4, "fraction": 1.0, "batch_size": 4, "accumulation": 2, "learning_rate": 0.01,
        "weight_decay": 0.05, "label_smoothing": 0.1, "class_weights": "balanced", "flip": True, "shift": 0.2,
        "validation": 0.2, "patience": 4, "processes": 2, "loader_workers": None, "width": 4, "depth": 1,
        "initial_state": None, "precision": "auto", "checkpoint_minutes": SELDOM, "seed": 3, "gpu": False,
        "image_size": 8, "channels": 1,
    }  # fmt: skip
    whole = Job(tmp_path, specification | {"checkpoint_uri": f"file://{tmp_path}/whole"}).result()
    assert whole["resumed_from"] is None

    folder = tmp_path / "interrupted"
    interrupted = specification | {"checkpoint_uri": f"file://{folder}"}
    job = Job(tmp_path, interrupted | {"checkpoint_minutes": OFTEN})
    job.wait_until(lambda: (folder / "epoch-00001-batch-0000020.pt").exists())
    job.kill()
    assert not (folder / "state.pt").exists()
    newest = max(path.name for path in folder.glob("epoch-*.pt"))
    epoch, batch = map(int, re.findall(r"\d+", newest))
    assert 0 < batch < 60, newest

    job = Job(tmp_path, interrupted)
    # Seldom: the only checkpoint in the middle of an epoch is that of the signal.
    job.wait_until(lambda: any(line.startswith("epoch 3/4") for line in job.lines))
    job.process.send_signal(signal.SIGTERM)
    output = job.output()
    assert job.process.returncode != 0
    assert f"resumed at epoch {epoch + 1}, batch {batch + 1}\n" in output
    assert "told to end in epoch 4 after batch" in output
    preempted = max(path.name for path in folder.glob("epoch-*.pt"))
    assert re.fullmatch(r"epoch-00003-batch-00000[2-6]0.pt", preempted)

    resumed = Job(tmp_path, interrupted).result()
    assert resumed["resumed_from"] == {"epoch": 4, "batch": int(preempted[-5:-3]) + 1}
    expected, found = (read_state(result["state_uri"])["state"] for result in (whole, resumed))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    same = ("train_loss", "holdout_accuracy", "best_epoch", "epochs", "train_images")
    assert {key: resumed[key] for key in same} == {key: whole[key] for key in same}
    for rank in range(2):
        assert f"system/rank-{rank}/cpu_utilization_percentage" in metrics
    assert {"epoch_train_loss", "epoch_validation_loss"} <= metrics
