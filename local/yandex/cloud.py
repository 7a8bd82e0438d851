"""What the cloud remembers: operations, clusters and jobs. Knows nothing of gRPC's transport."""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from yandex.cloud.dataproc.v1 import (
    cluster_pb2,
    cluster_service_pb2,
    common_pb2,
    job_pb2,
    job_service_pb2,
    resource_preset_pb2,
    subcluster_pb2,
)
from yandex.cloud.operation.operation_pb2 import Operation

from local.yandex.driver import Driver, DriverSpecification, Machine
from local.yandex.faults import Fault

Status = cluster_pb2.Cluster.Status
JobStatus = job_pb2.Job.Status
LIVE_JOBS = (JobStatus.PROVISIONING, JobStatus.PENDING, JobStatus.RUNNING, JobStatus.CANCELLING)
ZONES = ("ru-central1-a", "ru-central1-b", "ru-central1-d")
_CORES_AND_MEMORY_GIB = {
    "s3-c2-m8": (2, 8),
    "s3-c4-m16": (4, 16),
    "s3-c8-m32": (8, 32),
    "m3-c4-m32": (4, 32),
    "g1.small": (8, 96),
}
PRESETS = {
    name: resource_preset_pb2.ResourcePreset(id=name, zone_ids=ZONES, cores=cores, memory=memory << 30)
    for name, (cores, memory) in _CORES_AND_MEMORY_GIB.items()
}


