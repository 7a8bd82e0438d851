"""Talks to Yandex Data Processing: asynchronous gRPC on the SDK's protos, typed answers, own errors.

The provider's hook reads the connection; the SDK's requesters make the tokens. Root certificates are read from
GRPC_DEFAULT_SSL_ROOTS_FILE_PATH here and handed over, because gRPC itself reads them once in a process's life, which in
a triggerer may have been before ours.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from asgiref.sync import sync_to_async
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message
from yandex.cloud.dataproc.v1 import (
    cluster_pb2,
    cluster_service_pb2,
    cluster_service_pb2_grpc,
    job_pb2,
    job_service_pb2,
    job_service_pb2_grpc,
    resource_preset_service_pb2,
    resource_preset_service_pb2_grpc,
)
from yandex.cloud.endpoint import api_endpoint_service_pb2, api_endpoint_service_pb2_grpc
from yandex.cloud.iam.v1 import iam_token_service_pb2_grpc
from yandex.cloud.operation import operation_service_pb2, operation_service_pb2_grpc

from ml_lifecycle.dataproc.cluster import Cluster, ClusterStatus, ResourcePreset
from ml_lifecycle.dataproc.exceptions import (
    AlreadyExistsError,
    ApiError,
    InvalidRequestError,
    NotFoundError,
    PermissionRefusedError,
    PreconditionError,
    QuotaExceededError,
    UnavailableError,
)
from ml_lifecycle.dataproc.job import Job, JobStatus, PysparkSpecification

API_ENDPOINT = "api.cloud.yandex.net"
ROOTS_VARIABLE = "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"
CALL_TIMEOUT_SECONDS = 30
# IAM tokens live for hours; ours are renewed well before.
TOKEN_SECONDS = 600
PAGE_SIZE = 1000
PASSING = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.ABORTED})
# RESOURCE_EXHAUSTED and INTERNAL pass when reading; on a change they may mean a quota, or half a change.
PASSING_FOR_READS = PASSING | {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL}
ERRORS: Mapping[grpc.StatusCode, type[ApiError]] = {
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequestError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionRefusedError,
    grpc.StatusCode.UNAUTHENTICATED: PermissionRefusedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: QuotaExceededError,
    grpc.StatusCode.FAILED_PRECONDITION: PreconditionError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: UnavailableError,
    grpc.StatusCode.ABORTED: UnavailableError,
}


@dataclass(frozen=True)
class BackOff:
    """How long a passing failure is borne: waits that double from `first` to `longest`, `patience` in all, seconds."""

    first: float = 0.5
    longest: float = 30.0
    patience: float = 300.0

    def wait(self, attempt: int) -> float:
        """Seconds to wait after the attempt of this number, counted from 0; jittered by a quarter."""
        return min(self.longest, self.first * 2 ** min(attempt, 16)) * random.uniform(0.75, 1.25)  # noqa: S311


BACK_OFF = BackOff()


@dataclass(frozen=True)
class Started:
    """An operation that has begun, and the cluster or job it is about."""

    operation_id: str
    resource_id: str


@dataclass(frozen=True)
class Operation:
    """How far an operation is; `error` is empty unless it failed."""

    id: str
    done: bool
    error: str = ""


@dataclass(frozen=True)
class LogPage:
    """A part of a driver's output; `next_token` is empty on the last page so far."""

    content: str
    next_token: str


@dataclass(frozen=True)
class _Access:
    """What the connection says."""

    endpoint: str
    folder_id: str | None
    service_account_id: str | None
    ssh_public_key: str | None
    credentials: Mapping[str, Any]


