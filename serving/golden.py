"""The golden cases of a version: what a server is asked, and whether it answers as expected. No I/O.

A case is an encoded image with its label and probabilities, as evaluation writes it, or a request in the server's own
protocol with the response that is expected: `{"request": {…}, "response": {…}}`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any


class CheckFailedError(Exception):
    """A check did not hold; the message says what was expected and what was found."""


def image_request(case: Mapping[str, Any]) -> dict[str, Any]:
    """The body that asks our own server, which preprocesses by itself."""
    return {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [case["image"]]}]}


def tensor_request(case: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """The body that asks a server of the bare ONNX graph; `model` is the content of the version's model.json."""
    from serving.preprocessing import Preprocessing  # numpy and Pillow, which no other check needs

    tensor = Preprocessing.from_document(model["preprocessing"])([base64.b64decode(case["image"])])
    entry = {"name": model["input"]["name"], "datatype": "FP32", "shape": list(tensor.shape)}
    return {"inputs": [{**entry, "data": tensor.ravel().tolist()}]}


def check_label(answer: Mapping[str, Any], case: Mapping[str, Any]) -> None:
    """CheckFailedError unless our own server names the case's label."""
    (label,) = output(answer, "label")
    if label != case["label"]:
        raise CheckFailedError(f"label {label!r}, expected {case['label']!r}")


def check_probabilities(answer: Mapping[str, Any], name: str, case: Mapping[str, Any], tolerance: float) -> str:
    """What was found in the output `name`; CheckFailedError where it is further off than `tolerance`."""
    found = output(answer, name)
    difference = max(abs(given - expected) for given, expected in zip(found, case["probabilities"], strict=True))
    if not difference <= tolerance:
        raise CheckFailedError(
            f"probabilities differ by {difference:.6f}, more than {tolerance}; expected is label {case['label']!r}: "
            "another model or another preprocessing answers here"
        )
    return f"label {case['label']}, probabilities within {difference:.1e}"


def output(answer: Mapping[str, Any], name: str) -> list[Any]:
    """The data of one output of a v2 answer."""
    outputs = {entry["name"]: entry["data"] for entry in answer["outputs"]}
    if name not in outputs:
        raise CheckFailedError(f"the answer has no output {name!r}, only {sorted(outputs)}")
    data: list[Any] = outputs[name]
    return data


def check_response(found: Any, expected: Any, tolerance: float, path: str = "response") -> None:
    """CheckFailedError unless `found` holds all that is expected, numbers within `tolerance`; more is allowed."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for key, value in expected.items():
            if key not in found:
                raise CheckFailedError(f"{path} has no {key!r}")
            check_response(found[key], value, tolerance, f"{path}.{key}")
    elif isinstance(expected, list) and isinstance(found, list):
        if len(found) != len(expected):
            raise CheckFailedError(f"{path} has {len(found)} items, expected are {len(expected)}")
        for index, (given, value) in enumerate(zip(found, expected, strict=True)):
            check_response(given, value, tolerance, f"{path}[{index}]")
    elif not _equal(found, expected, tolerance):
        raise CheckFailedError(f"{path} is {found!r}, expected {expected!r}")


def _equal(found: Any, expected: Any, tolerance: float) -> bool:
    if type(found) in (int, float) and type(expected) in (int, float):
        return bool(abs(found - expected) <= tolerance)
    return type(found) is type(expected) and bool(found == expected)
