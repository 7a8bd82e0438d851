"""What the scaler reads from and writes to Kubernetes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml_lifecycle.kubernetes.exceptions import NotFoundError
from ml_lifecycle.kubernetes.leases import lease_name
from ml_lifecycle.kubernetes.resource import (
    DEPLOYMENT,
    HORIZONTAL_POD_AUTOSCALER,
    INFERENCE_SERVICE,
    LEASE,
    MLSCALER,
    REVISION,
    SCALED_OBJECT,
    ResourceKind,
)
from ml_lifecycle.scaling.exceptions import TargetMissingError, TargetRefusedError
from ml_lifecycle.scaling.resource import FINALIZER, INFERENCE_SERVICE_KIND, Scaler, ScalerSpec, parse_scaler

if TYPE_CHECKING:
    from ml_lifecycle.kubernetes.client import KubernetesClient

FIELD_MANAGER = "ml-lifecycle-scaler"
MIN_SCALE = "autoscaling.knative.dev/min-scale"
MAX_SCALE = "autoscaling.knative.dev/max-scale"
AUTOSCALER_CLASS = "serving.kserve.io/autoscalerClass"
DEPLOYMENT_MODE = "serving.kserve.io/deploymentMode"

Manifest = dict[str, Any]
ObjectKey = tuple[str, str]  # namespace, name


@dataclass(frozen=True)
class Surroundings:
    """What else is there and has a say in the replicas; read once a pass."""

    inference_services: Mapping[ObjectKey, Manifest]
    leases: Mapping[ObjectKey, Manifest]
    autoscalers: Sequence[Manifest]
    scaled_objects: Sequence[Manifest]


@dataclass(frozen=True)
class Target:
    """The object whose replicas are written, and how many it is asked for now."""

    kind: ResourceKind
    namespace: str
    name: str
    replicas: int
    running: int | None  # what runs, where the object says so
    ceiling: int | None = None  # its own limit

    def __str__(self) -> str:
        return f"{self.kind.kind} {self.name}"


class ScalerClient:
    """MLScalers and their targets, over a KubernetesClient; `namespaces` None means all."""

    def __init__(self, kubernetes: KubernetesClient, namespaces: Sequence[str] | None = None) -> None:
        self._kubernetes = kubernetes
        self._namespaces: Sequence[str | None] = list(namespaces) if namespaces else [None]

    async def scalers(self) -> list[Scaler]:
        """All MLScalers, by namespace and name; NotFoundError where the CRD is not installed."""
        manifests = [item for place in self._namespaces for item in await self._kubernetes.list(MLSCALER, place)]
        return sorted((parse_scaler(manifest) for manifest in manifests), key=lambda scaler: scaler.key)

    async def surroundings(self) -> Surroundings:
        """One list of each kind; a kind that the cluster does not serve has no objects."""
        services = await self._list(INFERENCE_SERVICE)
        leases = await self._list(LEASE)
        return Surroundings(
            inference_services=_by_key(services),
            leases=_by_key(leases),
            autoscalers=await self._list(HORIZONTAL_POD_AUTOSCALER),
            scaled_objects=await self._list(SCALED_OBJECT),
        )

    async def target(self, scaler: Scaler, spec: ScalerSpec, surroundings: Surroundings) -> Target:
        """The target and its replicas; TargetMissingError, TargetRefusedError."""
        reference = spec.target_ref
        if reference.kind != INFERENCE_SERVICE_KIND:
            return await self._scaled(reference.resource_kind, scaler.namespace, reference.name)
        service = surroundings.inference_services.get((scaler.namespace, reference.name))
        if service is None:
            raise TargetMissingError(f"InferenceService {reference.name!r} does not exist in {scaler.namespace!r}")
        if _standard_mode(service):
            _must_be_external(service)
            return await self._scaled(DEPLOYMENT, scaler.namespace, f"{reference.name}-predictor")
        return await self._revision(scaler.namespace, service)

    async def write_replicas(self, target: Target, replicas: int) -> None:
        """Asks the target for `replicas`; a Revision by its annotation, which makes no new revision."""
        if target.kind is REVISION:
            patch: Manifest = {"metadata": {"annotations": {MIN_SCALE: str(replicas)}}}
            subresource = None
        else:
            patch, subresource = {"spec": {"replicas": replicas}}, "scale"
        await self._kubernetes.merge_patch(
            target.kind, target.name, target.namespace, patch, subresource=subresource, field_manager=FIELD_MANAGER
        )

    async def write_status(self, scaler: Scaler, status: Mapping[str, Any]) -> bool:
        """Writes the whole status if it differs from what is there; says whether it wrote."""
        if status == scaler.status:
            return False
        gone = dict.fromkeys(scaler.status.keys() - status.keys())
        forecast, before = status.get("forecast"), scaler.status.get("forecast")
        patch = {**gone, **status}
        if forecast and before:
            patch["forecast"] = {**dict.fromkeys(before.keys() - forecast.keys()), **forecast}
        await self._kubernetes.merge_patch(
            MLSCALER,
            scaler.name,
            scaler.namespace,
            {"status": patch},
            subresource="status",
            field_manager=FIELD_MANAGER,
        )
        return True

    async def add_finalizer(self, scaler: Scaler) -> None:
        """So that a deletion waits until the replicas are returned."""
        await self._write_finalizers(scaler, [*scaler.finalizers, FINALIZER])

    async def remove_finalizer(self, scaler: Scaler) -> None:
        """Lets the deletion finish."""
        try:
            await self._write_finalizers(scaler, [item for item in scaler.finalizers if item != FINALIZER])
        except NotFoundError:
            return  # gone already, which is what was wanted

    async def lease(self, namespace: str, service: str) -> Manifest | None:
        """The rollout's Lease as it is now."""
        return await self._kubernetes.find(LEASE, lease_name(service), namespace)

    async def _write_finalizers(self, scaler: Scaler, finalizers: list[str]) -> None:
        # The resourceVersion keeps this from undoing what another controller writes at the same time.
        metadata = {"finalizers": finalizers, "resourceVersion": scaler.resource_version}
        await self._kubernetes.merge_patch(
            MLSCALER, scaler.name, scaler.namespace, {"metadata": metadata}, field_manager=FIELD_MANAGER
        )

    async def _list(self, kind: ResourceKind) -> list[Manifest]:
        try:
            return [item for place in self._namespaces for item in await self._kubernetes.list(kind, place)]
        except NotFoundError:
            return []

    async def _scaled(self, kind: ResourceKind, namespace: str, name: str) -> Target:
        found = await self._kubernetes.find(kind, name, namespace)
        if found is None:
            raise TargetMissingError(f"{kind.kind} {name!r} does not exist in {namespace!r}")
        replicas = found.get("spec", {}).get("replicas", 1)
        running = found.get("status", {}).get("replicas", 0)
        return Target(kind, namespace, name, int(replicas), int(running or 0))

    async def _revision(self, namespace: str, service: Manifest) -> Target:
        name = live_revision(service)
        found = None if name is None else await self._kubernetes.find(REVISION, name, namespace)
        if name is None or found is None:
            raise TargetMissingError(f"InferenceService {service['metadata']['name']!r} has no live revision yet")
        annotations = found["metadata"].get("annotations") or {}
        predictor = service.get("spec", {}).get("predictor", {})
        floor = int(annotations.get(MIN_SCALE) or predictor.get("minReplicas") or 1)
        running = found.get("status", {}).get("actualReplicas")
        ceiling = int(annotations.get(MAX_SCALE) or 0) or None  # 0 is no limit
        return Target(REVISION, namespace, name, floor, running, ceiling)


