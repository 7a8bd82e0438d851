"""Where everything lies in the data lake. Pure: URIs in, URIs out."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ml_lifecycle.data_lake.exceptions import PathPartError

JOB_ARCHIVE = "lifecycle_jobs.zip"
GPU_SCRIPT = "find_gpus.sh"
CHECKSUMS = "checksums.json"


def join(uri: str, *parts: str) -> str:
    """`uri` with `parts` below it."""
    return "/".join([uri.rstrip("/"), *parts])


def spark_uri(uri: str) -> str:
    """The URI as Spark and Hadoop write it: `s3a://` for `s3://`, all others unchanged."""
    return "s3a://" + uri.removeprefix("s3://") if uri.startswith("s3://") else uri


def storage_uri(uri: str) -> str:
    """The inverse of `spark_uri`: what Airflow and KServe read."""
    return "s3://" + uri.removeprefix("s3a://") if uri.startswith("s3a://") else uri


def part(name: str) -> str:
    """A name as one part of a path; PathPartError where it is none, as others may name runs and versions."""
    if not re.fullmatch(r"[A-Za-z0-9][-_.A-Za-z0-9]{0,127}", name):
        raise PathPartError(name)
    return name


@dataclass(frozen=True)
class Layout:
    """All places below one base URI (`s3://bucket/prefix` or `file:///folder`)."""

    base_uri: str

    @property
    def datasets(self) -> str:
        """Folder of all data sets."""
        return join(self.base_uri, "datasets")

    def dataset(self, name: str) -> str:
        """Folder of images, `<class>/<file>` below it."""
        return join(self.datasets, name)

    def prepared(self, dataset: str) -> str:
        """Below it ingest writes `<digest>/`."""
        return join(self.base_uri, "prepared", dataset)

    def checkpoints(self, run_id: str) -> str:
        """Checkpoints of one MLflow run."""
        return join(self.base_uri, "checkpoints", run_id)

    def serving_files(self, model: str, version: str) -> str:
        """What KServe loads; the same URI never holds other content."""
        return join(self.base_uri, "models", part(model), part(version))

    def promotion(self, model: str, version: str) -> str:
        """The digest of a version's serving files, kept beside them so that neither is changed without the other."""
        return join(self.base_uri, "promotions", part(model), f"{part(version)}.json")

    def evaluation(self, run_id: str) -> str:
        """What the evaluate job found of the version that came from this MLflow run: what the gate believes."""
        return join(self.base_uri, "evaluations", f"{part(run_id)}.json")

    def job_code(self, digest: str) -> str:
        """Main files and archive of the Spark jobs."""
        return join(self.base_uri, "jobs", digest)

    def environment(self, digest: str) -> str:
        """A packed Python environment."""
        return join(self.base_uri, "environments", f"{digest}.tar.gz")

    def results(self, run_key: str) -> str:
        """Below it the jobs of one DAG run write `<cluster id>/<job>.json`."""
        return join(self.base_uri, "runs", run_key)
