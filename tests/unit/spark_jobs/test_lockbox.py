import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from spark_jobs import lockbox
from spark_jobs.exceptions import SecretError
from spark_jobs.lockbox import export_secret


class Cloud(BaseHTTPRequestHandler):
    """The metadata service and Lockbox, on one address."""

    def do_GET(self):
        if self.path.endswith("/token") and self.headers["Metadata-Flavor"] == "Google":
            self.answer(200, {"access_token": "t0ken"})
        elif self.path == "/lockbox/v1/secrets/known/payload" and self.headers["Authorization"] == "Bearer t0ken":
            binary = base64.b64encode(b"from binary").decode()
            entries = [{"key": "TEST_TEXT", "textValue": "s3cret"}, {"key": "TEST_BINARY", "binaryValue": binary}]
            self.answer(200, {"entries": entries})
        else:
            self.answer(403, {"message": "denied s3cret"})

    def answer(self, status, document):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(document).encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def cloud(monkeypatch):
    server = HTTPServer(("127.0.0.1", 0), Cloud)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("YC_METADATA_ADDR", f"127.0.0.1:{server.server_port}")
    monkeypatch.setenv("YC_LOCKBOX_PAYLOAD_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("TEST_TEXT", "before")
    monkeypatch.setenv("TEST_BINARY", "before")
    export_secret.cache_clear()
    yield
    server.shutdown()
    server.server_close()


def test_entries_become_environment_variables(cloud, monkeypatch):
    import os

    export_secret("known")
    assert os.environ["TEST_TEXT"] == "s3cret"
    assert os.environ["TEST_BINARY"] == "from binary"


def test_a_refusal_names_the_secret_and_the_role_but_no_content(cloud):
    with pytest.raises(SecretError, match=r"Lockbox secret other .*HTTP 403.*lockbox.payloadViewer") as refusal:
        export_secret("other")
    assert "s3cret" not in str(refusal.value)


def test_no_secret_needs_no_cloud(monkeypatch):
    monkeypatch.setattr(lockbox, "PATIENCE_SECONDS", 0)
    monkeypatch.setenv("YC_METADATA_ADDR", "127.0.0.1:1")
    export_secret.cache_clear()
    export_secret(None)
    with pytest.raises(SecretError, match="IAM token cannot be read"):
        export_secret("known")


def test_a_lockbox_that_is_away_for_a_moment_ends_no_job(cloud, monkeypatch):
    import os

    waits = []
    monkeypatch.setattr(lockbox.time, "sleep", waits.append)
    answers = iter([503, 429, 500])
    whole = Cloud.do_GET

    def throttled(self):
        status = next(answers, None)
        if status is None:
            whole(self)
        else:
            self.answer(status, {})

    monkeypatch.setattr(Cloud, "do_GET", throttled)
    export_secret("known")
    assert os.environ["TEST_TEXT"] == "s3cret"
    assert waits == [0.5, 1.0, 2.0]