class RefusedError(Exception):
    """A call is refused with a gRPC status."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass
class _Job:
    proto: job_pb2.Job
    operation: Operation
    driver: Driver


@dataclass
class _Cluster:
    proto: cluster_pb2.Cluster
    subclusters: list[cluster_service_pb2.CreateSubclusterConfigSpec]
    created: float
    deleted: float | None = None
    jobs: dict[str, _Job] = field(default_factory=dict)


@dataclass
class Timing:
    """How long things take, seconds; may be changed while the stand-in runs."""

    creation_seconds: float = 2.0
    deletion_seconds: float = 0.5


class Cloud:
    """Clusters, jobs and operations of one folder tree; every method is safe to call from any thread."""

    def __init__(self, folder: Path, machine: Machine, timing: Timing) -> None:
        self._folder = folder
        self._machine = machine
        self.timing = timing
        self._lock = threading.RLock()
        self._clusters: dict[str, _Cluster] = {}
        self._operations: dict[str, Operation] = {}
        self._by_idempotency_key: dict[str, Operation] = {}
        self._closed = threading.Event()

    # Operations

    def operation(self, operation_id: str) -> Operation:
        """A copy of the operation; NOT_FOUND."""
        with self._lock:
            if operation_id not in self._operations:
                raise RefusedError(grpc.StatusCode.NOT_FOUND, f"Operation {operation_id} not found")
            return _copy(self._operations[operation_id])

    def repeated(self, idempotency_key: str) -> Operation | None:
        """The operation that an earlier call with the same idempotency key began."""
        with self._lock:
            earlier = self._by_idempotency_key.get(idempotency_key)
            return _copy(earlier) if earlier and idempotency_key else None

    # Clusters

    def create_cluster(
        self, request: cluster_service_pb2.CreateClusterRequest, idempotency_key: str, fault: Fault | None
    ) -> Operation:
        """Begin a cluster; ALREADY_EXISTS where its name is taken in the folder."""
        with self._lock:
            if any(
                other.proto.name == request.name and other.proto.folder_id == request.folder_id
                for other in self._live_clusters()
            ):
                raise RefusedError(grpc.StatusCode.ALREADY_EXISTS, f"Cluster {request.name} already exists")
            _check_presets(request)
            proto = cluster_pb2.Cluster(
                id=_new_id("c9q"),
                folder_id=request.folder_id,
                name=request.name,
                description=request.description,
                labels=request.labels,
                config=cluster_pb2.ClusterConfig(
                    version_id=request.config_spec.version_id, hadoop=request.config_spec.hadoop
                ),
                status=Status.CREATING,
                health=common_pb2.HEALTH_UNKNOWN,
                zone_id=request.zone_id,
                service_account_id=request.service_account_id,
                bucket=request.bucket,
                security_group_ids=request.security_group_ids,
                deletion_protection=request.deletion_protection,
                log_group_id=request.log_group_id,
                autoscaling_service_account_id=request.autoscaling_service_account_id,
            )
            proto.created_at.GetCurrentTime()
            cluster = _Cluster(proto, list(request.config_spec.subclusters_spec), time.time())
            self._clusters[proto.id] = cluster
            metadata = cluster_service_pb2.CreateClusterMetadata(cluster_id=proto.id)
            operation = self._new_operation("Create Data Processing cluster", metadata, idempotency_key)
        self._later(self.timing.creation_seconds, self._created, cluster, operation, fault)
        return _copy(operation)

    def _created(self, cluster: _Cluster, operation: Operation, fault: Fault | None) -> None:
        with self._lock:
            if cluster.deleted is not None or cluster.proto.status == Status.STOPPING:
                self._fail(operation, "CANCELLED", "The cluster was deleted while it was being created")
            elif fault is not None:
                cluster.proto.status = Status.ERROR
                cluster.proto.health = common_pb2.DEAD
                self._fail(operation, fault.code, fault.message)
            else:
                cluster.proto.status = Status.RUNNING
                cluster.proto.health = common_pb2.ALIVE
                self._finish(operation, cluster.proto)

    def cluster(self, cluster_id: str) -> cluster_pb2.Cluster:
        """A copy of the cluster; NOT_FOUND once it is deleted."""
        with self._lock:
            return _copy(self._live(cluster_id).proto)

    def clusters(self, folder_id: str, list_filter: str = "") -> list[cluster_pb2.Cluster]:
        """Clusters of a folder; the filter knows `name = "…"` only, as the API's does."""
        with self._lock:
            found = [cluster.proto for cluster in self._live_clusters() if cluster.proto.folder_id == folder_id]
            return [_copy(item) for item in _named(found, list_filter)]

    def update_cluster(self, request: cluster_service_pb2.UpdateClusterRequest) -> Operation:
        """Changes labels, description and deletion protection; nothing else is needed here."""
        with self._lock:
            cluster = self._live(request.cluster_id)
            for path in request.update_mask.paths:
                if path == "deletion_protection":
                    cluster.proto.deletion_protection = request.deletion_protection
                elif path == "description":
                    cluster.proto.description = request.description
                elif path == "labels":
                    cluster.proto.labels.clear()
                    cluster.proto.labels.update(request.labels)
                else:
                    raise RefusedError(grpc.StatusCode.UNIMPLEMENTED, f"update of {path} is not part of the stand-in")
            metadata = cluster_service_pb2.UpdateClusterMetadata(cluster_id=request.cluster_id)
            operation = self._new_operation("Update Data Processing cluster", metadata)
            self._finish(operation, cluster.proto)
            return _copy(operation)

    def delete_cluster(self, cluster_id: str, fault: Fault | None) -> Operation:
        """Begin the deletion; jobs are killed with their cluster."""
        with self._lock:
            cluster = self._live(cluster_id)
            if cluster.proto.deletion_protection:
                raise RefusedError(grpc.StatusCode.FAILED_PRECONDITION, "Cluster has deletion protection enabled")
            metadata = cluster_service_pb2.DeleteClusterMetadata(cluster_id=cluster_id)
            operation = self._new_operation("Delete Data Processing cluster", metadata)
            if fault is None:
                cluster.proto.status = Status.STOPPING
        self._later(self.timing.deletion_seconds, self._deleted, cluster, operation, fault)
        return _copy(operation)

    def _deleted(self, cluster: _Cluster, operation: Operation, fault: Fault | None) -> None:
        if fault is not None:
            with self._lock:
                self._fail(operation, fault.code, fault.message)
            return
        for job in list(cluster.jobs.values()):
            job.driver.kill()
        with self._lock:
            cluster.deleted = cluster.deleted or time.time()
            self._finish(operation, Empty())

    # Jobs

    def create_job(
        self, request: job_service_pb2.CreateJobRequest, idempotency_key: str, fault: Fault | None
    ) -> Operation:
        """Start the driver; FAILED_PRECONDITION unless the cluster is RUNNING."""
        if request.WhichOneof("job_spec") != "pyspark_job":
            raise RefusedError(grpc.StatusCode.UNIMPLEMENTED, "only pyspark_job is part of the stand-in")
        with self._lock:
            cluster = self._live(request.cluster_id)
            if cluster.proto.status != Status.RUNNING:
                state = Status.Name(cluster.proto.status)
                raise RefusedError(grpc.StatusCode.FAILED_PRECONDITION, f"Cluster is {state}, not RUNNING")
            wanted = request.pyspark_job
            proto = job_pb2.Job(
                id=_new_id("c9q"),
                cluster_id=request.cluster_id,
                name=request.name or "job",
                created_by="laptop-service-account",
                status=JobStatus.PENDING,
                pyspark_job=wanted,
            )
            proto.created_at.GetCurrentTime()
            driver = Driver(_specification(wanted), self._machine, self._folder / "jobs" / proto.id)
            metadata = job_service_pb2.CreateJobMetadata(cluster_id=request.cluster_id, job_id=proto.id)
            operation = self._new_operation("Create Data Processing job", metadata, idempotency_key)
            job = _Job(proto, operation, driver)
            cluster.jobs[proto.id] = job
        self._later(0, self._run, job, fault)
        return _copy(operation)

    def _run(self, job: _Job, fault: Fault | None) -> None:
        with self._lock:
            if job.proto.status == JobStatus.PENDING:
                job.proto.status = JobStatus.RUNNING
            job.proto.started_at.GetCurrentTime()
        code = job.driver.run() if fault is None else 1
        with self._lock:
            job.proto.finished_at.GetCurrentTime()
            if job.proto.status == JobStatus.CANCELLING:
                job.proto.status = JobStatus.CANCELLED
                self._fail(job.operation, "CANCELLED", "The job was cancelled")
            elif code == 0:
                job.proto.status = JobStatus.DONE
                self._finish(job.operation, job.proto)
            else:
                job.proto.status = JobStatus.ERROR
                if fault is not None and fault.clean_operation:
                    self._finish(job.operation, job.proto)
                else:
                    message = fault.message if fault else f"Driver ended with exit code {code}"
                    self._fail(job.operation, fault.code if fault else "INTERNAL", message)

    def job(self, cluster_id: str, job_id: str) -> job_pb2.Job:
        """A copy of the job; NOT_FOUND."""
        with self._lock:
            return _copy(self._job(cluster_id, job_id).proto)

    def jobs(self, cluster_id: str, list_filter: str = "") -> list[job_pb2.Job]:
        """Jobs of a cluster; the filter knows `name = "…"` only."""
        with self._lock:
            found = [job.proto for job in self._live(cluster_id).jobs.values()]
            return [_copy(item) for item in _named(found, list_filter)]

    def job_log(self, cluster_id: str, job_id: str, offset: int, size: int) -> tuple[str, int | None]:
        """Driver output from byte `offset`, and the next offset where more than `size` bytes are there."""
        with self._lock:
            file = self._job(cluster_id, job_id).driver.log_file
        with file.open("rb") as log:
            log.seek(offset)
            content = log.read(size)
            more = bool(log.read(1))
        return content.decode(errors="replace"), offset + len(content) if more else None

    def cancel_job(self, cluster_id: str, job_id: str) -> Operation:
        """Kill the driver; FAILED_PRECONDITION on a job that has ended."""
        with self._lock:
            job = self._job(cluster_id, job_id)
            if job.proto.status not in LIVE_JOBS:
                state = JobStatus.Name(job.proto.status)
                raise RefusedError(grpc.StatusCode.FAILED_PRECONDITION, f"Job is {state} and cannot be cancelled")
            job.proto.status = JobStatus.CANCELLING
            metadata = job_service_pb2.CreateJobMetadata(cluster_id=cluster_id, job_id=job_id)
            operation = self._new_operation("Cancel Data Processing job", metadata)
        self._later(0, self._cancel, job, operation)
        return _copy(operation)

    def _cancel(self, job: _Job, operation: Operation) -> None:
        job.driver.kill()
        with self._lock:
            self._finish(operation, job.proto)

    # For people and tests

    def history(self) -> dict[str, Any]:
        """Every cluster that ever was, with its jobs; JSON, times in unix seconds."""
        with self._lock:
            return {"clusters": [_cluster_history(cluster) for cluster in self._clusters.values()]}

    def close(self) -> None:
        """Kill every job; later effects no longer happen."""
        self._closed.set()
        with self._lock:
            drivers = [job.driver for cluster in self._clusters.values() for job in cluster.jobs.values()]
        for driver in drivers:
            driver.kill()

    def _later(self, seconds: float, effect: Any, *args: Any) -> None:
        def run() -> None:
            if not self._closed.wait(seconds):
                effect(*args)

        threading.Thread(target=run, daemon=True).start()

    def _live_clusters(self) -> list[_Cluster]:
        return [cluster for cluster in self._clusters.values() if cluster.deleted is None]

    def _live(self, cluster_id: str) -> _Cluster:
        cluster = self._clusters.get(cluster_id)
        if cluster is None or cluster.deleted is not None:
            raise RefusedError(grpc.StatusCode.NOT_FOUND, f"Cluster {cluster_id} not found")
        return cluster

    def _job(self, cluster_id: str, job_id: str) -> _Job:
        jobs = self._live(cluster_id).jobs
        if job_id not in jobs:
            raise RefusedError(grpc.StatusCode.NOT_FOUND, f"Job {job_id} not found")
        return jobs[job_id]

    def _new_operation(self, description: str, metadata: Message, idempotency_key: str = "") -> Operation:
        operation = Operation(id=_new_id("c9q"), description=description, created_by="laptop-service-account")
        operation.created_at.GetCurrentTime()
        operation.metadata.Pack(metadata)
        self._operations[operation.id] = operation
        if idempotency_key:
            self._by_idempotency_key[idempotency_key] = operation
        return operation

    def _finish(self, operation: Operation, response: Message) -> None:
        operation.response.Pack(response)
        operation.modified_at.GetCurrentTime()
        operation.done = True

    def _fail(self, operation: Operation, code: str, message: str) -> None:
        operation.error.code = getattr(grpc.StatusCode, code).value[0]
        operation.error.message = message
        operation.modified_at.GetCurrentTime()
        operation.done = True


