import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from shades import base64_image, encoded

from serving.model import Model
from serving.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(8, 1, (0.5,), (0.25,))


def brightness_model() -> bytes:
    """Two classes, by the mean of the image: softmax([-mean, mean])."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["tensor"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    weights = helper.make_tensor("weights", TensorProto.FLOAT, [1, 2], [-1.0, 1.0])
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("tensor", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 2])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.fixture
def graph():
    """The graph that the serving files hold."""
    return onnx.load_from_string(brightness_model())


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """The serving files of a model that tells dark from bright, golden cases included."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "model.onnx").write_bytes(brightness_model())
    document = {
        "model": "shades",
        "run_id": "run1",
        "classes": ["dark", "bright"],
        "preprocessing": PREPROCESSING.to_document(),
        "input": {"name": "tensor", "shape": [-1, 1, 8, 8]},
        "output": {"name": "probabilities"},
    }
    (folder / "model.json").write_text(json.dumps(document))
    model = Model.load(folder)
    cases = []
    for shade in (0, 60, 200, 255):
        prediction = model.predict_images([encoded(shade)])
        case = {"image": base64_image(shade), "label": prediction.labels[0]}
        cases.append({**case, "probabilities": prediction.probabilities[0].astype(np.float64).tolist()})
    golden = {"cases": cases, "tolerance": 0.001, "latency_budget_seconds": 5.0}
    (folder / "golden.json").write_text(json.dumps(golden))
    return folder


@pytest.fixture(scope="session")
def model(model_folder):
    return Model.load(model_folder)
