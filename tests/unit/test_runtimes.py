"""The table of runtimes."""

from typing import get_args

import pytest

from ml_lifecycle.runtimes import RUNTIMES, RuntimeName


def test_every_name_that_settings_allow_is_in_the_table():
    assert tuple(RUNTIMES) == get_args(RuntimeName)


def test_torchserve_is_never_chosen():
    """KServe takes it for the format pytorch where no runtime is named."""
    pytorch = [runtime for runtime in RUNTIMES.values() if runtime.model_format == "pytorch"]
    assert {runtime.cluster_runtime for runtime in pytorch} == {"kserve-tritonserver"}


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("ml-lifecycle", "/v2/models/digits/infer"),
        ("triton-onnx", "/v2/models/digits/infer"),
        ("sklearn", "/v1/models/digits:predict"),
        ("tensorflow", "/v1/models/digits:predict"),
        ("mlflow", "/v2/models/digits/infer"),
    ],
)
def test_the_path_is_that_of_the_protocol(name, path):
    assert RUNTIMES[name].predict_path("digits") == path


def test_what_train_model_writes_is_arranged_as_triton_looks_for_it():
    files = {"model.onnx": b"graph", "model.json": b"{}", "golden.json": b"{}"}
    triton, ours = RUNTIMES["triton-onnx"], RUNTIMES["ml-lifecycle"]
    arranged = triton.arranged("digits", files)
    assert arranged == {"digits/1/model.onnx": b"graph", "model.json": b"{}", "golden.json": b"{}"}
    assert triton.missing("digits", arranged) == []
    assert triton.arranged("digits", arranged) == arranged
    assert ours.arranged("digits", files) == files
    assert (ours.missing("digits", files), ours.missing("digits", {"model.onnx"})) == (
        [],
        ["model.json", "golden.json"],
    )


def test_of_alternatives_one_is_enough():
    sklearn = RUNTIMES["sklearn"]
    assert sklearn.missing("wine", {"model.pkl"}) == []
    assert sklearn.missing("wine", {"model.onnx"}) == ["model.joblib or model.pkl or model.pickle"]
