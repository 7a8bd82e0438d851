"""The server as a process, as a pod runs it, and the smoke test against it."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from serving.smoke_test import main as smoke_test

pytestmark = pytest.mark.slow  # starts programs or a database

REPOSITORY = Path(__file__).parents[3]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(model_folder, *arguments):
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "serving", "--model_name=shades", f"--model_dir={model_folder}", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "HOST": "127.0.0.1", "PORT": str(port)},
        stderr=subprocess.PIPE,
        text=True,
    )
    return process, f"http://127.0.0.1:{port}"


def status(url):
    try:
        return urllib.request.urlopen(url, timeout=5).status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


@pytest.fixture(scope="module")
def server(model_folder):
    process, url = start(model_folder)
    deadline = time.monotonic() + 30
    while status(f"{url}/v2/health/ready") != 200:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield url
    process.terminate()
    process.communicate(timeout=20)


def run_smoke_test(capsys, *arguments):
    code = smoke_test(list(arguments))
    return code, json.loads(capsys.readouterr().out)


def test_the_smoke_test_passes(server, model_folder, capsys):
    host = "http://shades-models.localhost:1"
    golden = str(model_folder / "golden.json")
    code, report = run_smoke_test(capsys, "--url", host, "--connect", server, "--model", "shades", "--golden", golden)
    assert code == 0, report
    assert report["passed"]
    names = [check["check"] for check in report["checks"]]
    assert names == ["ready", "contract", *[f"golden {n}" for n in range(4)], "refuses nonsense", "latency"]
    assert report["latency_seconds"]["slowest"] > 0


def test_another_models_answers_fail_the_smoke_test(server, model_folder, tmp_path, capsys):
    golden = json.loads((model_folder / "golden.json").read_text())
    golden["cases"][1]["probabilities"] = [0.5, 0.5]
    golden["latency_budget_seconds"] = 0.0
    path = tmp_path / "golden.json"
    path.write_text(json.dumps(golden))
    code, report = run_smoke_test(capsys, "--url", server, "--model", "shades", "--golden", str(path))
    assert code == 1
    failed = {check["check"]: check["detail"] for check in report["checks"] if not check["passed"]}
    assert set(failed) == {"golden 1", "latency"}
    assert "more than 0.001" in failed["golden 1"]
    assert "budget of 0.000 s" in failed["latency"]


def test_a_server_of_the_bare_graph_is_asked_by_preprocessed_images(server, model_folder, tmp_path, capsys):
    """Our server takes tensors as Triton does; without its `label` nothing but probabilities can be compared."""
    golden = json.loads((model_folder / "golden.json").read_text())
    golden["model"] = json.loads((model_folder / "model.json").read_text())
    path = tmp_path / "golden.json"
    path.write_text(json.dumps(golden))
    asked = ["--url", server, "--model", "shades", "--golden", str(path), "--cases", "tensors"]
    code, report = run_smoke_test(capsys, *asked)
    assert code == 0, report
    assert [check["check"] for check in report["checks"]] == [
        *("ready", "contract"),
        *[f"golden {number}" for number in range(4)],
        "latency",
    ]
    golden["model"]["preprocessing"]["mean"] = [0.9]
    path.write_text(json.dumps(golden))
    code, report = run_smoke_test(capsys, *asked)
    assert code == 1
    assert "another preprocessing" in report["checks"][2]["detail"]
    del golden["model"]
    path.write_text(json.dumps(golden))
    code, report = run_smoke_test(capsys, *asked)
    assert "cannot be asked by an image" in report["checks"][2]["detail"]


def protocol_case(protocol, golden):
    """A golden image as the request and response of one protocol."""
    (image, label, chances) = (golden["cases"][0][key] for key in ("image", "label", "probabilities"))
    if protocol == "v1":
        request = {"instances": [{"image": {"b64": image}}]}
        return {"request": request, "response": {"predictions": [{"label": label, "probabilities": chances}]}}
    request = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [image]}]}
    return {"request": request, "response": {"outputs": [{"data": [label]}, {"data": chances}]}}


@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_any_server_is_asked_by_the_requests_that_a_version_brings(protocol, server, model_folder, tmp_path, capsys):
    case = protocol_case(protocol, json.loads((model_folder / "golden.json").read_text()))
    path = tmp_path / "golden.json"
    path.write_text(json.dumps({"cases": [case, case]}))
    asked = ["--url", server, "--model", "shades", "--golden", str(path), "--protocol", protocol]
    asked += ["--cases", "requests"]
    code, report = run_smoke_test(capsys, *asked, "--latency-budget", "5")
    assert code == 0, report
    names = [check["check"] for check in report["checks"]]
    assert names == ["ready", "contract", "golden 0", "golden 1", "latency"]
    case["response"] = {"predictions" if protocol == "v1" else "outputs": []}
    path.write_text(json.dumps({"cases": [case]}))
    code, report = run_smoke_test(capsys, *asked, "--latency-budget", "0")
    assert code == 1
    failed = {check["check"]: check["detail"] for check in report["checks"] if not check["passed"]}
    assert set(failed) == {"golden 0", "latency"}
    assert "expected are 0" in failed["golden 0"]


def test_without_golden_cases_only_readiness_and_metadata_are_asked(server, tmp_path, capsys):
    path = tmp_path / "golden.json"
    path.write_text('{"cases": []}')
    asked = ["--url", server, "--model", "shades", "--golden", str(path), "--cases", "requests"]
    code, report = run_smoke_test(capsys, *asked)
    assert (code, [check["check"] for check in report["checks"]]) == (0, ["ready", "contract"])
    code, report = run_smoke_test(capsys, *asked, "--latency-budget", "1")
    assert report["checks"][-1] == {
        "check": "latency",
        "passed": True,
        "detail": "no golden case was asked, so nothing was timed",
    }


def test_an_absent_model_fails_the_smoke_test(server, model_folder, tmp_path, capsys):
    golden = str(model_folder / "golden.json")
    options = ["--model", "cats", "--golden", golden, "--wait", "0.1"]
    code, report = run_smoke_test(capsys, "--url", server, *options)
    assert code == 1
    assert "model 'cats' is unknown" in report["checks"][0]["detail"]
    code, report = run_smoke_test(capsys, "--url", f"http://127.0.0.1:{free_port()}", *options)
    assert code == 1
    assert "refused" in report["checks"][0]["detail"]
    code, report = run_smoke_test(capsys, "--url", server, "--model", "shades", "--golden", str(tmp_path / "none"))
    assert code == 1
    assert "No such file" in report["checks"][0]["detail"]


POST = b"POST /v2/models/shades/infer HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    "request_bytes",
    [
        POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
        POST + b"Transfer-Encoding: xchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        POST + b"Content-Length : 2\r\n\r\n{}",
        POST + b"Content-Length: +2\r\n\r\n{}",
        POST + b"Content-Length: -2\r\n\r\n{}",
        POST + b"X: a\0b\r\nContent-Length: 2\r\n\r\n{}",
        b"GET /v2/\rmodels/shades HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v2/models/../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=[
        "two lengths",
        "an unknown coding",
        "a blank before the colon",
        "a signed length",
        "a negative length",
        "a NUL",
        "a CR in the path",
        "dots in the path",
    ],
)
def test_a_request_that_two_readers_could_read_differently_is_refused(server, request_bytes):
    """One answer, which refuses; then the connection ends, so that no rest is taken for a second request."""
    answer = answer_to(server, request_bytes)
    assert answer.count(b"HTTP/1.1 ") <= 1
    assert not answer or 400 <= int(answer.split()[1]) < 500, answer
    assert status(f"{server}/v2/health/ready") == 200


@pytest.mark.parametrize("version", [b"", b" HTTP/0.9", b" HTTP/1.1"])
def test_a_request_without_a_host_gets_one_answer_at_most(server, version):
    """Our server serves one model whatever it is called by, so there is nothing to confuse."""
    assert answer_to(server, b"GET /v2/models/shades" + version + b"\r\n\r\n").count(b"HTTP/1.1 ") <= 1


def answer_to(server, request_bytes):
    """All that comes back over a connection of its own."""
    port = int(server.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(request_bytes)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(65_536):
            answer += part
    return answer


def test_sigterm_lets_requests_end_and_exits_cleanly(model_folder):
    process, url = start(model_folder, "--drain_seconds=0.5")
    deadline = time.monotonic() + 30
    while status(f"{url}/v2/health/ready") != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    seen = []
    answered = threading.Event()

    def watch():
        while (code := status(f"{url}/v2/health/ready")) is not None:
            seen.append((code, status(f"{url}/v2/models/shades")))
            time.sleep(0.05)
        answered.set()

    threading.Thread(target=watch, daemon=True).start()
    _, log = process.communicate(timeout=20)
    assert answered.wait(5)
    assert process.returncode == 0, log
    assert (503, 200) in seen


def test_a_missing_model_ends_the_server_with_its_reason(tmp_path):
    process, _ = start(tmp_path)
    _, log = process.communicate(timeout=30)
    assert process.returncode == 1
    assert f"{tmp_path}/model.json cannot be read" in log
    assert "Traceback" not in log
