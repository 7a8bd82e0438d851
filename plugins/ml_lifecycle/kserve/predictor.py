"""The part of an InferenceService that a rollout exchanges, as plain data. Pure."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from pydantic import TypeAdapter

from ml_lifecycle.kserve.exceptions import CanaryRefusedError
from ml_lifecycle.runtimes import RUNTIMES
from ml_lifecycle.settings import Serving

GPU = "nvidia.com/gpu"
# The variable in which our own server is told the digest of its files.
MODEL_DIGEST = "MODEL_DIGEST"
# Characters of a Kubernetes Service's name; KServe makes one for every predictor.
LONGEST_NAME = 63

# Kubernetes' Pod Security Standards, profile "restricted"; our own server has the same in its ServingRuntime.
RESTRICTED: Mapping[str, Any] = {
    "allowPrivilegeEscalation": False,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


@dataclass(frozen=True)
class Predictor:
    """One version of a model, and what it is served with; None and empty are left out of the manifest.

    `digest` is what our own server holds its files against; empty: it does not. Replicas are None where a scaler owns
    them. `cpu` and `memory` are the requests, and the limits too unless those
    are given. `name` names the predictor in Standard mode. `logger`, `tolerations` and `security_context` are as
    Kubernetes spells them.
    """

    storage_uri: str
    runtime: str
    cpu: str
    memory: str
    gpus: int = 0
    service_account: str | None = None
    min_replicas: int | None = None
    max_replicas: int | None = None
    name: str = ""
    model_format: str = "onnx"
    format_version: str = "1"
    protocol: str = "v2"
    cpu_limit: str | None = None
    memory_limit: str | None = None
    scale_metric: str | None = None
    scale_target: int | None = None
    container_concurrency: int | None = None
    timeout_seconds: int | None = None
    logger: Mapping[str, Any] | None = None
    tolerations: tuple[Mapping[str, Any], ...] = ()
    node_selector: Mapping[str, str] | None = None
    security_context: Mapping[str, Any] | None = None
    digest: str = ""

    @classmethod
    def of(cls, inference_service: Mapping[str, Any]) -> Self:
        """What a live InferenceService serves now."""
        return cls.of_spec(inference_service["spec"]["predictor"])

    @classmethod
    def of_spec(cls, spec: Mapping[str, Any]) -> Self:
        """Of `spec.predictor`, or of a canary's."""
        model = spec.get("model") or {}
        model_format = model.get("modelFormat") or {"name": "onnx", "version": "1"}
        resources = model.get("resources") or {}
        requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
        cpu, cpu_limit = _amounts(requests, limits, "cpu", "1")
        memory, memory_limit = _amounts(requests, limits, "memory", "2Gi")
        return cls(
            storage_uri=model.get("storageUri", ""),
            runtime=model.get("runtime", ""),
            cpu=cpu,
            memory=memory,
            gpus=int(limits.get(GPU, 0)),
            service_account=spec.get("serviceAccountName"),
            min_replicas=spec.get("minReplicas"),
            max_replicas=spec.get("maxReplicas"),
            name=spec.get("name", ""),
            model_format=model_format["name"],
            format_version=str(model_format.get("version") or ""),
            protocol=model.get("protocolVersion", "v2"),
            cpu_limit=cpu_limit,
            memory_limit=memory_limit,
            scale_metric=spec.get("scaleMetric"),
            scale_target=spec.get("scaleTarget"),
            container_concurrency=spec.get("containerConcurrency"),
            timeout_seconds=spec.get("timeout"),
            logger=spec.get("logger"),
            tolerations=tuple(spec.get("tolerations") or ()),
            node_selector=spec.get("nodeSelector"),
            security_context=model.get("securityContext"),
            digest=next((str(v.get("value", "")) for v in model.get("env") or () if v.get("name") == MODEL_DIGEST), ""),
        )

    @property
    def version(self) -> str:
        """The model version: the last part of the storage URI."""
        return self.storage_uri.rstrip("/").rpartition("/")[2]

    def without_replicas(self) -> Predictor:
        """For a service whose replicas a scaler owns."""
        return replace(self, min_replicas=None, max_replicas=None)

    def beside(self, stable: Predictor, name: str) -> Predictor:
        """As a canary of Standard mode beside `stable`: without what KServe allows on the stable side alone.

        It has one replica at least, for KServe gives a canary at 0 % none by default, and no more than `stable` has
        at least (KServe's own limit; 1 where the field is absent). What it leaves out KServe takes from the stable
        side until it is promoted.
        """
        replicas = max(1, min(self.min_replicas or 1, stable.min_replicas or 1))
        return replace(self, name=name, min_replicas=replicas, max_replicas=None, scale_metric=None, scale_target=None)

    def to_json(self) -> dict[str, Any]:
        """JSON of it."""
        return asdict(self)

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> Predictor:
        """Of `to_json`, of other versions of this package too; ValidationError where a value has another type."""
        return _typed().validate_python(document)


