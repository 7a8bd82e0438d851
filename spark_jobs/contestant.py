"""A model in the comparison, challenger or champion: its ONNX file, preprocessing and classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.preprocessing import Preprocessing, fit
from spark_jobs import storage
from spark_jobs.calibration import calibration
from spark_jobs.latency import Latency, measure
from spark_jobs.onnx_model import OnnxClassifier
from spark_jobs.scores import Answers, answers, score


class Contestant:
    """Answers for images of another size, colour or set of classes than its own as well."""

    def __init__(self, model: bytes, preprocessing: Preprocessing, known: tuple[str, ...]) -> None:
        self.model = model
        self.classifier = OnnxClassifier(model)
        self.preprocessing = preprocessing
        self._known = known

    @classmethod
    def published(cls, storage_uri: str) -> Contestant:
        """The model whose serving files lie in a folder."""
        document = storage.read_json(storage.join(storage_uri, "model.json"))
        model = storage.read_bytes(storage.join(storage_uri, "model.onnx"))
        return cls(model, Preprocessing.from_document(document["preprocessing"]), tuple(document["classes"]))

    def see(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Square images `uint8 [n, size, size, channels]` as this model's input."""
        size = self.preprocessing.image_size
        if pixels.shape[1] != size:
            pixels = np.stack([fit(image, size) for image in pixels])
        return self.preprocessing.normalise(in_channels(pixels, self.preprocessing.channels))

    def answers(
        self, probabilities: NDArray[np.float32], labels: NDArray[np.int64], classes: tuple[str, ...]
    ) -> Answers:
        """What its `probabilities` say about the classes of the data set."""
        return answers(probabilities, labels, self._known, classes)

    def latency(self) -> Latency:
        """Of one image on one thread."""
        classifier = OnnxClassifier(self.model, threads=1)
        size, channels = self.preprocessing.image_size, self.preprocessing.channels
        image = np.zeros((1, channels, size, size), dtype=np.float32)
        return measure(lambda: classifier(image))

    def report(self, given: Answers, classes: tuple[str, ...]) -> dict[str, Any]:
        """What the job reports of a model that gave these answers."""
        scores = score(given, classes)
        return {
            "accuracy": scores.accuracy,
            "loss": scores.loss,
            "per_class": scores.per_class,
            "calibration_error": calibration(given).error,
            "latency_ms": self.latency().to_document(),
            "model_bytes": len(self.model),
        }


def in_channels(pixels: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Pixels `[n, h, w, c]` with another number of channels, for a champion that sees other colours."""
    if pixels.shape[3] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=3)
    # Pillow's weights of grey, ITU-R 601-2.
    return (pixels @ np.array([0.299, 0.587, 0.114]))[..., None].round().astype(np.uint8)
