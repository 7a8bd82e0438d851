"""What the evaluate job found out about a candidate, as its MLflow run keeps it in `evaluation.json`. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from ml_lifecycle.tracking.exceptions import EvaluationUnreadableError
from ml_lifecycle.tracking.paired import Pairs

EVALUATION_FILE = "evaluation.json"


@dataclass(frozen=True)
class Contestant:
    """A champion or challenger on the hold-out. Latency is of one image on one CPU thread, milliseconds, p95."""

    version: str
    accuracy: float
    loss: float
    calibration_error: float
    latency_ms: float
    model_bytes: int


@dataclass(frozen=True)
class Evaluation:
    """One evaluate job: the challenger (whose version is not known yet: empty) beside the champion, if there was one.

    `class_images` has every class of the data set, `class_accuracy` those with held-out images.
    """

    challenger: Contestant
    champion: Contestant | None
    pairs: Pairs | None
    holdout_images: int
    class_accuracy: Mapping[str, float]
    class_images: Mapping[str, int]
    onnx_difference: float

    @classmethod
    def from_document(cls, document: Mapping[str, Any], run_id: str) -> Self:
        """Read `evaluation.json`; EvaluationUnreadableError where another version of the job wrote it."""
        try:
            rival = document["champion"]
            return cls(
                challenger=_contestant(document, ""),
                champion=_contestant(rival, str(rival["version"])) if rival else None,
                pairs=Pairs(**rival["paired"]) if rival else None,
                holdout_images=int(document["holdout_images"]),
                class_accuracy=dict(document["per_class"]),
                class_images=dict(document["per_class_images"]),
                onnx_difference=float(document["onnx_difference"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise EvaluationUnreadableError(run_id, EVALUATION_FILE, repr(error)) from error


def _contestant(document: Mapping[str, Any], version: str) -> Contestant:
    return Contestant(
        version=version,
        accuracy=float(document["accuracy"]),
        loss=float(document["loss"]),
        calibration_error=float(document["calibration_error"]),
        latency_ms=float(document["latency_ms"]["p95"]),
        model_bytes=int(document["model_bytes"]),
    )
