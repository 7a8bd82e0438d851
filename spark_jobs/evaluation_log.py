"""What an evaluation writes onto its MLflow run: metrics, files, and the two models."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.entities import Metric, RunStatus
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from numpy.typing import NDArray

from spark_jobs.onnx_model import INPUT, OUTPUT


class EvaluationLog:
    """Writes onto one run, whose end stays the DAG's to declare."""

    def __init__(self, tracking_uri: str, run_id: str) -> None:
        mlflow.set_tracking_uri(tracking_uri)
        self._client = mlflow.MlflowClient(tracking_uri)
        self._run_id = run_id

    def metrics(self, metrics: Mapping[str, float]) -> None:
        """Log final metrics."""
        now = int(time.time() * 1000)
        values = [Metric(key, float(value), now, 0) for key, value in metrics.items()]
        self._client.log_batch(self._run_id, metrics=values)

    def artifacts(self, folder: Path) -> None:
        """Log all files below `folder`."""
        self._client.log_artifacts(self._run_id, str(folder))

    def models(self, classifier: Any, onnx_model: Any, example: NDArray[np.float32], classes: int) -> tuple[str, str]:
        """Log the model as pt2 and as ONNX; returns their MLflow URIs."""
        shape = (-1, *example.shape[1:])
        kind = np.dtype(np.float32)
        signature = ModelSignature(
            inputs=Schema([TensorSpec(kind, shape)]), outputs=Schema([TensorSpec(kind, (-1, classes))])
        )
        named = ModelSignature(
            inputs=Schema([TensorSpec(kind, shape, INPUT)]), outputs=Schema([TensorSpec(kind, (-1, classes), OUTPUT)])
        )
        mlflow.start_run(run_id=self._run_id)
        try:
            pt2 = mlflow.pytorch.log_model(
                classifier,
                name="model",
                serialization_format="pt2",
                signature=signature,
                input_example=example,
                pip_requirements=_pinned("torch", "numpy"),
            )
            onnx = mlflow.onnx.log_model(
                onnx_model,
                name="onnx_model",
                signature=named,
                pip_requirements=_pinned("onnx", "onnxruntime", "numpy"),
            )
        finally:
            mlflow.end_run(RunStatus.to_string(RunStatus.RUNNING))
        return pt2.model_uri, onnx.model_uri


def _pinned(*names: str) -> list[str]:
    return [f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in names]
