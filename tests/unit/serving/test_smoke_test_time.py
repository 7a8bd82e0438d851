"""A smoke test ends in its time, whatever the server does."""

import json
import socket
import threading
import time

import pytest

from serving import smoke_test


@pytest.fixture
def dripping():
    """A server whose answer never ends: a byte at a time, always before the client loses its patience."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(1)
        over = threading.Event()

        def serve():
            connection, _ = listening.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                while not over.wait(0.05):
                    connection.sendall(b" ")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        over.set()
        thread.join(5)


def test_a_server_that_drips_its_answer_fails_the_test_in_time(dripping, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SMOKE_TEST_SECONDS", "0.5")
    golden = tmp_path / "golden.json"
    golden.write_text('{"cases": []}')
    started = time.monotonic()
    assert smoke_test.main(["--url", dripping, "--model", "digits", "--golden", str(golden)]) == 1
    assert time.monotonic() - started < 20
    report = json.loads(capsys.readouterr().out)
    assert report["checks"][-1] == {"check": "time", "passed": False, "detail": "the test was not over after 0.5 s"}


def test_an_answer_without_measure_is_not_read(monkeypatch, tmp_path):
    monkeypatch.setattr(smoke_test, "LARGEST_ANSWER", 10)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(1)

        def serve():
            connection, _ = listening.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n" + b"x" * 11)

        threading.Thread(target=serve, daemon=True).start()
        endpoint = smoke_test.Endpoint(f"http://127.0.0.1:{listening.getsockname()[1]}", None)
        with pytest.raises(smoke_test.CheckFailedError, match="more than 10 bytes"):
            endpoint.call("GET", "/v2/models/digits/ready")