def _check_presets(request: cluster_service_pb2.CreateClusterRequest) -> None:
    roles = [spec.role for spec in request.config_spec.subclusters_spec]
    if roles.count(subcluster_pb2.MASTERNODE) != 1:
        raise RefusedError(grpc.StatusCode.INVALID_ARGUMENT, "a cluster has exactly one master subcluster")
    if request.zone_id not in ZONES:
        raise RefusedError(grpc.StatusCode.INVALID_ARGUMENT, f"Zone {request.zone_id} not found")
    for spec in request.config_spec.subclusters_spec:
        if spec.resources.resource_preset_id not in PRESETS:
            message = f"Resource preset {spec.resources.resource_preset_id} not found"
            raise RefusedError(grpc.StatusCode.INVALID_ARGUMENT, message)


def _specification(wanted: job_pb2.PysparkJob) -> DriverSpecification:
    return DriverSpecification(
        main_python_file_uri=wanted.main_python_file_uri,
        python_file_uris=tuple(wanted.python_file_uris),
        file_uris=tuple(wanted.file_uris),
        archive_uris=tuple(wanted.archive_uris),
        args=tuple(wanted.args),
        properties=dict(wanted.properties),
    )


def _named(items: list[Any], list_filter: str) -> list[Any]:
    if not list_filter:
        return items
    match = re.fullmatch(r"""\s*name\s*=\s*["']([^"']*)["']\s*""", list_filter)
    if match is None:
        raise RefusedError(grpc.StatusCode.INVALID_ARGUMENT, f'filter {list_filter!r}: only name = "…" is known')
    return [item for item in items if item.name == match[1]]


