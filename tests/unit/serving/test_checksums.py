"""The server serves the files that were promoted, or nothing."""

import hashlib
import json
import shutil
import time

import pytest
from fastapi.testclient import TestClient

from serving.app import Server, create_app
from serving.exceptions import ModelFilesError
from serving.model import Model
from serving.options import Options, parse_options


@pytest.fixture
def folder(model_folder, tmp_path):
    """A copy of the serving files, with the checksums that promotion writes beside them."""
    copied = shutil.copytree(model_folder, tmp_path / "models")
    checksums = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in copied.iterdir()}
    (copied / "checksums.json").write_text(json.dumps(checksums))
    return copied


@pytest.fixture
def digest(folder):
    return hashlib.sha256((folder / "checksums.json").read_bytes()).hexdigest()


def test_the_files_that_were_promoted_are_loaded(folder, digest):
    assert Model.load(folder, digest=digest).description.model == "shades"


def test_a_version_from_before_digests_is_loaded_without(model_folder):
    assert Model.load(model_folder, digest="").description.model == "shades"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("model.onnx", b"another", "model.onnx is not the file that was promoted"),
        ("model.json", b"{}", "model.json is not the file that was promoted"),
        ("golden.json", b"{}", "golden.json is not the file that was promoted"),
        ("model.onnx", None, "model.onnx cannot be read"),
        ("checksums.json", b"{}", "has the digest .*, promoted was"),
        ("checksums.json", None, "checksums.json cannot be read"),
    ],
)
def test_other_files_are_not_loaded(folder, digest, name, content, said):
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(ModelFilesError, match=said):
        Model.load(folder, digest=digest)


@pytest.mark.parametrize(
    ("checksums", "said"),
    [("[]", "is no list of checksums"), ("{", "is no list of checksums"), ("{}", "does not name model.json")],
)
def test_checksums_that_say_nothing_prove_nothing(folder, checksums, said):
    (folder / "checksums.json").write_text(checksums)
    with pytest.raises(ModelFilesError, match=said):
        Model.load(folder, digest=hashlib.sha256(checksums.encode()).hexdigest())


def test_a_server_with_other_files_never_becomes_ready_and_ends(folder):
    ended = []
    options = Options(model_name="shades", model_dir=folder, model_digest="0" * 64)
    server = Server(options)
    with TestClient(create_app(server, on_failure=lambda: ended.append(True))) as client:
        deadline = time.monotonic() + 60
        while not ended and time.monotonic() < deadline:
            time.sleep(0.01)
        assert client.get("/v2/health/ready").status_code == 503
    assert ended == [True]
    assert "promoted was 000" in str(server.failure)


def test_the_digest_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("MODEL_DIGEST", "a" * 64)
    assert parse_options(["--model_name", "m"]).model_digest == "a" * 64
