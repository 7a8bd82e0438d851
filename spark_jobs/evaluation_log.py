"""What an evaluation writes onto its MLflow run: metrics, files, and the two models."""

from __future__ import annotations

import importlib.metadata
import tempfile
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

from spark_jobs.metric_names import class_metrics
from spark_jobs.onnx_model import INPUT, OUTPUT

# The most metrics that MLflow takes at once.
BATCH = 1000


def evaluation_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """What MLflow shows as numbers of an evaluate job's result."""
    metrics = {
        "holdout_images": result["holdout_images"],
        "onnx_difference": result["onnx_difference"],
        **_contestant_metrics(result, scores="holdout_", figures=""),
        **_class_metrics(result, "holdout_accuracy_class_", result["per_class"]),
        **_class_metrics(result, "holdout_images_class_", result["per_class_images"]),
    }
    if champion := result["champion"]:
        metrics |= _contestant_metrics(champion, scores="champion_", figures="champion_")
        metrics |= {f"paired_{key}": value for key, value in champion["paired"].items()}
    return metrics


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
        for start in range(0, len(values), BATCH):
            self._client.log_batch(self._run_id, metrics=values[start : start + BATCH])

    def files(self, files: Mapping[str, bytes]) -> None:
        """Log files by their path."""
        with tempfile.TemporaryDirectory() as folder:
            for path, content in files.items():
                target = Path(folder, path)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            self._client.log_artifacts(self._run_id, folder)

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


def _contestant_metrics(report: Mapping[str, Any], *, scores: str, figures: str) -> dict[str, float]:
    return {
        **{f"{scores}{key}": report[key] for key in ("accuracy", "loss", "calibration_error")},
        **{f"{figures}latency_{key}_ms": report["latency_ms"][key] for key in ("p50", "p95")},
        f"{figures}model_bytes": report["model_bytes"],
    }


def _class_metrics(result: Mapping[str, Any], prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    # Named among all classes, of which a hold-out may lack some.
    names = class_metrics(prefix, result["per_class_images"])
    return {names[key]: value for key, value in values.items()}


def _pinned(*names: str) -> list[str]:
    return [f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in names]
