"""The files that a model server needs: `model.onnx`, `model.json` and `golden.json`."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from serving.preprocessing import Preprocessing
from spark_jobs.onnx_model import INPUT, OUTPUT, OnnxClassifier

if TYPE_CHECKING:
    from spark_jobs.contestant import Contestant

GOLDEN_BYTES = 400_000
TOLERANCE = 0.001
LATENCY_BUDGET_SECONDS = 1.0
PNG_SIDE = 64


def serving_files(
    model: str, run_id: str, candidate: Contestant, classes: Sequence[str], images: Iterable[NDArray[np.uint8]]
) -> dict[str, bytes]:
    """What a server of this very model needs, by file name; `images` as for `golden_document`."""
    golden = golden_document(candidate.classifier, candidate.preprocessing, classes, images)
    described = model_document(model, run_id, classes, candidate.preprocessing)
    return {
        "model.onnx": candidate.model,
        "model.json": json.dumps(described, indent=2).encode(),
        "golden.json": json.dumps(golden).encode(),
    }


def digests(files: Mapping[str, bytes]) -> dict[str, str]:
    """The sha256 of each file: what was judged is what is published and served, or nothing is."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def model_document(model: str, run_id: str, classes: Sequence[str], preprocessing: Preprocessing) -> dict[str, Any]:
    """The content of `model.json`: what a server must know beside the graph."""
    size = preprocessing.image_size
    return {
        "model": model,
        "run_id": run_id,
        "classes": list(classes),
        "preprocessing": preprocessing.to_document(),
        "input": {"name": INPUT, "shape": [-1, preprocessing.channels, size, size]},
        "output": {"name": OUTPUT},
    }


def golden_document(
    classifier: OnnxClassifier,
    preprocessing: Preprocessing,
    classes: Sequence[str],
    images: Iterable[NDArray[np.uint8]],
) -> dict[str, Any]:
    """The content of `golden.json`: encoded images, and what this very model answers to them.

    `images` are `[size, size, channels]`; of large ones not all fit. `label` is the model's answer, which need not be
    the true one: the cases prove a deployment, not the model.
    """
    cases: list[dict[str, Any]] = []
    size = 0
    for pixels in images:
        encoded = encode(pixels)
        probabilities = classifier(preprocessing([encoded]))[0]
        case = {
            "image": base64.b64encode(encoded).decode(),
            "label": classes[int(probabilities.argmax())],
            "probabilities": [round(float(value), 6) for value in probabilities],
        }
        size += len(json.dumps(case))
        if cases and size > GOLDEN_BYTES:
            break
        cases.append(case)
    return {"cases": cases, "tolerance": TOLERANCE, "latency_budget_seconds": LATENCY_BUDGET_SECONDS}


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """A small image as PNG, a large one as JPEG; `uint8 [h, w, channels]`."""
    image = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])
    buffer = io.BytesIO()
    if max(pixels.shape[:2]) <= PNG_SIDE:
        image.save(buffer, format="PNG")
    else:
        image.save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()