class DataprocClient:
    """Data Processing with one connection's rights; made by `connect`."""

    def __init__(self, access: _Access, back_off: BackOff) -> None:
        self._access = access
        self._back_off = back_off
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._endpoints: dict[str, str] = {}
        self._roots = _root_certificates()
        self._token = ""
        self._token_time = float("-inf")

    @property
    def folder_id(self) -> str | None:
        """The connection's folder."""
        return self._access.folder_id

    @property
    def service_account_id(self) -> str | None:
        """The account of the connection's key."""
        return self._access.service_account_id

    @property
    def ssh_public_key(self) -> str | None:
        """The connection's public key for hosts."""
        return self._access.ssh_public_key

    # Clusters

    async def create_cluster(self, request: Mapping[str, Any]) -> Started:
        """Begin a cluster; AlreadyExistsError where the name is taken in the folder."""
        message = _parse(request, cluster_service_pb2.CreateClusterRequest(), "ClusterService.Create")
        operation = await self._change("ClusterService.Create", await self._clusters(), message)
        metadata = cluster_service_pb2.CreateClusterMetadata()
        operation.metadata.Unpack(metadata)
        return Started(operation.id, metadata.cluster_id)

    async def get_cluster(self, cluster_id: str) -> Cluster:
        """NotFoundError once it is deleted."""
        request = cluster_service_pb2.GetClusterRequest(cluster_id=cluster_id)
        return _cluster(await self._read("ClusterService.Get", await self._clusters(), request))

    async def find_cluster(self, cluster_id: str) -> Cluster | None:
        """None once it is deleted."""
        try:
            return await self.get_cluster(cluster_id)
        except NotFoundError:
            return None

    async def find_cluster_by_name(self, folder_id: str, name: str) -> Cluster | None:
        """The cluster of this name, which is unique in its folder."""
        found = await self.list_clusters(folder_id, name)
        return found[0] if found else None

    async def list_clusters(self, folder_id: str, name: str | None = None) -> list[Cluster]:
        """All clusters of a folder, or those of one name; the API filters by name alone."""
        list_filter = f'name = "{name}"' if name else ""
        request = cluster_service_pb2.ListClustersRequest(folder_id=folder_id, filter=list_filter, page_size=PAGE_SIZE)
        pages = self._pages("ClusterService.List", await self._clusters(), request)
        return [_cluster(item) async for page in pages for item in page.clusters if name in (None, item.name)]

    async def delete_cluster(self, cluster_id: str) -> Started:
        """Begin the deletion, lifting a deletion protection first; NotFoundError, PreconditionError."""
        cluster = await self.get_cluster(cluster_id)
        stub = await self._clusters()
        if cluster.deletion_protection:
            lift = cluster_service_pb2.UpdateClusterRequest(cluster_id=cluster_id, deletion_protection=False)
            lift.update_mask.paths.append("deletion_protection")
            await self._change("ClusterService.Update", stub, lift)
        request = cluster_service_pb2.DeleteClusterRequest(cluster_id=cluster_id)
        return Started((await self._change("ClusterService.Delete", stub, request)).id, cluster_id)

    async def operation(self, operation_id: str) -> Operation:
        """How far it is; NotFoundError."""
        stub = operation_service_pb2_grpc.OperationServiceStub(await self._channel("operation"))
        request = operation_service_pb2.GetOperationRequest(operation_id=operation_id)
        found = await self._read("OperationService.Get", stub, request)
        error = f"{_code_name(found.error.code)}: {found.error.message}" if found.HasField("error") else ""
        return Operation(found.id, found.done, error)

    async def list_presets(self) -> list[ResourcePreset]:
        """The kinds of hosts that the cloud offers."""
        stub = resource_preset_service_pb2_grpc.ResourcePresetServiceStub(await self._channel("dataproc"))
        request = resource_preset_service_pb2.ListResourcePresetsRequest(page_size=PAGE_SIZE)
        pages = self._pages("ResourcePresetService.List", stub, request)
        return [
            ResourcePreset(item.id, tuple(item.zone_ids), item.cores, item.memory)
            async for page in pages
            for item in page.resource_presets
        ]

    # Jobs

    async def create_job(self, request: Mapping[str, Any]) -> Started:
        """Submit a job; PreconditionError unless its cluster is running.

        A name is submitted to a cluster once: another submission of it, by a second try of the task, gets the same job.
        """
        message: Any = _parse(request, job_service_pb2.CreateJobRequest(), "JobService.Create")
        key = uuid.uuid5(uuid.NAMESPACE_URL, f"dataproc/{message.cluster_id}/{message.name}")
        operation = await self._change("JobService.Create", await self._jobs(), message, key)
        metadata = job_service_pb2.CreateJobMetadata()
        operation.metadata.Unpack(metadata)
        return Started(operation.id, metadata.job_id)

    async def get_job(self, cluster_id: str, job_id: str) -> Job:
        """NotFoundError once its cluster is deleted."""
        request = job_service_pb2.GetJobRequest(cluster_id=cluster_id, job_id=job_id)
        return _job(await self._read("JobService.Get", await self._jobs(), request))

    async def list_jobs(self, cluster_id: str) -> list[Job]:
        """All jobs of a cluster."""
        request = job_service_pb2.ListJobsRequest(cluster_id=cluster_id, page_size=PAGE_SIZE)
        pages = self._pages("JobService.List", await self._jobs(), request)
        return [_job(item) async for page in pages for item in page.jobs]

    async def job_log(self, cluster_id: str, job_id: str, page_token: str = "") -> LogPage:
        """The driver's output from a page on."""
        request = job_service_pb2.ListJobLogRequest(cluster_id=cluster_id, job_id=job_id, page_token=page_token)
        found = await self._read("JobService.ListLog", await self._jobs(), request)
        return LogPage(found.content, found.next_page_token)

    async def cancel_job(self, cluster_id: str, job_id: str) -> bool:
        """Ask for the job's end; False if it had ended already or is gone."""
        request = job_service_pb2.CancelJobRequest(cluster_id=cluster_id, job_id=job_id)
        try:
            await self._change("JobService.Cancel", await self._jobs(), request)
        except (PreconditionError, NotFoundError):
            return False
        return True

    # Transport

    async def close(self) -> None:
        """Close every channel."""
        for channel in self._channels.values():
            await channel.close(grace=None)
        self._channels.clear()

    async def _clusters(self) -> Any:
        return cluster_service_pb2_grpc.ClusterServiceStub(await self._channel("dataproc"))

    async def _jobs(self) -> Any:
        return job_service_pb2_grpc.JobServiceStub(await self._channel("dataproc"))

    async def _pages(self, method: str, stub: Any, request: Any) -> AsyncIterator[Any]:
        while True:
            page = await self._read(method, stub, request)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def _read(self, method: str, stub: Any, request: Message) -> Any:
        return await self._call(method, stub, request, PASSING_FOR_READS)

    async def _change(self, method: str, stub: Any, request: Message, key: uuid.UUID | None = None) -> Any:
        # One key for every try of this change: a try whose answer was lost is not done a second time.
        return await self._call(method, stub, request, PASSING, (("idempotency-key", str(key or uuid.uuid4())),))

    async def _call(
        self,
        method: str,
        stub: Any,
        request: Message,
        passing: frozenset[grpc.StatusCode],
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> Any:
        rpc = getattr(stub, method.partition(".")[2])

        async def attempt() -> Any:
            authorization = ("authorization", f"Bearer {await self._iam_token()}")
            return await rpc(request, metadata=(*metadata, authorization), timeout=CALL_TIMEOUT_SECONDS)

        return await self._persist(method, attempt, passing)

    async def _persist(self, method: str, attempt: Callable[[], Any], passing: frozenset[grpc.StatusCode]) -> Any:
        """Try until it succeeds, fails for good, or patience ends."""
        deadline = time.monotonic() + self._back_off.patience
        number = 0
        renewed = False
        while True:
            try:
                return await attempt()
            except grpc.aio.AioRpcError as error:
                wait = self._back_off.wait(number)
                if error.code() is grpc.StatusCode.UNAUTHENTICATED and not renewed:
                    # The token may have been revoked before its time: one try with a new one.
                    self._token, renewed = "", True
                    continue
                if error.code() not in passing or time.monotonic() + wait > deadline:
                    raise _api_error(method, error) from error
            await asyncio.sleep(wait)
            number += 1

    async def _channel(self, service: str) -> grpc.aio.Channel:
        if not self._endpoints:
            self._endpoints = await self._list_endpoints()
        if service not in self._endpoints:
            raise UnavailableError("ApiEndpointService.List", "NOT_FOUND", f"{self._access.endpoint} has no {service}")
        return self._open(self._endpoints[service])

    def _open(self, address: str) -> grpc.aio.Channel:
        if address not in self._channels:
            credentials = grpc.ssl_channel_credentials(root_certificates=self._roots)
            self._channels[address] = grpc.aio.secure_channel(address, credentials)
        return self._channels[address]

    async def _list_endpoints(self) -> dict[str, str]:
        stub = api_endpoint_service_pb2_grpc.ApiEndpointServiceStub(self._open(self._access.endpoint))
        request = api_endpoint_service_pb2.ListApiEndpointsRequest()

        async def attempt() -> Any:
            return await stub.List(request, timeout=CALL_TIMEOUT_SECONDS)

        found = await self._persist("ApiEndpointService.List", attempt, PASSING_FOR_READS)
        return {endpoint.id: endpoint.address for endpoint in found.endpoints}

    async def _iam_token(self) -> str:
        if not self._token or time.monotonic() - self._token_time > TOKEN_SECONDS:
            self._token = await self._new_token()
            self._token_time = time.monotonic()
        return self._token

    async def _new_token(self) -> str:
        from yandexcloud.auth import MetadataAuth, get_auth_token_requester

        requester = get_auth_token_requester(**self._access.credentials, endpoint=self._access.endpoint)
        if isinstance(requester, MetadataAuth):
            return await self._metadata_token(requester)
        stub = iam_token_service_pb2_grpc.IamTokenServiceStub(self._open(self._endpoints["iam"]))

        async def attempt() -> Any:
            return await stub.Create(requester.get_token_request(), timeout=CALL_TIMEOUT_SECONDS)

        return str((await self._persist("IamTokenService.Create", attempt, PASSING_FOR_READS)).iam_token)

    async def _metadata_token(self, requester: Any) -> str:
        import requests

        try:
            return str(await asyncio.to_thread(requester.get_token))
        except requests.RequestException as error:
            message = f"no token from the metadata service: {error}; give the connection a service account key"
            raise UnavailableError("metadata", "UNAVAILABLE", message) from error


@asynccontextmanager
async def connect(connection_id: str, back_off: BackOff | None = None) -> AsyncIterator[DataprocClient]:
    """A client with the rights of an Airflow connection of type yandexcloud."""
    # asgiref's thread, not asyncio's: the triggerer answers connection requests only to the former.
    client = DataprocClient(await sync_to_async(_access)(connection_id), back_off or BACK_OFF)
    try:
        yield client
    finally:
        await client.close()


def _access(connection_id: str) -> _Access:
    from airflow.providers.yandex.hooks.yandex import YandexCloudBaseHook
    from airflow.providers.yandex.utils.fields import get_field_from_extras

    hook = YandexCloudBaseHook(yandex_conn_id=connection_id)
    return _Access(
        endpoint=get_field_from_extras(hook.extras, "endpoint") or API_ENDPOINT,
        folder_id=hook.default_folder_id,
        service_account_id=hook.default_service_account_id,
        ssh_public_key=hook.default_public_ssh_key,
        credentials=hook.credentials,
    )


def _root_certificates() -> bytes | None:
    file = os.environ.get(ROOTS_VARIABLE)
    return Path(file).read_bytes() if file else None


def _parse(document: Mapping[str, Any], message: Message, method: str) -> Message:
    try:
        return ParseDict(dict(document), message)
    except ParseError as error:
        raise InvalidRequestError(method, "INVALID_ARGUMENT", str(error)) from error


def _api_error(method: str, error: grpc.aio.AioRpcError) -> ApiError:
    code = error.code()
    return ERRORS.get(code, ApiError)(method, code.name, error.details() or "no message")


def _code_name(number: int) -> str:
    return next((code.name for code in grpc.StatusCode if code.value[0] == number), str(number))


def _seconds(message: Any, field: str) -> float | None:
    return getattr(message, field).ToMilliseconds() / 1000 if message.HasField(field) else None


def _cluster(message: cluster_pb2.Cluster) -> Cluster:
    return Cluster(
        id=message.id,
        name=message.name,
        folder_id=message.folder_id,
        status=ClusterStatus(cluster_pb2.Cluster.Status.Name(message.status)),
        created_at=_seconds(message, "created_at") or 0.0,
        labels=dict(message.labels),
        deletion_protection=message.deletion_protection,
    )


def _job(message: job_pb2.Job) -> Job:
    wanted = message.pyspark_job
    specification = PysparkSpecification(
        main_python_file_uri=wanted.main_python_file_uri,
        args=tuple(wanted.args),
        python_file_uris=tuple(wanted.python_file_uris),
        file_uris=tuple(wanted.file_uris),
        jar_file_uris=tuple(wanted.jar_file_uris),
        archive_uris=tuple(wanted.archive_uris),
        properties=dict(wanted.properties),
    )
    return Job(
        id=message.id,
        name=message.name,
        cluster_id=message.cluster_id,
        status=JobStatus(job_pb2.Job.Status.Name(message.status)),
        created_at=_seconds(message, "created_at") or 0.0,
        started_at=_seconds(message, "started_at"),
        finished_at=_seconds(message, "finished_at"),
        specification=specification if message.WhichOneof("job_spec") == "pyspark_job" else None,
    )
