"""Evaluate: the model on the hold-out, beside the champion, and its exports for lineage (pt2) and serving (ONNX).

`spark-submit evaluate.py --specification '<JSON>'`. What is scored is the ONNX model, because that is what serves.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.preprocessing import Preprocessing, fit
from spark_jobs import storage
from spark_jobs.exceptions import DatasetError, ExportError
from spark_jobs.job import run_job, satisfy_yarn, say
from spark_jobs.prepared import PreparedDataset, read_dataset, read_shard
from spark_jobs.scores import Scores, confusion, in_classes, score
from spark_jobs.specification import Champion, EvaluateSpecification

SERVING_ARTIFACT = "serving"


def evaluate(specification: EvaluateSpecification) -> dict[str, Any]:
    """Score, export and log the model."""
    satisfy_yarn("evaluate")
    from spark_jobs.checkpoints import read_state
    from spark_jobs.network import Classifier, network_from

    dataset = read_dataset(
        specification.prepared_uri, image_size=specification.image_size, channels=specification.channels
    )
    saved = read_state(specification.state_uri)
    if saved["configuration"]["classes"] != len(dataset.classes):
        raise DatasetError(
            f"{specification.state_uri} tells {saved['configuration']['classes']} classes apart, "
            f"{dataset.uri} has {len(dataset.classes)}: train on this dataset first"
        )
    classifier = Classifier(network_from(saved)).eval()
    return _Evaluation(specification, dataset, classifier).run()


class _Evaluation:
    """One evaluation, step by step."""

    def __init__(self, specification: EvaluateSpecification, dataset: PreparedDataset, classifier: Any) -> None:
        self.specification = specification
        self.dataset = dataset
        self.classifier = classifier
        pixels, labels = zip(*(read_shard(shard.uri, dataset.preprocessing) for shard in dataset.holdout), strict=True)
        self.pixels: list[NDArray[np.uint8]] = list(pixels)
        self.labels: NDArray[np.int64] = np.concatenate(labels)

    def run(self) -> dict[str, Any]:
        """Score, export, log; returns what the job reports."""
        from spark_jobs.onnx_model import OnnxClassifier, export_onnx, torch_answers

        size, channels = self.specification.image_size, self.specification.channels
        example = np.zeros((2, channels, size, size), dtype=np.float32)
        onnx_model = export_onnx(self.classifier, _tensor(example))
        say("exported to ONNX")
        onnx_classifier = OnnxClassifier(onnx_model.SerializeToString())
        probabilities = onnx_classifier.all(self._batches(self.dataset.preprocessing))
        expected = np.concatenate(list(torch_answers(self.classifier, self._batches(self.dataset.preprocessing))))
        difference = float(np.abs(probabilities - expected).max())
        if not np.isfinite(probabilities).all():
            raise ExportError("the ONNX model answers with NaN: the training has diverged; lower the learning rate")
        scores = score(probabilities, self.labels, self.dataset.classes)
        say(f"accuracy {scores.accuracy:.4f}, loss {scores.loss:.4f}, torch and ONNX differ by {difference:.1e}")
        champion = self._score_champion(self.specification.champion)
        model_uri, onnx_model_uri = self._log(onnx_model, onnx_classifier, probabilities, scores, champion, difference)
        return {
            "accuracy": scores.accuracy,
            "loss": scores.loss,
            "per_class": scores.per_class,
            "holdout_images": len(self.labels),
            "champion": champion,
            "onnx_difference": difference,
            "model_uri": model_uri,
            "onnx_model_uri": onnx_model_uri,
            "serving_artifact": SERVING_ARTIFACT,
        }

    def _batches(self, preprocessing: Preprocessing) -> Iterator[NDArray[np.float32]]:
        """The hold-out as a model with this preprocessing sees it."""
        for pixels in self.pixels:
            for start in range(0, len(pixels), self.specification.batch_size):
                batch = pixels[start : start + self.specification.batch_size]
                if preprocessing.image_size != self.specification.image_size:
                    batch = np.stack([fit(image, preprocessing.image_size) for image in batch])
                yield preprocessing.normalise(in_channels(batch, preprocessing.channels))

    def _score_champion(self, champion: Champion | None) -> dict[str, Any] | None:
        if champion is None:
            return None
        from spark_jobs.onnx_model import OnnxClassifier

        document = storage.read_json(storage.join(champion.storage_uri, "model.json"))
        classifier = OnnxClassifier(storage.read_bytes(storage.join(champion.storage_uri, "model.onnx")))
        preprocessing = Preprocessing.from_document(document["preprocessing"])
        probabilities = in_classes(
            classifier.all(self._batches(preprocessing)), document["classes"], self.dataset.classes
        )
        scores = score(probabilities, self.labels, self.dataset.classes)
        say(f"champion, version {champion.version}: accuracy {scores.accuracy:.4f}, loss {scores.loss:.4f}")
        return {"version": champion.version, "accuracy": scores.accuracy, "loss": scores.loss}

    def _log(
        self,
        onnx_model: Any,
        onnx_classifier: Any,
        probabilities: NDArray[np.float32],
        scores: Scores,
        champion: dict[str, Any] | None,
        difference: float,
    ) -> tuple[str, str]:
        from spark_jobs.evaluation_log import EvaluationLog
        from spark_jobs.pictures import confusion_picture
        from spark_jobs.serving_files import golden_document, model_document

        specification, dataset = self.specification, self.dataset
        log = EvaluationLog(specification.tracking_uri, specification.run_id)
        metrics = {
            "holdout_accuracy": scores.accuracy,
            "holdout_loss": scores.loss,
            "onnx_difference": difference,
            **{f"holdout_accuracy_class_{name}": value for name, value in scores.per_class.items()},
        }
        if champion is not None:
            metrics |= {"champion_accuracy": champion["accuracy"], "champion_loss": champion["loss"]}
        log.metrics(metrics)
        matrix = confusion(probabilities, self.labels, len(dataset.classes))
        title = f"{specification.model}: {scores.accuracy:.1%} of {len(self.labels)} held out"
        golden = golden_document(
            onnx_classifier, dataset.preprocessing, dataset.classes, self.pixels[0], self.labels[: len(self.pixels[0])]
        )
        document = model_document(specification.model, specification.run_id, dataset.classes, dataset.preprocessing)
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            (root / "confusion_matrix.png").write_bytes(confusion_picture(matrix, dataset.classes, title))
            (root / SERVING_ARTIFACT).mkdir()
            (root / SERVING_ARTIFACT / "model.onnx").write_bytes(onnx_model.SerializeToString())
            (root / SERVING_ARTIFACT / "model.json").write_text(json.dumps(document, indent=2))
            (root / SERVING_ARTIFACT / "golden.json").write_text(json.dumps(golden))
            log.artifacts(root)
        example = np.concatenate(list(self._batches(dataset.preprocessing)))[:2]
        uris = log.models(self.classifier, onnx_model, example, len(dataset.classes))
        say("logged to MLflow")
        return uris


def in_channels(pixels: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Pixels `[n, h, w, c]` with another number of channels, for a champion that sees other colours."""
    if pixels.shape[3] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=3)
    # Pillow's weights of grey, ITU-R 601-2.
    return (pixels @ np.array([0.299, 0.587, 0.114]))[..., None].round().astype(np.uint8)


def _tensor(values: NDArray[np.float32]) -> Any:
    import torch

    return torch.from_numpy(values)


if __name__ == "__main__":
    run_job(EvaluateSpecification, evaluate)
