import time

import numpy as np
import pytest
from fastapi.testclient import TestClient
from shades import base64_image

from serving.app import Server, create_app
from serving.options import Options, parse_options


def wait_until_ready(client):
    for _ in range(200):
        if client.get("/v2/health/ready").status_code == 200:
            return
        time.sleep(0.02)
    raise AssertionError("never ready")


@pytest.fixture(scope="module")
def client(model_folder):
    server = Server(Options("digits", model_folder, max_batch=4, max_body_bytes=20_000))
    with TestClient(create_app(server), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        yield client


def image_request(*images, **more):
    return {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [len(images)], "data": list(images)}], **more}


def tensor_request(tensor, shape=None, data=None):
    shape = list(tensor.shape) if shape is None else shape
    data = tensor.ravel().tolist() if data is None else data
    return {"inputs": [{"name": "tensor", "datatype": "FP32", "shape": shape, "data": data}]}


def test_v2_tells_dark_from_bright(client):
    answer = client.post("/v2/models/digits/infer", json=image_request(base64_image(0), base64_image(255), id="7"))
    assert answer.status_code == 200
    document = answer.json()
    assert document["model_name"] == "digits"
    assert document["model_version"] == "run1"
    assert document["id"] == "7"
    label, probabilities = document["outputs"]
    assert label == {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["dark", "bright"]}
    assert probabilities["shape"] == [2, 2]
    assert probabilities["data"][0] == pytest.approx(1 / (1 + np.exp(-4)), abs=1e-5)


def test_v2_takes_tensors_flat_and_nested(client):
    tensor = np.stack([np.full((1, 8, 8), -2.0), np.full((1, 8, 8), 2.0)])
    for body in (tensor_request(tensor), tensor_request(tensor, data=tensor.tolist())):
        outputs = client.post("/v2/models/digits/infer", json=body).json()["outputs"]
        assert outputs[0]["data"] == ["dark", "bright"]


def test_v2_answers_only_what_is_asked_for(client):
    body = image_request(base64_image(0), outputs=[{"name": "label"}])
    outputs = client.post("/v2/models/digits/infer", json=body).json()["outputs"]
    assert [output["name"] for output in outputs] == ["label"]


def test_v1(client):
    body = {"instances": [{"image": {"b64": base64_image(255, image_format="JPEG")}}]}
    answer = client.post("/v1/models/digits:predict", json=body)
    assert answer.status_code == 200
    (prediction,) = answer.json()["predictions"]
    assert prediction["label"] == "bright"
    assert sum(prediction["probabilities"]) == pytest.approx(1)
    assert client.get("/v1/models/digits").json() == {"name": "digits", "ready": True}
    assert client.get("/v1/models").json() == {"models": ["digits"]}


def test_metadata_and_health(client):
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2/models/digits/ready").json() == {"name": "digits", "ready": True}
    assert client.get("/v2").json()["name"] == "ml-lifecycle"
    document = client.get("/v2/models/digits").json()
    assert document["versions"] == ["run1"]
    assert {"name": "tensor", "datatype": "FP32", "shape": [-1, 1, 8, 8]} in document["inputs"]
    assert {"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]} in document["outputs"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v2/models/cats"), ("GET", "/v2/models/cats/ready"), ("POST", "/v2/models/cats/infer"),
     ("GET", "/v1/models/cats"), ("POST", "/v1/models/cats:predict")],
)  # fmt: skip
def test_an_unknown_model_is_not_found(client, method, path):
    answer = client.request(method, path, json={})
    assert answer.status_code == 404
    assert answer.json() == {"error": "model 'cats' is unknown; this server has 'digits'"}


