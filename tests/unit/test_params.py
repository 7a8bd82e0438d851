"""From params to settings, and which errors end a task at once."""

import re

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from ml_lifecycle.data_lake.exceptions import DataLakeUnreachableError, DatasetError, ServingFilesDifferError
from ml_lifecycle.dataproc.exceptions import ClusterRefusedError, UnavailableError
from ml_lifecycle.exceptions import LifecycleError, ParamMissingError, SettingsError
from ml_lifecycle.kserve.exceptions import RolloutRefusedError
from ml_lifecycle.params import NAMESPACE, optional_version, overrides, refusing, required
from ml_lifecycle.tracking.exceptions import (
    NoCandidateError,
    ServingArtifactMissingError,
    TrackingConnectionError,
    TrackingRequestError,
    TrackingUnreachableError,
    VersionMissingError,
)

REFUSALS = [
    SettingsError("training.epochs = 0"),
    DatasetError("dataset.name = 'nowhere'"),
    ClusterRefusedError(["no such preset"]),
    RolloutRefusedError("no champion"),
    NoCandidateError("no event"),
    VersionMissingError("digits", "7"),
    TrackingConnectionError("mlflow", "it has no host"),
    ServingArtifactMissingError("run", "serving"),
    ServingFilesDifferError("file:///lake/models/digits/1", ["model.onnx"]),
]
PASSING = [
    TrackingUnreachableError("mlflow", "http://127.0.0.1:9", "refused"),
    TrackingRequestError("read", ValueError("HTTP 500")),
    DataLakeUnreachableError("s3://bucket", None, OSError("refused")),
    UnavailableError("ClusterService.List", "UNAVAILABLE", "no answer"),
]


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: type(error).__name__)
def test_a_refusal_is_not_tried_again(error: LifecycleError) -> None:
    with pytest.raises(AirflowFailException) as raised, refusing():
        raise error
    assert str(raised.value) == str(error)


@pytest.mark.parametrize("error", PASSING, ids=lambda error: type(error).__name__)
def test_what_may_pass_is_tried_again(error: LifecycleError) -> None:
    with pytest.raises(type(error)), refusing():
        raise error


def test_only_params_that_were_given_override() -> None:
    paths = {"epochs": "training.epochs", "seed": "training.seed", "gpu": "training.gpu"}
    assert overrides({"epochs": None, "seed": 0}, paths) == {"training.seed": 0}


def test_a_param_without_a_default_is_asked_for_by_name():
    assert required({"model": "digits"}, "model") == "digits"
    for given in ({}, {"model": None}, {"model": ""}):
        with pytest.raises(ParamMissingError, match="the param 'model' is missing"):
            required(given, "model")


@pytest.mark.parametrize("given", ["7\n", "7 ", " 7", "07", "0", "-7", "7.0", "v7", "7\n7", "٧", "99999999999"])
def test_a_version_is_a_number_and_nothing_else(given: str) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    with pytest.raises(ParamValidationError):
        optional_version("version").resolve(given)
    assert optional_version("version").resolve("70") == "70"


@pytest.mark.parametrize("given", ["models\n", "a/../kube-system", "Models", "-a", "a" * 64, ""])
def test_a_namespace_is_a_name_and_nothing_else(given: str) -> None:
    assert not re.search(NAMESPACE, given)
    assert re.search(NAMESPACE, "ml-models")
