"""What the evaluate job found out about a candidate, as its MLflow run keeps it in `evaluation.json`. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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

    `class_images` has every class of the data set, `class_accuracy` those with held-out images. `files` has the sha256
    of every serving file that was scored, by its name.
    """

    challenger: Contestant
    champion: Contestant | None
    pairs: Pairs | None
    holdout_images: int
    class_accuracy: Mapping[str, float]
    class_images: Mapping[str, int]
    onnx_difference: float
    files: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_document(cls, document: Mapping[str, Any], run_id: str, model: str) -> Self:
        """Read `evaluation.json`; EvaluationUnreadableError where it is of another form, or of another model."""
        try:
            if document.get("model", model) != model:
                raise ValueError(f"it is of the model {document['model']!r}, not of {model!r}")  # noqa: TRY301
            rival = document["champion"]
            return cls(
                challenger=_contestant(document, ""),
                champion=_contestant(rival, str(rival["version"])) if rival else None,
                pairs=Pairs(**rival["paired"]) if rival else None,
                holdout_images=int(document["holdout_images"]),
                class_accuracy=dict(document["per_class"]),
                class_images=dict(document["per_class_images"]),
                onnx_difference=float(document["onnx_difference"]),
                files={str(name): str(digest) for name, digest in document["serving_files"].items()},
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
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
