"""What the scaler reads from and writes to Kubernetes."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ml_lifecycle.kubernetes.exceptions import NotFoundError
from ml_lifecycle.kubernetes.leases import MANAGED_BY, lease_name
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
from ml_lifecycle.scaling.budget import each_within
from ml_lifecycle.scaling.exceptions import ScalingError, TargetMissingError, TargetOddError, TargetRefusedError
from ml_lifecycle.scaling.inference_services import (
    deployment_name,
    has_traffic,
    least_replicas,
    live_revision,
    standard_mode,
)
from ml_lifecycle.scaling.manifests import name_of, section, text
from ml_lifecycle.scaling.memory import FIELDS
from ml_lifecycle.scaling.resource import FINALIZER, INFERENCE_SERVICE_KIND, Scaler, parse_scaler
from ml_lifecycle.scaling.status import worth_writing

if TYPE_CHECKING:
    from ml_lifecycle.kubernetes.client import KubernetesClient

logger = logging.getLogger(__name__)

FIELD_MANAGER = "ml-lifecycle-scaler"
MIN_SCALE = "autoscaling.knative.dev/min-scale"
MAX_SCALE = "autoscaling.knative.dev/max-scale"
AUTOSCALER_CLASS = "serving.kserve.io/autoscalerClass"
LISTED = 10  # targets of a kind, and namespaces, from which they are listed together, not one by one
MOST_REPLICAS = 2**31 - 1
_OPTIONAL = frozenset({INFERENCE_SERVICE, SCALED_OBJECT})  # kinds that a cluster need not have

Manifest = dict[str, Any]
ObjectKey = tuple[str, str]  # namespace, name
Kinds = tuple[ResourceKind, str]  # of one namespace
Place = str | None  # a namespace, or all
Lists = Mapping[tuple[ResourceKind, Place], Sequence[Manifest]]
Unreadable = Mapping[tuple[ResourceKind, Place], str]  # what could not be listed, and why


@dataclass(frozen=True)
class Surroundings:
    """What else is there and has a say in the replicas; read once a pass."""

    inference_services: Mapping[ObjectKey, Manifest]
    leases: Mapping[ObjectKey, Manifest]
    autoscalers: Sequence[Manifest]
    scaled_objects: Sequence[Manifest]
    unreadable: Unreadable = field(default_factory=dict)
    targets: Mapping[Kinds, Mapping[str, Manifest]] = field(default_factory=dict)  # by name, where they were listed

    def unknown(self, scaler: Scaler) -> str:
        """Why it is not known what else has a say in this scaler's replicas; empty where it is."""
        if scaler.spec is None:
            return ""
        needed = [HORIZONTAL_POD_AUTOSCALER, SCALED_OBJECT] if scaler.spec.writes else []
        if scaler.spec.target_ref.kind == INFERENCE_SERVICE_KIND:
            needed += [INFERENCE_SERVICE, LEASE]
        for kind in needed:
            for place in (None, scaler.namespace):
                if reason := self.unreadable.get((kind, place)):
                    return f"{kind.plural} could not be listed: {reason}"
        return ""


