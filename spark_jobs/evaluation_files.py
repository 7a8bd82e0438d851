"""The files of an evaluation: its numbers, its pictures, and what a model server needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from spark_jobs.calibration import calibration
from spark_jobs.comparison import Comparison
from spark_jobs.contestant import Contestant
from spark_jobs.pictures import calibration_picture, confusion_picture, mistakes_picture
from spark_jobs.prepared import PreparedDataset
from spark_jobs.scores import confusion
from spark_jobs.serving_files import golden_document, model_document

SERVING_ARTIFACT = "serving"


def evaluation_files(
    model: str,
    run_id: str,
    dataset: PreparedDataset,
    challenger: Contestant,
    result: Mapping[str, Any],
    run: Comparison,
) -> dict[str, bytes]:
    """Content by path. `evaluation.json` is what the gate reads."""
    classes, images = dataset.classes, len(run.challenger.labels)
    title = f"{model}: {result['accuracy']:.1%} of {images} held out"
    golden = golden_document(
        challenger.classifier, dataset.preprocessing, classes, [pixels for pixels, _ in run.samples.varied]
    )
    return {
        "evaluation.json": json.dumps(result, indent=2).encode(),
        "confusion_matrix.png": confusion_picture(confusion(run.challenger, len(classes)), classes, title),
        "calibration.png": calibration_picture(calibration(run.challenger), model),
        "mistakes.png": mistakes_picture(run.samples.mistakes, classes, images),
        f"{SERVING_ARTIFACT}/model.onnx": challenger.model,
        f"{SERVING_ARTIFACT}/model.json": json.dumps(
            model_document(model, run_id, classes, dataset.preprocessing), indent=2
        ).encode(),
        f"{SERVING_ARTIFACT}/golden.json": json.dumps(golden).encode(),
    }