def _cluster_history(cluster: _Cluster) -> dict[str, Any]:
    proto = cluster.proto
    return {
        "id": proto.id,
        "folder_id": proto.folder_id,
        "name": proto.name,
        "labels": dict(proto.labels),
        "status": "DELETED" if cluster.deleted is not None else Status.Name(proto.status),
        "created": cluster.created,
        "deleted": cluster.deleted,
        "hosts": sum(spec.hosts_count for spec in cluster.subclusters),
        "jobs": [_job_history(job.proto) for job in cluster.jobs.values()],
    }


def _job_history(job: job_pb2.Job) -> Mapping[str, Any]:
    return {
        "id": job.id,
        "name": job.name,
        "status": JobStatus.Name(job.status),
        "created": job.created_at.ToMilliseconds() / 1000,
        "started": job.started_at.ToMilliseconds() / 1000 if job.HasField("started_at") else None,
        "finished": job.finished_at.ToMilliseconds() / 1000 if job.HasField("finished_at") else None,
        "args": list(job.pyspark_job.args),
        "properties": dict(job.pyspark_job.properties),
    }


def _new_id(prefix: str) -> str:
    return prefix + uuid.uuid4().hex[:17]


def _copy(message: Any) -> Any:
    copied = type(message)()
    copied.CopyFrom(message)
    return copied