def live_revision(service: Manifest) -> str | None:
    """The Revision that has all the traffic, or the last one that had; None before the first is ready."""
    predictor = service.get("status", {}).get("components", {}).get("predictor", {})
    for route in predictor.get("traffic") or []:
        if route.get("percent") == 100 and route.get("revisionName"):
            return str(route["revisionName"])
    name = predictor.get("latestRolledoutRevision") or predictor.get("latestReadyRevision")
    return str(name) if name else None


def _standard_mode(service: Manifest) -> bool:
    annotations = service["metadata"].get("annotations") or {}
    mode = service.get("status", {}).get("deploymentMode") or annotations.get(DEPLOYMENT_MODE) or "Knative"
    return mode in {"RawDeployment", "Standard"}


def _must_be_external(service: Manifest) -> None:
    given = (service["metadata"].get("annotations") or {}).get(AUTOSCALER_CLASS, "hpa")
    if given != "external":
        raise TargetRefusedError(
            f"KServe sets the replicas of InferenceService {service['metadata']['name']!r} itself (annotation "
            f"{AUTOSCALER_CLASS} is {given!r}): set it to 'external'"
        )


def _by_key(manifests: Iterable[Manifest]) -> dict[ObjectKey, Manifest]:
    return {(item["metadata"]["namespace"], item["metadata"]["name"]): item for item in manifests}
