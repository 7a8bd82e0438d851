"""The model: its files, loaded, and its answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from serving.checksums import verify
from serving.exceptions import ModelFilesError
from serving.preprocessing import Preprocessing


@dataclass(frozen=True)
class Description:
    """The content of `model.json`. `version` is the registered version if the file names one, else the run's id."""

    model: str
    run_id: str
    version: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    input_name: str
    output_name: str

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read `model.json`; raises ModelFilesError."""
        try:
            document = json.loads(path.read_text())
            return cls(
                model=str(document["model"]),
                run_id=str(document["run_id"]),
                version=str(document.get("version", document["run_id"])),
                classes=tuple(map(str, document["classes"])),
                preprocessing=Preprocessing.from_document(document["preprocessing"]),
                input_name=str(document["input"]["name"]),
                output_name=str(document["output"]["name"]),
            )
        except OSError as error:
            raise ModelFilesError(f"{path} cannot be read: {error.strerror}") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelFilesError(f"{path} is no description of a model: {type(error).__name__} {error}") from error

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        size = self.preprocessing.image_size
        return self.preprocessing.channels, size, size


@dataclass(frozen=True)
class Prediction:
    """Answers to n images: `labels`, n of them, and `probabilities [n, classes]`."""

    labels: list[str]
    probabilities: NDArray[np.float32]


class Model:
    """A loaded model. Safe to use from several threads."""

    def __init__(self, description: Description, session: Any) -> None:
        self.description = description
        self._session = session

    @classmethod
    def load(cls, folder: Path, *, digest: str = "", intra_op_threads: int = 1) -> Self:
        """Load `model.onnx` and `model.json` and answer once for warmth; raises ModelFilesError.

        With the `digest` of the version that was promoted no other files are loaded.
        """
        if digest:
            verify(folder, digest)
        description = Description.read(folder / "model.json")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = intra_op_threads
        options.inter_op_num_threads = 1
        # Threads that spin between requests burn the CPU that a pod is limited to.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = folder / "model.onnx"
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=onnxruntime.get_available_providers())
            model = cls(description, session)
            answer = model.predict(np.zeros((1, *description.input_shape), dtype=np.float32))
        except Exception as error:
            # ONNX Runtime raises a dozen unrelated classes.
            raise ModelFilesError(f"{path} cannot be loaded: {error}") from error
        if answer.probabilities.shape != (1, len(description.classes)):
            raise ModelFilesError(
                f"{path} answers with shape {answer.probabilities.shape}, but model.json names "
                f"{len(description.classes)} classes"
            )
        return model

    def predict_images(self, encoded: Sequence[bytes]) -> Prediction:
        """Answers to encoded images; raises UnreadableImageError."""
        return self.predict(self.description.preprocessing(encoded))

    def predict(self, tensor: NDArray[np.float32]) -> Prediction:
        """Answers to preprocessed images `[n, channels, height, width]`."""
        (probabilities,) = self._session.run([self.description.output_name], {self.description.input_name: tensor})
        labels = [self.description.classes[index] for index in probabilities.argmax(axis=1)]
        return Prediction(labels, probabilities)
