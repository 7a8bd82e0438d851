"""What the scaler reads from and writes to Kubernetes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ml_lifecycle.kubernetes.exceptions import KubernetesError, NotFoundError
from ml_lifecycle.kubernetes.leases import lease_name
from ml_lifecycle.kubernetes.resource import (
    DEPLOYMENT,
    HORIZONTAL_POD_AUTOSCALER,
    INFERENCE_SERVICE,
    LEASE,
    MLSCALER,
    POD,
    REVISION,
    SCALED_OBJECT,
    ResourceKind,
)
from ml_lifecycle.scaling.exceptions import ScalingError, TargetMissingError, TargetRefusedError
from ml_lifecycle.scaling.inference_services import deployment_name, live_revision, standard_mode
from ml_lifecycle.scaling.resource import FINALIZER, INFERENCE_SERVICE_KIND, Scaler, parse_scaler
from ml_lifecycle.scaling.status import worth_writing

if TYPE_CHECKING:
    from ml_lifecycle.kubernetes.client import KubernetesClient

FIELD_MANAGER = "ml-lifecycle-scaler"
MIN_SCALE = "autoscaling.knative.dev/min-scale"
MAX_SCALE = "autoscaling.knative.dev/max-scale"
AUTOSCALER_CLASS = "serving.kserve.io/autoscalerClass"
LISTED = 10  # targets of a kind from which they are listed, not read one by one

Manifest = dict[str, Any]
ObjectKey = tuple[str, str]  # namespace, name
Kinds = tuple[ResourceKind, str]  # of one namespace


@dataclass(frozen=True)
class Surroundings:
    """What else is there and has a say in the replicas; read once a pass."""

    inference_services: Mapping[ObjectKey, Manifest]
    leases: Mapping[ObjectKey, Manifest]
    autoscalers: Sequence[Manifest]
    scaled_objects: Sequence[Manifest]
    targets: Mapping[Kinds, Mapping[str, Manifest]] = field(default_factory=dict)  # by name, where they were listed


@dataclass(frozen=True)
class Target:
    """The object whose replicas are written, and how many it is asked for now."""

    kind: ResourceKind
    namespace: str
    name: str
    replicas: int
    running: int | None  # what runs, where the object says so
    ceiling: int | None = None  # its own limit
    pods: str = ""  # label selector of its pods; empty where it says none
    new: bool = False  # a Revision that no scaler has written yet

    def __str__(self) -> str:
        return f"{self.kind.kind} {self.name}"

    @property
    def deployment(self) -> str:
        """The Deployment whose pods do the work; Knative makes one for each Revision."""
        return f"{self.name}-deployment" if self.kind is REVISION else self.name


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

    async def list_targets(self, scalers: Iterable[Scaler], surroundings: Surroundings) -> Surroundings:
        """With the targets of the kinds that many scalers have, by one list each; the others are read when asked."""
        wanted: Counter[Kinds] = Counter()
        for scaler in scalers:
            try:
                kind, _ = _address(scaler, surroundings)
            except ScalingError:
                continue  # `target` will say so
            wanted[kind, scaler.namespace] += 1
        listed = {}
        for (kind, namespace), count in wanted.items():
            if count >= LISTED:
                with suppress(KubernetesError):  # `target` will say so
                    found = await self._kubernetes.list(kind, namespace)
                    listed[kind, namespace] = {item["metadata"]["name"]: item for item in found}
        return replace(surroundings, targets=listed)

    async def target(self, scaler: Scaler, surroundings: Surroundings) -> Target:
        """The target and its replicas; TargetMissingError, TargetRefusedError."""
        kind, name = _address(scaler, surroundings)
        listed = surroundings.targets.get((kind, scaler.namespace))
        found = await self._kubernetes.find(kind, name, scaler.namespace) if listed is None else listed.get(name)
        if found is None:
            raise TargetMissingError(f"{kind.kind} {name!r} does not exist in {scaler.namespace!r}")
        if kind is REVISION and scaler.spec is not None:
            service = surroundings.inference_services[scaler.namespace, scaler.spec.target_ref.name]
            return _revision(scaler.namespace, found, service)
        replicas = found.get("spec", {}).get("replicas", 1)
        running = found.get("status", {}).get("replicas", 0)
        labels = found.get("spec", {}).get("selector", {}).get("matchLabels") or {}
        pods = ",".join(f"{label}={value}" for label, value in sorted(labels.items()))
        return Target(kind, scaler.namespace, name, int(replicas), int(running or 0), pods=pods)

    async def pods(self, target: Target) -> list[Manifest]:
        """The target's pods; none where it does not say which they are."""
        if not target.pods:
            return []
        return await self._kubernetes.list(POD, target.namespace, label_selector=target.pods)

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
        """Writes the whole status if it says anything new; says whether it wrote."""
        if not worth_writing(status, scaler.status):
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


def _address(scaler: Scaler, surroundings: Surroundings) -> tuple[ResourceKind, str]:
    """Kind and name of the object that has the replicas; TargetMissingError, TargetRefusedError."""
    if scaler.spec is None:
        raise TargetMissingError(f"{scaler} names no target: {scaler.invalid}")
    reference = scaler.spec.target_ref
    if reference.kind != INFERENCE_SERVICE_KIND:
        return reference.resource_kind, reference.name
    service = surroundings.inference_services.get((scaler.namespace, reference.name))
    if service is None:
        raise TargetMissingError(f"InferenceService {reference.name!r} does not exist in {scaler.namespace!r}")
    if standard_mode(service):
        _must_be_external(service)
        return DEPLOYMENT, deployment_name(service)
    revision = live_revision(service)
    if revision is None:
        raise TargetMissingError(f"InferenceService {reference.name!r} has no live revision yet")
    return REVISION, revision


def _revision(namespace: str, revision: Manifest, service: Manifest) -> Target:
    annotations = revision["metadata"].get("annotations") or {}
    predictor = service.get("spec", {}).get("predictor", {})
    floor = int(annotations.get(MIN_SCALE) or predictor.get("minReplicas") or 1)
    running = revision.get("status", {}).get("actualReplicas")
    ceiling = int(annotations.get(MAX_SCALE) or 0) or None  # 0 is no limit
    name = revision["metadata"]["name"]
    return Target(
        REVISION,
        namespace,
        name,
        floor,
        running,
        ceiling,
        pods=f"serving.knative.dev/revision={name}",
        new=MIN_SCALE not in annotations,
    )


def _must_be_external(service: Manifest) -> None:
    given = (service["metadata"].get("annotations") or {}).get(AUTOSCALER_CLASS, "hpa")
    if given != "external":
        raise TargetRefusedError(
            f"KServe sets the replicas of InferenceService {service['metadata']['name']!r} itself (annotation "
            f"{AUTOSCALER_CLASS} is {given!r}): set it to 'external'"
        )


def _by_key(manifests: Iterable[Manifest]) -> dict[ObjectKey, Manifest]:
    return {(item["metadata"]["namespace"], item["metadata"]["name"]): item for item in manifests}
