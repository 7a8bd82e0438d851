"""All settings of one model."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from ml_lifecycle.settings.promotion import Gate
from ml_lifecycle.settings.rollout import Rollout
from ml_lifecycle.settings.scaling import Scaling
from ml_lifecycle.settings.section import ModelName, Section
from ml_lifecycle.settings.serving import Serving
from ml_lifecycle.settings.training import Cluster, Cost, Dataset, Training

# To one reader or the other these are fragments, queries, escapes, patterns, or divide lists and search paths.
ODD_SIGNS = frozenset('#?%*[]{}\\,:;"`$|<>^')


def _base_uri(uri: str) -> str:
    if not re.fullmatch(r"(s3://[a-z0-9][-.a-z0-9]{1,61}[a-z0-9](/.*)?|file:///.+)", uri):
        raise ValueError("must be s3://bucket/prefix or file:///folder")
    uri = uri.rstrip("/")
    _, _, path = uri.partition("://")
    if any(part in ("", ".", "..") or part != part.strip() for part in path.removeprefix("/").split("/")):
        raise ValueError("must not hold empty folders (//), '.', '..', or blanks around a folder's name")
    if odd := sorted({sign for sign in path if sign in ODD_SIGNS or not (sign == " " or sign.isprintable())}):
        raise ValueError(
            f"must not hold {' '.join(map(repr, odd))}: the URI is plain text, never decoded (a space is written as it "
            "is, not as %20), and Airflow, Spark and KServe read these signs in different ways"
        )
    if uri.startswith("s3://") and " " in path:
        raise ValueError("must not hold a space in a bucket's prefix: Spark cannot submit files from there")
    return uri


class Connections(Section):
    """The ids of the Airflow connections; every secret lives in them."""

    yandex: str = Field(default="yandexcloud_default", description="type yandexcloud: Data Processing")
    kubernetes: str = Field(default="kubernetes_default", description="type kubernetes: the serving cluster")
    storage: str = Field(default="aws_default", description="type aws: the data lake when it is s3://")
    tracking: str = Field(default="mlflow_default", description="type http: the MLflow server")
    prometheus: str = Field(default="prometheus_default", description="type http: Prometheus")


class Settings(Section):
    """Everything a run of one model needs to know."""

    model: ModelName = Field(description="registered model and InferenceService")
    data_lake: Annotated[str, AfterValidator(_base_uri)] = Field(description="s3://bucket/prefix or file:///folder")
    experiment: str = Field(default="ml-lifecycle", min_length=1, description="MLflow experiment")
    connections: Connections = Connections()
    dataset: Dataset = Dataset()
    cluster: Cluster = Cluster()
    cost: Cost = Cost()
    training: Training = Training()
    gate: Gate = Gate()
    serving: Serving = Serving()
    rollout: Rollout = Rollout()
    scaling: Scaling = Scaling()

    @property
    def dataset_name(self) -> str:
        """The folder below `datasets/`."""
        return self.dataset.name or self.model