ZEROS = np.zeros((1, 1, 8, 8))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "the body is not JSON"),
        (b"[1]", "must be a JSON object, not list"),
        ({}, "inputs must be a list of one input"),
        ({"inputs": [{"name": "picture"}]}, "input name 'picture' is unknown; there are 'image' (BYTES) and"),
        ({"inputs": [{"name": "image", "datatype": "FP32"}]}, "'image' must have datatype BYTES, not 'FP32'"),
        ({"inputs": [{"name": "tensor", "datatype": "FP64"}]}, "'tensor' must have datatype FP32, not 'FP64'"),
        ({"inputs": [{"name": "image", "datatype": "BYTES", "shape": "1"}]}, "must have a shape, a list of integers"),
        ({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1]}]}, "must have data, a list of base64"),
        ({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [2], "data": [""]}]}, "shape [2] but 1 elements"),
        ({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [0], "data": []}]}, "one image or more"),
        (image_request("not base64!"), "element 0 is not valid base64"),
        (image_request("bm8gaW1hZ2U="), "an image cannot be read: the bytes are no image format"),
        (image_request(base64_image(0), id=7), "id must be a string"),
        (image_request(base64_image(0), outputs=[{"name": "logits"}]), "output 'logits' is unknown"),
        (tensor_request(ZEROS, shape=[1, 3, 8, 8]), "must have shape [n, 1, 8, 8], not [1, 3, 8, 8]"),
        (tensor_request(ZEROS, data=[0.0] * 63), "64 numbers, but 63 are given"),
        (tensor_request(ZEROS, data=[[0.0], [0.0, 1.0]]), "flat or nested evenly"),
        (tensor_request(ZEROS, data=["a"] * 64), "flat or nested evenly"),
        (b'{"inputs": [{"name": "tensor", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": ['
         + b", ".join([b"NaN"] * 64) + b"]}]}", "not finite"),
    ],
)  # fmt: skip
def test_what_is_malformed_is_named(client, body, message):
    content = {"content": body} if isinstance(body, bytes) else {"json": body}
    answer = client.post("/v2/models/digits/infer", **content)
    assert answer.status_code == 400, answer.text
    assert message in answer.json()["error"]


@pytest.mark.parametrize("body", [{}, {"instances": []}, {"instances": [1]}, {"instances": [{"image": {"b64": "?"}}]}])
def test_malformed_v1_requests(client, body):
    answer = client.post("/v1/models/digits:predict", json=body)
    assert answer.status_code == 400
    assert "instances" in answer.json()["error"]


def test_what_is_too_large_is_refused(client):
    many = client.post("/v2/models/digits/infer", json=image_request(*[base64_image(0)] * 5))
    assert many.status_code == 413
    assert "5 images in one request are more than the 4" in many.json()["error"]
    long = client.post("/v2/models/digits/infer", content=b" " * 30_000)
    assert long.status_code == 413
    assert "larger than the 20000 bytes" in long.json()["error"]


def tensor_body(shape="[1, 1, 8, 8]", data="0.0"):
    """A V2 request of which two values are text as given, be it JSON or not."""
    return (
        '{"inputs": [{"name": "tensor", "datatype": "FP32", "shape": ' + shape + ', "data": [' + data + "]}]}"
    ).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 15_000,
        b'{"inputs":' * 1_500,
        b'{"inputs": ' + b"[" * 7_000 + b"]" * 7_000 + b"}",
        tensor_body(data="9" * 5_000),
        tensor_body(data="1e400"),
        tensor_body(data="-Infinity"),
        tensor_body(data="[[0.0], [0.0, [1.0]]]"),
        tensor_body(shape="[9223372036854775808, 1, 8, 8]"),
        tensor_body(shape="[-1, 1, 8, 8]"),
        tensor_body(shape="[0, 1, 8, 8]"),
        tensor_body(shape="[NaN, 1, 8, 8]"),
        tensor_body(shape="[1e400]"),
        tensor_body(shape="[true, 1, 8, 8]"),
        tensor_body(shape="[[[1]]]"),
        tensor_body().decode().encode("utf-16"),
        b'{"id": "\xff\xfe", "inputs": []}',
        b"\x00",
        b"",
    ],
    ids=range(18),
)
@pytest.mark.parametrize("path", ["/v2/models/digits/infer", "/v1/models/digits:predict"])
def test_no_body_however_odd_is_an_error_of_the_server(client, path, body):
    answer = client.post(path, content=body)
    assert answer.status_code in {400, 413}, answer.text
    assert answer.json()["error"]


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/../etc/passwd", "/v2/models/..%2f..%2fdigits"])
def test_nothing_else_is_served(client, path):
    assert client.get(path).status_code == 404


