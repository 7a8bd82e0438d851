"""Leases (coordination.k8s.io/v1): one holder at a time, until it releases or stops renewing.

The deciding write always carries the resourceVersion that was read, so two takers cannot both win. Annotations
travel with the Lease: they are the holder's state, and a successor reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from ml_lifecycle.kubernetes.exceptions import (
    AlreadyExistsError,
    ConflictError,
    LeaseHeldError,
    LeaseLostError,
    NotFoundError,
)
from ml_lifecycle.kubernetes.resource import LEASE

if TYPE_CHECKING:
    from ml_lifecycle.kubernetes.client import KubernetesClient

MANAGED_BY = {"app.kubernetes.io/managed-by": "ml-lifecycle"}
_MICRO_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"
_ATTEMPTS = 5


@dataclass(frozen=True)
class Lease:
    """A Lease as read; `holder` is empty when it was released. Times are aware, durations in seconds."""

    name: str
    namespace: str
    holder: str
    duration_seconds: int
    acquired: datetime | None
    renewed: datetime | None
    transitions: int
    resource_version: str
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def expires(self) -> datetime | None:
        """When it may be taken over; None if it was never held."""
        return None if self.renewed is None else self.renewed + timedelta(seconds=self.duration_seconds)

    def held(self, now: datetime) -> bool:
        """Whether somebody holds it at `now` (aware)."""
        return bool(self.holder) and self.expires is not None and now < self.expires


def lease_name(service: str) -> str:
    """The Lease that guards the InferenceService `service`."""
    return f"ml-lifecycle-{service}"


def parse_lease(manifest: Mapping[str, Any]) -> Lease:
    """The Lease that an API object describes."""
    metadata, spec = manifest["metadata"], manifest.get("spec") or {}
    return Lease(
        name=metadata["name"],
        namespace=metadata.get("namespace", ""),
        holder=spec.get("holderIdentity") or "",
        duration_seconds=int(spec.get("leaseDurationSeconds") or 0),
        acquired=_moment(spec.get("acquireTime")),
        renewed=_moment(spec.get("renewTime")),
        transitions=int(spec.get("leaseTransitions") or 0),
        resource_version=metadata.get("resourceVersion", ""),
        annotations=dict(metadata.get("annotations") or {}),
    )


def is_held(manifest: Mapping[str, Any] | None, now: datetime) -> bool:
    """Whether the Lease object is held at `now` (aware); an absent one is not."""
    return manifest is not None and parse_lease(manifest).held(now)


async def read(client: KubernetesClient, namespace: str, name: str) -> Lease | None:
    """The Lease, or None if there is none."""
    found = await client.find(LEASE, name, namespace)
    return None if found is None else parse_lease(found)


async def acquire(
    client: KubernetesClient,
    namespace: str,
    name: str,
    holder: str,
    duration_seconds: int,
    now: datetime,
    annotations: Mapping[str, str | None] | None = None,
) -> Lease:
    """Takes the Lease, or keeps it if `holder` has it already; LeaseHeldError names another living holder.

    `annotations` are merged into those that are there (None removes one); `now` is aware.
    """
    for _ in range(_ATTEMPTS):
        found = await read(client, namespace, name)
        if found is not None and found.held(now) and found.holder != holder:
            raise LeaseHeldError(name, found.holder, _text(found.expires or now))
        try:
            if found is None:
                body = _new(namespace, name, holder, duration_seconds, now, annotations)
                return parse_lease(await client.create(body))
            return await _write(client, found, _taken(found, holder, duration_seconds, now), annotations)
        except (AlreadyExistsError, ConflictError):
            continue  # somebody was faster: read again who
    raise LeaseHeldError(name, "many at once", _text(now))


async def renew(
    client: KubernetesClient,
    namespace: str,
    name: str,
    holder: str,
    now: datetime,
    annotations: Mapping[str, str | None] | None = None,
    known: Lease | None = None,
) -> Lease:
    """Prolongs the Lease from `now` (aware) on; LeaseLostError if it is another's by now, or gone.

    An expired Lease that nobody has taken over is still its holder's. `known`, the Lease as last read or written, saves
    reading it: who has changed it since is met all the same, because its resourceVersion is no longer the present one.
    """
    return await _write_own(client, namespace, name, holder, {"renewTime": _text(now)}, annotations, known)


async def release(
    client: KubernetesClient,
    namespace: str,
    name: str,
    holder: str,
    annotations: Mapping[str, str | None] | None = None,
    known: Lease | None = None,
) -> bool:
    """Gives the Lease up, so that the next may take it at once; its annotations stay unless changed here.

    False if `holder` did not have it (any more): nothing is written then. `known` as in `renew`.
    """
    given_up = {"holderIdentity": None, "renewTime": None}
    try:
        await _write_own(client, namespace, name, holder, given_up, annotations, known)
    except LeaseLostError:
        return False
    return True


async def _write_own(
    client: KubernetesClient,
    namespace: str,
    name: str,
    holder: str,
    spec: Mapping[str, Any],
    annotations: Mapping[str, str | None] | None,
    known: Lease | None,
) -> Lease:
    for _ in range(_ATTEMPTS):
        found, known = known or await read(client, namespace, name), None
        if found is None:
            raise LeaseLostError(f"Lease {name!r} in namespace {namespace!r} is gone; {holder!r} held it")
        if found.holder != holder:
            by = repr(found.holder) if found.holder else "nobody"
            raise LeaseLostError(f"Lease {name!r} in namespace {namespace!r} is held by {by}, no longer by {holder!r}")
        try:
            return await _write(client, found, spec, annotations)
        except (ConflictError, NotFoundError):
            continue  # it changed in between, perhaps by our own write whose answer was lost
    raise LeaseLostError(f"Lease {name!r} in namespace {namespace!r} changes faster than {holder!r} can write it")


async def _write(
    client: KubernetesClient, found: Lease, spec: Mapping[str, Any], annotations: Mapping[str, str | None] | None
) -> Lease:
    metadata = {"resourceVersion": found.resource_version, "annotations": dict(annotations or {})}
    patch = {"metadata": metadata, "spec": dict(spec)}
    return parse_lease(await client.merge_patch(LEASE, found.name, found.namespace, patch))


def _taken(found: Lease, holder: str, duration_seconds: int, now: datetime) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "holderIdentity": holder,
        "leaseDurationSeconds": duration_seconds,
        "renewTime": _text(now),
    }
    if found.holder != holder:
        spec |= {"acquireTime": _text(now), "leaseTransitions": found.transitions + 1}
    return spec


def _new(
    namespace: str,
    name: str,
    holder: str,
    duration_seconds: int,
    now: datetime,
    annotations: Mapping[str, str | None] | None,
) -> dict[str, Any]:
    given = {key: value for key, value in (annotations or {}).items() if value is not None}
    return {
        "apiVersion": LEASE.api_version,
        "kind": LEASE.kind,
        "metadata": {"name": name, "namespace": namespace, "labels": MANAGED_BY, "annotations": given},
        "spec": {
            "holderIdentity": holder,
            "leaseDurationSeconds": duration_seconds,
            "acquireTime": _text(now),
            "renewTime": _text(now),
            "leaseTransitions": 0,
        },
    }


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime(_MICRO_TIME)


def _moment(text: str | None) -> datetime | None:
    return None if not text else datetime.fromisoformat(text).astimezone(UTC)
