import base64
import json

import numpy as np
import onnx
import torch

from serving.preprocessing import Preprocessing
from spark_jobs.network import Classifier, ResNet
from spark_jobs.onnx_model import IR_VERSION, OPSET, OnnxClassifier, export_onnx
from spark_jobs.serving_files import GOLDEN_BYTES, golden_document, model_document

PREPROCESSING = Preprocessing(8, 1, (0.5,), (0.25,))


def test_the_exported_model_answers_as_torch_does_for_any_batch():
    torch.set_num_threads(1)
    classifier = Classifier(ResNet(classes=3, channels=1, width=4, image_size=8)).eval()
    model = export_onnx(classifier, 1, 8)
    assert model.ir_version == IR_VERSION
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [OPSET]
    onnx_classifier = OnnxClassifier(model.SerializeToString(), threads=1)
    for count in (1, 5):
        images = torch.randn(count, 1, 8, 8)
        with torch.inference_mode():
            expected = classifier(images).numpy()
        np.testing.assert_allclose(onnx_classifier(images.numpy()), expected, atol=1e-5)
    assert onnx.load_model_from_string(model.SerializeToString()).graph.output[0].name == "probabilities"


class Brightness:
    """Stands for a classifier: two classes, by the mean."""

    def __call__(self, images):
        bright = 1 / (1 + np.exp(-images.mean(axis=(1, 2, 3))))
        return np.stack([1 - bright, bright], axis=1)


def test_golden_cases_hold_what_the_model_answers():
    pixels = [np.full((8, 8, 1), shade, np.uint8) for shade in (40, 220, 200)]
    document = golden_document(Brightness(), PREPROCESSING, ["dark", "bright"], pixels)
    assert [case["label"] for case in document["cases"]] == ["dark", "bright", "bright"]
    for case in document["cases"]:
        answer = Brightness()(PREPROCESSING([base64.b64decode(case["image"])]))[0]
        np.testing.assert_allclose(case["probabilities"], answer, atol=1e-6)


def test_golden_cases_of_large_photographs_stay_small():
    noise = np.random.default_rng(0).integers(0, 256, (8, 512, 512, 3), np.uint8)
    large = Preprocessing(512, 3, (0.5,) * 3, (0.25,) * 3)
    document = golden_document(Brightness(), large, ["dark", "bright"], noise)
    assert 1 <= len(document["cases"]) < 8
    assert len(json.dumps(document)) < GOLDEN_BYTES + 100_000


def test_the_model_document():
    document = model_document("digits", "run", ["a", "b"], PREPROCESSING)
    assert Preprocessing.from_document(document["preprocessing"]) == PREPROCESSING
    assert document["input"] == {"name": "tensor", "shape": [-1, 1, 8, 8]}