@functools.cache
def _typed() -> TypeAdapter[Predictor]:
    return TypeAdapter(Predictor)


def predictor(serving: Serving, storage_uri: str, runtime: str, digest: str = "") -> Predictor:
    """The predictor that the settings ask for; `runtime` is the name of the object that serves it.

    Servers that KServe brings know nothing of the `digest`: of theirs the files were compared when the rollout opened.
    """
    kind = RUNTIMES[serving.runtime]
    restricted = kind.cluster_runtime is not None and serving.restricted
    return Predictor(
        storage_uri=storage_uri,
        runtime=runtime,
        cpu=serving.cpu,
        memory=serving.memory,
        gpus=serving.gpus,
        service_account=serving.service_account,
        min_replicas=serving.min_replicas,
        max_replicas=serving.max_replicas,
        model_format=kind.model_format,
        format_version=kind.format_version,
        protocol=kind.protocol,
        cpu_limit=serving.cpu_limit if serving.cpu_limit != serving.cpu else None,
        memory_limit=serving.memory_limit if serving.memory_limit != serving.memory else None,
        scale_metric=serving.scale_metric,
        scale_target=serving.scale_target,
        container_concurrency=serving.container_concurrency,
        timeout_seconds=serving.timeout_seconds,
        logger={"url": serving.logger_url, "mode": serving.logger_mode} if serving.logger_url else None,
        tolerations=tuple(toleration.to_kubernetes() for toleration in serving.tolerations),
        node_selector=dict(serving.node_selector) or None,
        security_context=dict(RESTRICTED) if restricted else None,
        digest=digest if kind.cluster_runtime is None else "",
    )


def canary_of(inference_service: Mapping[str, Any]) -> tuple[Predictor, int] | None:
    """The canary of Standard mode and its traffic percent; None where there is none."""
    canaries = inference_service["spec"].get("canary") or ()
    if not canaries:
        return None
    return Predictor.of_spec(canaries[0]["predictor"]), int(canaries[0]["trafficPercent"])


def check_canary(service: str, stable: Predictor, canary: Predictor, percent: int | None) -> None:
    """CanaryRefusedError where KServe would refuse `canary` beside `stable`, or give it no pods."""
    if percent is None or not 0 <= percent <= 100:
        raise CanaryRefusedError("trafficPercent", percent, "must be 0 to 100")
    if not canary.name or canary.name == stable.name:
        raise CanaryRefusedError("predictor.name", canary.name, "must be given, and another than the stable side's")
    longest = LONGEST_NAME - len(f"{service}--predictor")
    if len(canary.name) > longest:
        raise CanaryRefusedError("predictor.name", canary.name, f"must not be longer than {longest} for {service!r}")
    most = stable.min_replicas
    if not canary.min_replicas or (most is not None and canary.min_replicas > most):
        limit = "" if most is None else f", and at most the stable side's {most}: KServe allows no more"
        raise CanaryRefusedError("predictor.minReplicas", canary.min_replicas, f"must be at least 1{limit}")


def _amounts(
    requests: Mapping[str, Any], limits: Mapping[str, Any], resource: str, default: str
) -> tuple[str, str | None]:
    """Request and limit of one resource; Kubernetes takes the limit for a request that is absent."""
    limit = limits.get(resource)
    request = str(requests.get(resource) or limit or default)
    return request, None if limit is None or str(limit) == request else str(limit)