@dataclass(frozen=True)
class Target:
    """The object whose replicas are written, and how many it is asked for now."""

    kind: ResourceKind
    namespace: str
    name: str
    replicas: int
    running: int | None  # what runs, where the object says so
    ready: int | None  # of them, those that serve; None where it does not say
    ceiling: int | None = None  # its own limit
    pods: str = ""  # label selector of its pods; empty where it says none

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
        self._places: Sequence[Place] = list(namespaces) if namespaces else [None]

    async def scalers(self) -> tuple[list[Scaler], dict[Place, str]]:
        """All MLScalers, by namespace and name, and the namespaces whose scalers cannot be listed, with the reason.

        Raises where none can: NotFoundError where the CRD is not installed.
        """
        manifests: list[Manifest] = []
        errors: dict[Place, Exception] = {}
        for place in self._places:
            try:
                manifests += await self._kubernetes.list(MLSCALER, place)
            except Exception as error:
                logger.exception("the MLScalers of %s cannot be listed", place or "all namespaces")
                errors[place] = error
        if len(errors) == len(self._places):
            raise next(iter(errors.values()))
        scalers = [parse_scaler(manifest) for manifest in manifests if all(name_of(manifest))]
        reasons = {place: str(error) or repr(error) for place, error in errors.items()}
        return sorted(scalers, key=lambda scaler: scaler.key), reasons

    async def surroundings(self, scalers: Iterable[Scaler], seconds: float) -> Surroundings:
        """One list of each kind; a kind that the cluster does not serve has no objects.

        What cannot be listed within `seconds` is unreadable, not absent.
        """
        wanted = [
            *((kind, place) for kind in (INFERENCE_SERVICE, HORIZONTAL_POD_AUTOSCALER) for place in self._places),
            *((SCALED_OBJECT, place) for place in self._places),
            *((LEASE, place) for place in self._lease_places(scalers)),
        ]
        read, unreadable = await self._lists(wanted, seconds)

        def all_of(kind: ResourceKind) -> list[Manifest]:
            return [item for (one, _), items in read.items() if one is kind for item in items if all(name_of(item))]

        return Surroundings(
            inference_services={name_of(item): item for item in all_of(INFERENCE_SERVICE)},
            leases={name_of(item): item for item in all_of(LEASE)},
            autoscalers=all_of(HORIZONTAL_POD_AUTOSCALER),
            scaled_objects=all_of(SCALED_OBJECT),
            unreadable=unreadable,
        )

    def _lease_places(self, scalers: Iterable[Scaler]) -> Sequence[Place]:
        """Leases carry a rollout's state, so only those of namespaces with scalers of services are read."""
        services = (one for one in scalers if one.spec and one.spec.target_ref.kind == INFERENCE_SERVICE_KIND)
        namespaces = sorted({scaler.namespace for scaler in services})
        return namespaces if len(namespaces) < LISTED else self._places

    async def list_targets(self, scalers: Iterable[Scaler], surroundings: Surroundings, seconds: float) -> Surroundings:
        """With the targets of the kinds that many scalers have, by one list each; the others are read when asked."""
        wanted: Counter[tuple[ResourceKind, Place]] = Counter()
        for scaler in scalers:
            try:
                kind, _ = _address(scaler, surroundings)
            except ScalingError:
                continue  # `target` will say so
            wanted[kind, scaler.namespace] += 1
        # What cannot be listed is read one by one, and says so itself.
        lists, _ = await self._lists([one for one, count in wanted.items() if count >= LISTED], seconds)
        listed = {
            (kind, place or ""): {name_of(item)[1]: item for item in items} for (kind, place), items in lists.items()
        }
        return replace(surroundings, targets=listed)

    async def target(self, scaler: Scaler, surroundings: Surroundings) -> Target:
        """The target and its replicas; TargetMissingError, TargetRefusedError, TargetOddError."""
        kind, name = _address(scaler, surroundings)
        listed = surroundings.targets.get((kind, scaler.namespace))
        found = await self._kubernetes.find(kind, name, scaler.namespace) if listed is None else listed.get(name)
        if found is None:
            raise TargetMissingError(f"{kind.kind} {name!r} does not exist in {scaler.namespace!r}")
        if kind is REVISION and scaler.spec is not None:
            service = surroundings.inference_services[scaler.namespace, scaler.spec.target_ref.name]
            return _revision(scaler.namespace, name, found, service)
        replicas = _count(section(found, "spec").get("replicas", 1), f"{kind.kind} {name!r}: spec.replicas")
        labels = section(found, "spec", "selector", "matchLabels")
        pods = ",".join(f"{label}={value}" for label, value in sorted(labels.items()))
        running, ready = _running(found, "replicas") or 0, _running(found, "readyReplicas")
        return Target(kind, scaler.namespace, name, replicas, running, ready, pods=pods)

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

    async def give_back(self, namespace: str, revision: str, written: int, service: Manifest) -> None:
        """A Revision that lost its traffic is asked for what KServe asked it for, if it is still as it was written.

        Knative keeps the replicas of a Revision that no route reaches as long as its autoscaler knows nothing of it.
        """
        if has_traffic(service, revision):
            return
        found = await self._kubernetes.find(REVISION, revision, namespace)
        least = str(least_replicas(service))
        if text(found, "metadata", "annotations", MIN_SCALE) != str(written) or str(written) == least:
            return
        patch = {"metadata": {"annotations": {MIN_SCALE: least}}}
        await self._kubernetes.merge_patch(REVISION, revision, namespace, patch, field_manager=FIELD_MANAGER)
        logger.info(
            "Revision %s/%s no longer serves: it is asked for %s replicas, not %d", namespace, revision, least, written
        )

    async def write_status(self, scaler: Scaler, status: Mapping[str, Any]) -> bool:
        """Writes the whole status if it says anything new; says whether it wrote."""
        if not worth_writing(status, scaler.status):
            return False
        gone = dict.fromkeys(FIELDS - status.keys())  # also those that could not be read
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

    async def _lists(
        self, wanted: Iterable[tuple[ResourceKind, Place]], seconds: float
    ) -> tuple[Lists, dict[tuple[ResourceKind, Place], str]]:
        """What could be listed, and why the rest could not."""

        def listing(kind: ResourceKind, place: Place) -> Awaitable[list[Manifest]]:
            return self._list(kind, place)

        read, errors = await each_within(seconds, {one: listing(*one) for one in wanted})
        for (kind, place), error in errors.items():
            logger.warning("%s of %s cannot be listed: %r", kind.plural, place or "all namespaces", error)
        return read, {one: str(error) or repr(error) for one, error in errors.items()}

    async def _list(self, kind: ResourceKind, place: Place) -> list[Manifest]:
        ours = ",".join(f"{label}={value}" for label, value in MANAGED_BY.items()) if kind is LEASE else None
        try:
            return await self._kubernetes.list(kind, place, label_selector=ours)
        except NotFoundError:
            if kind in _OPTIONAL:
                return []
            raise


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


