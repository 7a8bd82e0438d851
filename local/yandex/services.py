"""The gRPC services, on Yandex's real protos: each call is authorised, checked, faulted, then done."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
import jwt
from google.protobuf.message import Message
from yandex.cloud.dataproc.v1 import (
    cluster_service_pb2,
    cluster_service_pb2_grpc,
    job_service_pb2,
    job_service_pb2_grpc,
    resource_preset_service_pb2,
    resource_preset_service_pb2_grpc,
)
from yandex.cloud.endpoint import api_endpoint_pb2, api_endpoint_service_pb2, api_endpoint_service_pb2_grpc
from yandex.cloud.iam.v1 import iam_token_service_pb2, iam_token_service_pb2_grpc
from yandex.cloud.lockbox.v1 import payload_pb2, payload_service_pb2_grpc
from yandex.cloud.operation import operation_service_pb2_grpc

from local.yandex.cloud import PRESETS, Cloud, RefusedError
from local.yandex.faults import Fault, Faults
from local.yandex.validation import violations

SERVICES = ("endpoint", "iam", "operation", "dataproc", "dataproc-manager", "lockbox", "lockbox-payload", "vpc",
            "resource-manager", "logging")  # fmt: skip
TOKEN_SECONDS = 3600
DEFAULT_LOG_PAGE = 1 << 20


class Tokens:
    """The IAM tokens that were handed out."""

    def __init__(self) -> None:
        self._expiry: dict[str, float] = {}
        self._lock = threading.Lock()

    def issue(self) -> str:
        """A new token, valid for an hour."""
        token = f"t1.{secrets.token_urlsafe(24)}"
        with self._lock:
            self._expiry[token] = time.time() + TOKEN_SECONDS
        return token

    @property
    def issued(self) -> list[str]:
        """All of them, for tests that look for leaks."""
        with self._lock:
            return list(self._expiry)

    def valid(self, authorization: str) -> bool:
        """Whether a header `Bearer <token>` carries a token of ours."""
        with self._lock:
            return self._expiry.get(authorization.removeprefix("Bearer "), 0) > time.time()


@dataclass
class Services:
    """What every service shares."""

    cloud: Cloud
    faults: Faults
    tokens: Tokens
    service_account_public_key: bytes
    secrets: Mapping[str, Mapping[str, str]]
    address: str = ""
    calls: list[str] = field(default_factory=list)

    def register(self, server: grpc.Server) -> None:
        """Serve all of them on `server`."""
        api_endpoint_service_pb2_grpc.add_ApiEndpointServiceServicer_to_server(_Endpoints(self), server)
        iam_token_service_pb2_grpc.add_IamTokenServiceServicer_to_server(_IamTokens(self), server)
        operation_service_pb2_grpc.add_OperationServiceServicer_to_server(_Operations(self), server)
        cluster_service_pb2_grpc.add_ClusterServiceServicer_to_server(_Clusters(self), server)
        job_service_pb2_grpc.add_JobServiceServicer_to_server(_Jobs(self), server)
        resource_preset_service_pb2_grpc.add_ResourcePresetServiceServicer_to_server(_Presets(self), server)
        payload_service_pb2_grpc.add_PayloadServiceServicer_to_server(_Payloads(self), server)

    def answer(
        self, method: str, request: Message, context: grpc.ServicerContext, action: Callable[[Fault | None], Any]
    ) -> Any:
        """Do `action`, with the faults of `method` before and after it."""
        self.calls.append(method)
        try:
            self._authorise(method, context)
            self._fault(self.faults.take(method, before=True))
            _check(request)
            fault = self.faults.take(method, before=False)
            repeated = self.cloud.repeated(_metadata(context).get("idempotency-key", ""))
            answer: Any = repeated or action(fault)
            if fault is not None and fault.lost_response:
                self._fault(fault)
        except RefusedError as error:
            context.abort(error.code, error.message)
        else:
            return answer

    def _authorise(self, method: str, context: grpc.ServicerContext) -> None:
        open_to_all = ("ApiEndpointService.List", "IamTokenService.Create")
        if method not in open_to_all and not self.tokens.valid(_metadata(context).get("authorization", "")):
            raise RefusedError(grpc.StatusCode.UNAUTHENTICATED, "The token is invalid")

    def _fault(self, fault: Fault | None) -> None:
        if fault is None:
            return
        time.sleep(fault.delay_seconds)
        if fault.code != "OK":
            raise RefusedError(getattr(grpc.StatusCode, fault.code), fault.message)


def _check(request: Message) -> None:
    if found := list(violations(request)):
        raise RefusedError(grpc.StatusCode.INVALID_ARGUMENT, "; ".join(found))


def _metadata(context: grpc.ServicerContext) -> dict[str, str]:
    return {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}


def _key(context: grpc.ServicerContext) -> str:
    return _metadata(context).get("idempotency-key", "")


class _Endpoints(api_endpoint_service_pb2_grpc.ApiEndpointServiceServicer):
    def __init__(self, services: Services) -> None:
        self._services = services

    def List(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 (the proto's name)
        def endpoints(_: Fault | None) -> Any:
            found = [api_endpoint_pb2.ApiEndpoint(id=name, address=self._services.address) for name in SERVICES]
            return api_endpoint_service_pb2.ListApiEndpointsResponse(endpoints=found)

        return self._services.answer("ApiEndpointService.List", request, context, endpoints)


class _IamTokens(iam_token_service_pb2_grpc.IamTokenServiceServicer):
    def __init__(self, services: Services) -> None:
        self._services = services

    def Create(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return self._services.answer("IamTokenService.Create", request, context, lambda _: self._token(request))

    def _token(self, request: iam_token_service_pb2.CreateIamTokenRequest) -> Any:
        try:
            key = self._services.service_account_public_key
            jwt.decode(request.jwt, key, algorithms=["PS256"], options={"verify_aud": False})
        except jwt.InvalidTokenError as error:
            raise RefusedError(grpc.StatusCode.UNAUTHENTICATED, f"The JWT is refused: {error}") from error
        answer = iam_token_service_pb2.CreateIamTokenResponse(iam_token=self._services.tokens.issue())
        answer.expires_at.FromSeconds(int(time.time()) + TOKEN_SECONDS)
        return answer


class _Operations(operation_service_pb2_grpc.OperationServiceServicer):
    def __init__(self, services: Services) -> None:
        self._services = services

    def Get(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        cloud = self._services.cloud
        return self._services.answer(
            "OperationService.Get", request, context, lambda _: cloud.operation(request.operation_id)
        )

    def Cancel(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        def refuse(_: Fault | None) -> Any:
            raise RefusedError(grpc.StatusCode.FAILED_PRECONDITION, "Data Processing operations cannot be cancelled")

        return self._services.answer("OperationService.Cancel", request, context, refuse)


class _Clusters(cluster_service_pb2_grpc.ClusterServiceServicer):
    def __init__(self, services: Services) -> None:
        self._services = services

    def Create(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        cloud, key = self._services.cloud, _key(context)
        return self._services.answer(
            "ClusterService.Create",
            request,
            context,
            lambda fault: cloud.create_cluster(request, key, fault if fault and fault.after_id else None),
        )

    def Get(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        cloud = self._services.cloud
        return self._services.answer(
            "ClusterService.Get", request, context, lambda _: cloud.cluster(request.cluster_id)
        )

    def List(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        def clusters(_: Fault | None) -> Any:
            found = self._services.cloud.clusters(request.folder_id, request.filter)
            page, token = _page(found, request)
            return cluster_service_pb2.ListClustersResponse(clusters=page, next_page_token=token)

        return self._services.answer("ClusterService.List", request, context, clusters)

    def Update(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        cloud = self._services.cloud
        return self._services.answer("ClusterService.Update", request, context, lambda _: cloud.update_cluster(request))

    def Delete(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        cloud = self._services.cloud
        return self._services.answer(
            "ClusterService.Delete",
            request,
            context,
            lambda fault: cloud.delete_cluster(request.cluster_id, fault if fault and fault.after_id else None),
        )


class _Jobs(job_service_pb2_grpc.JobServiceServicer):
    def __init__(self, services: Services) -> None:
        self._services = services

    def Create(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        def create(fault: Fault | None) -> Any:
            failing = fault if fault and (fault.after_id or fault.clean_operation) else None
            return self._services.cloud.create_job(request, _key(context), failing)

        return self._services.answer("JobService.Create", request, context, create)

    def Get(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        cloud = self._services.cloud
        return self._services.answer(
            "JobService.Get", request, context, lambda _: cloud.job(request.cluster_id, request.job_id)
        )

    def List(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        def jobs(_: Fault | None) -> Any:
            page, token = _page(self._services.cloud.jobs(request.cluster_id, request.filter), request)
            return job_service_pb2.ListJobsResponse(jobs=page, next_page_token=token)

        return self._services.answer("JobService.List", request, context, jobs)

    def ListLog(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        def log(_: Fault | None) -> Any:
            offset, size = int(request.page_token or 0), request.page_size or DEFAULT_LOG_PAGE
            content, following = self._services.cloud.job_log(request.cluster_id, request.job_id, offset, size)
            token = "" if following is None else str(following)
            return job_service_pb2.ListJobLogResponse(content=content, next_page_token=token)

        return self._services.answer("JobService.ListLog", request, context, log)

    def Cancel(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        cloud = self._services.cloud
        return self._services.answer(
            "JobService.Cancel", request, context, lambda _: cloud.cancel_job(request.cluster_id, request.job_id)
        )


class _Presets(resource_preset_service_pb2_grpc.ResourcePresetServiceServicer):
    def __init__(self, services: Services) -> None:
        self._services = services

    def List(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        def presets(_: Fault | None) -> Any:
            page, token = _page(list(PRESETS.values()), request)
            return resource_preset_service_pb2.ListResourcePresetsResponse(resource_presets=page, next_page_token=token)

        return self._services.answer("ResourcePresetService.List", request, context, presets)

    def Get(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        def preset(_: Fault | None) -> Any:
            if request.resource_preset_id not in PRESETS:
                message = f"Resource preset {request.resource_preset_id} not found"
                raise RefusedError(grpc.StatusCode.NOT_FOUND, message)
            return PRESETS[request.resource_preset_id]

        return self._services.answer("ResourcePresetService.Get", request, context, preset)


class _Payloads(payload_service_pb2_grpc.PayloadServiceServicer):
    def __init__(self, services: Services) -> None:
        self._services = services

    def Get(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        def payload(_: Fault | None) -> Any:
            entries = self._services.secrets.get(request.secret_id)
            if entries is None:
                raise RefusedError(grpc.StatusCode.NOT_FOUND, f"Secret {request.secret_id} not found")
            found = [payload_pb2.Payload.Entry(key=key, text_value=value) for key, value in entries.items()]
            return payload_pb2.Payload(version_id="1", entries=found)

        return self._services.answer("PayloadService.Get", request, context, payload)


def _page(items: list[Any], request: Any) -> tuple[list[Any], str]:
    start, size = int(request.page_token or 0), int(request.page_size or 100)
    return items[start : start + size], str(start + size) if start + size < len(items) else ""
