"""The ONNX model that is served: its export from torch, and its answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from spark_jobs.exceptions import ExportError

INPUT = "tensor"
OUTPUT = "probabilities"
# What Triton 23.05, KServe's default for `onnx`, still reads.
OPSET = 18
IR_VERSION = 8


def export_onnx(classifier: nn.Module, channels: int, image_size: int) -> onnx.ModelProto:
    """The classifier of square images as ONNX, with a free batch size. Raises ExportError."""
    example = torch.zeros(2, channels, image_size, image_size)
    program = torch.onnx.export(
        classifier,
        (example,),
        dynamo=True,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        opset_version=OPSET,
        verbose=False,
    )
    if program is None:
        raise ExportError("torch.onnx.export returned no program")
    model = program.model_proto
    model.ir_version = IR_VERSION
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"the exported ONNX model is not valid: {error}") from error
    return model


class OnnxClassifier:
    """Answers of an ONNX model, by ONNX Runtime as in serving."""

    def __init__(self, model: bytes, *, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._input: str = self._session.get_inputs()[0].name

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """`[n, channels, size, size]` → probabilities `[n, classes]`."""
        return np.asarray(self._session.run(None, {self._input: images})[0])


def torch_answers(classifier: nn.Module, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same probabilities by torch."""
    with torch.inference_mode():
        return np.asarray(classifier(torch.from_numpy(images)).numpy())
