"""A PySpark job, before it exists: its name, its properties, its request, and what is refused.

Requests are proto3 JSON of `yandex.cloud.dataproc.v1.CreateJobRequest`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from ml_lifecycle.dataproc.names import RESOURCE_NAME
from ml_lifecycle.secrets import find_secrets

PROPERTY_KEY = re.compile(r"[a-zA-Z][-_0-9a-zA-Z.]{0,127}")
MOST_PROPERTIES = 100
LONGEST_PROPERTY = 10_000
LONGEST_ARGUMENT = 100_000
ENVIRONMENT_FOLDER = "environment"
LOCALE = "C.UTF-8"
REMEDY = "put it into a Lockbox secret and name that in cluster.secret_id"


class JobStatus(StrEnum):
    """`Job.Status` of the API."""

    STATUS_UNSPECIFIED = "STATUS_UNSPECIFIED"
    PROVISIONING = "PROVISIONING"
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    ERROR = "ERROR"
    DONE = "DONE"
    CANCELLED = "CANCELLED"
    CANCELLING = "CANCELLING"

    @property
    def ended(self) -> bool:
        """Whether nothing of it runs any more."""
        return self in (JobStatus.ERROR, JobStatus.DONE, JobStatus.CANCELLED)


@dataclass(frozen=True)
class PysparkSpecification:
    """What a PySpark job runs."""

    main_python_file_uri: str
    args: tuple[str, ...] = ()
    python_file_uris: tuple[str, ...] = ()
    file_uris: tuple[str, ...] = ()
    jar_file_uris: tuple[str, ...] = ()
    archive_uris: tuple[str, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)

    def same_work(self, other: PysparkSpecification) -> bool:
        """Whether both run the same file with the same arguments."""
        return (self.main_python_file_uri, self.args) == (other.main_python_file_uri, other.args)


@dataclass(frozen=True)
class Job:
    """A job as the API describes it; times in unix seconds, None where they are not known."""

    id: str
    name: str
    cluster_id: str
    status: JobStatus
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    specification: PysparkSpecification | None = None

    @property
    def seconds(self) -> float | None:
        """How long it ran."""
        if self.started_at is None or self.finished_at is None:
            return None
        return self.finished_at - self.started_at


@dataclass(frozen=True)
class Submission:
    """What to do about a job that is asked for: go on with one that is there, or submit one under a name."""

    name: str
    adopted: Job | None = None


def plan_submission(name: str, specification: PysparkSpecification, existing: Sequence[Job]) -> Submission:
    """Go on with a live or finished job of this name and work; after a failed one, submit under `<name>-2` and so on.

    Job names are not unique for the API, so it is for us never to submit the same work twice.
    """
    tries = tries_of(name, existing)
    for job in sorted(tries, key=lambda job: job.created_at, reverse=True):
        same = job.specification is not None and job.specification.same_work(specification)
        usable = job.status not in (JobStatus.ERROR, JobStatus.CANCELLED, JobStatus.CANCELLING)
        if same and usable:
            return Submission(job.name, job)
    return Submission(name if not tries else f"{name}-{len(tries) + 1}")


def tries_of(name: str, existing: Iterable[Job]) -> list[Job]:
    """The jobs submitted under `name`, or `<name>-2` and so on."""
    return [job for job in existing if re.fullmatch(rf"{re.escape(name)}(-\d+)?", job.name)]


def ordinal(name: str, submitted: str) -> int:
    """Which submission of the work `name` the job named `submitted` is: 1 for the first, n for `<name>-n`."""
    return 1 if submitted == name else int(submitted.rpartition("-")[2])


def environment_properties(archive_uri: str | None) -> dict[str, str]:
    """The properties under which a job runs in the packed Python environment at `archive_uri`.

    The driver runs on a compute host (`deployMode=cluster`): the default of a cluster without HDFS is the master,
    which has no GPU. None: the image's own Python. Without a locale Java and others take UTF-8 for ASCII.
    """
    properties = {
        "spark.submit.deployMode": "cluster",
        "spark.yarn.appMasterEnv.LC_ALL": LOCALE,
        "spark.executorEnv.LC_ALL": LOCALE,
    }
    if archive_uri is not None:
        python = f"./{ENVIRONMENT_FOLDER}/bin/python"
        properties |= {
            "spark.yarn.dist.archives": f"{archive_uri}#{ENVIRONMENT_FOLDER}",
            "spark.yarn.appMasterEnv.PYSPARK_PYTHON": python,
            "spark.yarn.appMasterEnv.PYSPARK_DRIVER_PYTHON": python,
            "spark.executorEnv.PYSPARK_PYTHON": python,
        }
    return properties


def problems(name: str, specification: PysparkSpecification) -> list[str]:
    """What the API would refuse, and secrets where everybody who may see the job could read them."""
    found = []
    if not RESOURCE_NAME.fullmatch(name):
        found.append(f"job name {name!r}: must match {RESOURCE_NAME.pattern}")
    if len(specification.properties) > MOST_PROPERTIES:
        found.append(f"{len(specification.properties)} properties: at most {MOST_PROPERTIES} are allowed")
    for key, value in specification.properties.items():
        if not PROPERTY_KEY.fullmatch(key):
            found.append(
                f"property {key!r}: must match {PROPERTY_KEY.pattern} (no prefix with a colon, as clusters have)"
            )
        if len(value) > LONGEST_PROPERTY:
            found.append(f"property {key!r}: {len(value)} characters, at most {LONGEST_PROPERTY} are allowed")
    for index, argument in enumerate(specification.args):
        if len(argument) > LONGEST_ARGUMENT:
            found.append(f"argument {index}: {len(argument)} characters, at most {LONGEST_ARGUMENT} are allowed")
    return [*found, *(f"{secret}: {REMEDY}" for secret in find_secrets(asdict(specification)))]


def create_request(cluster_id: str, name: str, specification: PysparkSpecification) -> dict[str, Any]:
    """The `CreateJobRequest`, in proto3 JSON."""
    return {
        "cluster_id": cluster_id,
        "name": name,
        "pyspark_job": {
            "main_python_file_uri": specification.main_python_file_uri,
            "args": list(specification.args),
            "python_file_uris": list(specification.python_file_uris),
            "file_uris": list(specification.file_uris),
            "jar_file_uris": list(specification.jar_file_uris),
            "archive_uris": list(specification.archive_uris),
            "properties": dict(specification.properties),
        },
    }


def live(jobs: Iterable[Job]) -> list[Job]:
    """The jobs that have not ended."""
    return [job for job in jobs if not job.status.ended]