def test_paths_and_methods_that_do_not_exist(client):
    assert client.get("/nothing").json() == {"error": "GET /nothing: Not Found"}
    assert client.get("/v2/models/digits/infer").status_code == 405


def test_metrics(client):
    client.post("/v2/models/digits/infer", json=image_request(base64_image(0)))
    client.get("/invented/by/a/client")
    text = client.get("/metrics").text
    assert 'ml_serving_requests_total{code="200",endpoint="/v2/models/{name}/infer"}' in text
    assert 'ml_serving_requests_total{code="404",endpoint="unknown"}' in text
    assert 'ml_serving_request_duration_seconds_bucket{endpoint="/v2/models/{name}/infer",le="0.25"}' in text
    assert 'ml_serving_model_info{model="shades",run_id="run1",version="run1"} 1.0' in text
    assert 'ml_serving_predictions_total{label="dark"}' in text
    assert "invented" not in text


def test_a_full_server_says_so(model_folder):
    with TestClient(create_app(Server(Options("digits", model_folder, max_waiting=0)))) as client:
        wait_until_ready(client)
        answer = client.post("/v2/models/digits/infer", json=image_request(base64_image(0)))
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "1"


def test_a_draining_server_still_answers_but_is_not_ready(model_folder):
    server = Server(Options("digits", model_folder))
    with TestClient(create_app(server)) as client:
        wait_until_ready(client)
        server.draining = True
        assert client.get("/v2/health/ready").status_code == 503
        assert client.post("/v2/models/digits/infer", json=image_request(base64_image(0))).status_code == 200


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("model.json", None, "model.json cannot be read: No such file"),
        ("model.json", "{}", "model.json is no description of a model: KeyError 'model'"),
        ("model.onnx", "nonsense", "model.onnx cannot be loaded"),
    ],
)
def test_a_broken_model_is_reported_and_never_ready(model_folder, tmp_path, file, content, message):
    for name in ("model.onnx", "model.json"):
        (tmp_path / name).write_bytes((model_folder / name).read_bytes())
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_text(content)
    server = Server(Options("digits", tmp_path))
    failed = []
    with TestClient(create_app(server, on_failure=lambda: failed.append(True))) as client:
        for _ in range(200):
            if failed:
                break
            time.sleep(0.02)
        assert client.get("/v2/health/ready").status_code == 503
        assert client.get("/v2/models/digits/ready").status_code == 503
    assert message in str(server.failure)


def test_classes_must_fit_the_graph(model_folder, tmp_path):
    (tmp_path / "model.onnx").write_bytes((model_folder / "model.onnx").read_bytes())
    description = (model_folder / "model.json").read_text()
    (tmp_path / "model.json").write_text(description.replace('"dark"', '"dark", "grey"'))
    server = Server(Options("digits", tmp_path))
    failed = []
    with TestClient(create_app(server, on_failure=lambda: failed.append(True))):
        for _ in range(200):
            if failed:
                break
            time.sleep(0.02)
    assert "model.json names 3 classes" in str(server.failure)


def test_the_environment_names_the_port(monkeypatch, tmp_path):
    monkeypatch.setenv("PORT", "9000")
    options = parse_options(["--model_name=digits", f"--model_dir={tmp_path}"])
    assert options.port == 9000
    assert options.model_dir == tmp_path
    assert options.intra_op_threads == 1
