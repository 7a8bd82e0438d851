"""The two wire formats: Open Inference Protocol v2 and the older v1. Pure.

Sources: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol and …/v1-protocol.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.exceptions import RequestError, TooLargeError
from serving.model import Description, Prediction

IMAGE = "image"
TENSOR = "tensor"
LABEL = "label"
PROBABILITIES = "probabilities"
DATATYPES = {IMAGE: "BYTES", TENSOR: "FP32"}
DECIMALS = 7


@dataclass(frozen=True)
class InferenceRequest:
    """What a client wants: answers to encoded `images` or to a `tensor`, one of which is None."""

    images: list[bytes] | None
    tensor: NDArray[np.float32] | None
    id: str | None = None
    outputs: tuple[str, ...] = (LABEL, PROBABILITIES)


def read_v2(body: bytes, description: Description, max_batch: int) -> InferenceRequest:
    """Read the body of `/v2/models/{m}/infer`; raises RequestError that says what is wrong."""
    document = _document(body)
    request_id = document.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise RequestError(f"id must be a string, not {type(request_id).__name__}")
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], Mapping):
        raise RequestError("inputs must be a list of one input, named 'image' or 'tensor'")
    name = inputs[0].get("name")
    if name not in DATATYPES:
        raise RequestError(f"input name {name!r} is unknown; there are 'image' (BYTES) and 'tensor' (FP32)")
    if inputs[0].get("datatype") != DATATYPES[name]:
        raise RequestError(f"input {name!r} must have datatype {DATATYPES[name]}, not {inputs[0].get('datatype')!r}")
    shape = _shape(inputs[0], name)
    outputs = _outputs(document)
    if name == IMAGE:
        return InferenceRequest(_images(inputs[0], shape, max_batch), None, request_id, outputs)
    return InferenceRequest(None, _tensor(inputs[0], shape, description, max_batch), request_id, outputs)


def read_v1(body: bytes, max_batch: int) -> InferenceRequest:
    """Read the body of `/v1/models/{m}:predict`; raises RequestError that says what is wrong."""
    instances = _document(body).get("instances")
    if not isinstance(instances, list) or not instances:
        raise RequestError('instances must be a list of one or more {"image": {"b64": "…"}}')
    _require_batch(len(instances), max_batch)
    images = []
    for index, instance in enumerate(instances):
        image = instance.get(IMAGE) if isinstance(instance, Mapping) else None
        content = image.get("b64") if isinstance(image, Mapping) else None
        images.append(_decoded(content, f'instances[{index}] must be {{"image": {{"b64": "…"}}}} with valid base64'))
    return InferenceRequest(images, None)


def write_v2(model: str, description: Description, request: InferenceRequest, prediction: Prediction) -> dict[str, Any]:
    """The answer of `/v2/models/{m}/infer`."""
    count = len(prediction.labels)
    outputs = {
        LABEL: {"name": LABEL, "datatype": "BYTES", "shape": [count], "data": prediction.labels},
        PROBABILITIES: {
            "name": PROBABILITIES,
            "datatype": "FP32",
            "shape": list(prediction.probabilities.shape),
            "data": _rounded(prediction.probabilities.ravel()),
        },
    }
    answer: dict[str, Any] = {"model_name": model, "model_version": description.version}
    if request.id is not None:
        answer["id"] = request.id
    return {**answer, "outputs": [outputs[name] for name in request.outputs]}


def write_v1(prediction: Prediction) -> dict[str, Any]:
    """The answer of `/v1/models/{m}:predict`."""
    rows = _rounded(prediction.probabilities)
    return {
        "predictions": [{LABEL: label, PROBABILITIES: row} for label, row in zip(prediction.labels, rows, strict=True)]
    }


def metadata_v2(model: str, description: Description) -> dict[str, Any]:
    """The answer of `GET /v2/models/{m}`."""
    return {
        "name": model,
        "versions": [description.version],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": IMAGE, "datatype": DATATYPES[IMAGE], "shape": [-1]},
            {"name": TENSOR, "datatype": DATATYPES[TENSOR], "shape": [-1, *description.input_shape]},
        ],
        "outputs": [
            {"name": LABEL, "datatype": "BYTES", "shape": [-1]},
            {"name": PROBABILITIES, "datatype": "FP32", "shape": [-1, len(description.classes)]},
        ],
    }


def _document(body: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not JSON: {error}") from error
    if not isinstance(document, Mapping):
        raise RequestError(f"the body must be a JSON object, not {type(document).__name__}")
    return document


def _shape(entry: Mapping[str, Any], name: str) -> list[int]:
    shape = entry.get("shape")
    if not isinstance(shape, list) or not shape or not all(type(size) is int and size >= 0 for size in shape):
        raise RequestError(f"input {name!r} must have a shape, a list of integers, not {shape!r}")
    return shape


def _outputs(document: Mapping[str, Any]) -> tuple[str, ...]:
    wanted = document.get("outputs")
    if not wanted:
        return (LABEL, PROBABILITIES)
    names = tuple(entry.get("name") if isinstance(entry, Mapping) else None for entry in wanted)
    for name in names:
        if name not in (LABEL, PROBABILITIES):
            raise RequestError(f"output {name!r} is unknown; there are 'label' and 'probabilities'")
    return tuple(str(name) for name in names)


def _images(entry: Mapping[str, Any], shape: list[int], max_batch: int) -> list[bytes]:
    data = entry.get("data")
    if not isinstance(data, list):
        raise RequestError("input 'image' must have data, a list of base64 strings; binary data is not supported")
    if len(shape) > 2 or (len(shape) == 2 and shape[1] != 1):
        raise RequestError(f"input 'image' must have shape [n], not {shape}")
    _require_batch(shape[0], max_batch)
    if len(data) != shape[0]:
        raise RequestError(f"input 'image' has shape {shape} but {len(data)} elements")
    flat = [element[0] if isinstance(element, list) and len(element) == 1 else element for element in data]
    return [
        _decoded(element, f"input 'image': element {index} is not valid base64") for index, element in enumerate(flat)
    ]


def _tensor(
    entry: Mapping[str, Any], shape: list[int], description: Description, max_batch: int
) -> NDArray[np.float32]:
    expected = list(description.input_shape)
    if len(shape) != 4 or shape[1:] != expected:
        raise RequestError(f"input 'tensor' must have shape [n, {', '.join(map(str, expected))}], not {shape}")
    _require_batch(shape[0], max_batch)
    try:
        tensor = np.asarray(entry.get("data"), dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise RequestError(f"input 'tensor' must have data, numbers flat or nested evenly: {error}") from error
    if tensor.size != math.prod(shape):
        raise RequestError(f"input 'tensor' has shape {shape}, {math.prod(shape)} numbers, but {tensor.size} are given")
    if not np.isfinite(tensor).all():
        raise RequestError("input 'tensor' holds numbers that are not finite")
    return tensor.reshape(shape)


def _require_batch(count: int, max_batch: int) -> None:
    if count < 1:
        raise RequestError("there must be one image or more")
    if count > max_batch:
        raise TooLargeError(f"{count} images in one request are more than the {max_batch} that are allowed")


def _decoded(content: object, message: str) -> bytes:
    if not isinstance(content, str):
        raise RequestError(message)
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(f"{message}: {error}") from error


def _rounded(values: NDArray[np.float32]) -> list[Any]:
    rounded: list[Any] = np.round(values.astype(np.float64), DECIMALS).tolist()
    return rounded