def _revision(namespace: str, name: str, revision: Manifest, service: Manifest) -> Target:
    annotations = section(revision, "metadata", "annotations")
    floor = _count(annotations.get(MIN_SCALE) or least_replicas(service) or 1, f"Revision {name!r}: {MIN_SCALE}")
    ceiling = _count(annotations.get(MAX_SCALE) or 0, f"Revision {name!r}: {MAX_SCALE}") or None  # 0 is no limit
    running = _running(revision, "actualReplicas")
    # Knative counts those that are ready.
    pods = f"serving.knative.dev/revision={name}"
    return Target(REVISION, namespace, name, floor, running, running, ceiling, pods=pods)


def _count(value: Any, what: str) -> int:
    """A number of replicas, as a number or as an annotation's text; TargetOddError."""
    if isinstance(value, int | str) and str(value).isascii() and str(value).isdigit() and int(value) <= MOST_REPLICAS:
        return int(value)
    raise TargetOddError(f"{what} is {value!r}, which is no number of replicas")


def _running(target: Manifest, key: str) -> int | None:
    running = section(target, "status").get(key)
    return running if isinstance(running, int) and 0 <= running <= MOST_REPLICAS else None


def _must_be_external(service: Manifest) -> None:
    given = text(service, "metadata", "annotations", AUTOSCALER_CLASS) or "hpa"
    if given != "external":
        raise TargetRefusedError(
            f"KServe sets the replicas of InferenceService {text(service, 'metadata', 'name')!r} itself (annotation "
            f"{AUTOSCALER_CLASS} is {given!r}): set it to 'external'"
        )
