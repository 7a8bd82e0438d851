"""The runtimes that serve models on KServe, as one table. Pure.

Source of names, formats and protocols: https://github.com/kserve/kserve, `config/runtimes`. TorchServe is not here:
nobody maintains it, and KServe takes it for `pytorch` where no runtime is named; so each runtime is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

RuntimeName = Literal["ml-lifecycle", "triton-onnx", "triton-pytorch", "sklearn", "tensorflow", "mlflow"]
Protocol = Literal["v1", "v2"]
Cases = Literal["images", "tensors", "requests"]

PREDICT_PATHS: Mapping[Protocol, str] = {"v1": "/v1/models/{model}:predict", "v2": "/v2/models/{model}/infer"}
GOLDEN = "golden.json"
DESCRIPTION = "model.json"


@dataclass(frozen=True)
class Runtime:
    """How one kind of model is served.

    `cluster_runtime` names the ClusterServingRuntime that KServe brings; without it the server is our own image.
    `files` must lie below the storage URI, any one of each group; `places` says where a file that train_model wrote
    goes instead; in both `{model}` stands for the model's name. `cases` says how golden cases are asked: as encoded
    images, as the tensors that our preprocessing makes of them, or as requests that the version brings.
    """

    model_format: str
    format_version: str
    protocol: Protocol
    cluster_runtime: str | None
    files: tuple[tuple[str, ...], ...]
    cases: Cases = "requests"
    places: Mapping[str, str] = field(default_factory=dict)

    def predict_path(self, model: str) -> str:
        """Where the server of `model` takes requests."""
        return PREDICT_PATHS[self.protocol].format(model=model)

    def needed(self, model: str) -> tuple[tuple[str, ...], ...]:
        """The files that a version of `model` must have, any one of each group; relative to its storage URI."""
        return tuple(tuple(name.format(model=model) for name in group) for group in self.files)

    def missing(self, model: str, present: Iterable[str]) -> list[str]:
        """What a version with the files `present` lacks, as people say it: "model.joblib or model.pkl"."""
        there = set(present)
        return [" or ".join(group) for group in self.needed(model) if there.isdisjoint(group)]

    def arranged(self, model: str, files: Mapping[str, bytes]) -> dict[str, bytes]:
        """Serving files by the names under which this runtime looks for them."""
        return {self.places.get(name, name).format(model=model): content for name, content in files.items()}


RUNTIMES: Mapping[RuntimeName, Runtime] = {
    "ml-lifecycle": Runtime(
        model_format="onnx",
        format_version="1",
        protocol="v2",
        cluster_runtime=None,
        files=(("model.onnx",), (DESCRIPTION,), (GOLDEN,)),
        cases="images",
    ),
    "triton-onnx": Runtime(
        model_format="onnx",
        format_version="1",
        protocol="v2",
        cluster_runtime="kserve-tritonserver",
        files=(("{model}/1/model.onnx",),),
        cases="tensors",
        places={"model.onnx": "{model}/1/model.onnx"},
    ),
    "triton-pytorch": Runtime(
        model_format="pytorch",
        format_version="1",
        protocol="v2",
        cluster_runtime="kserve-tritonserver",
        files=(("{model}/config.pbtxt",), ("{model}/1/model.pt",)),
    ),
    "sklearn": Runtime(
        model_format="sklearn",
        format_version="1",
        protocol="v1",
        cluster_runtime="kserve-sklearnserver",
        files=(("model.joblib", "model.pkl", "model.pickle"),),
    ),
    "tensorflow": Runtime(
        model_format="tensorflow",
        format_version="2",
        protocol="v1",
        cluster_runtime="kserve-tensorflow-serving",
        files=(("1/saved_model.pb",),),
    ),
    "mlflow": Runtime(
        model_format="mlflow",
        format_version="2",
        protocol="v2",
        cluster_runtime="kserve-mlserver",
        files=(("MLmodel",),),
    ),
}
