"""Leases (coordination.k8s.io/v1): one holder at a time, until it releases or stops renewing.

The deciding write always carries the resourceVersion that was read, so two takers cannot both win. Annotations
travel with the Lease: they are the holder's state, and a successor reads them. One holder may have several drivers
(tries of a task, triggerers): one that meets annotations which it neither knew nor wrote has been overtaken.

Clocks differ. What looks expired by one's own clock is only then sure to be when the renewal lies an hour further back
than the Lease lasts; else it must be watched: expired is what stood unchanged for its whole duration.
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
    LeaseOvertakenError,
    NotFoundError,
)
from ml_lifecycle.kubernetes.resource import LEASE

if TYPE_CHECKING:
    from ml_lifecycle.kubernetes.client import KubernetesClient

MANAGED_BY = {"app.kubernetes.io/managed-by": "ml-lifecycle"}
_MICRO_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"
_ATTEMPTS = 5
_CLOCKS_DIFFER = timedelta(hours=1)


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
        try:
            return None if self.renewed is None else self.renewed + timedelta(seconds=self.duration_seconds)
        except OverflowError:
            return datetime.max.replace(tzinfo=UTC)

    def held(self, now: datetime) -> bool:
        """Whether somebody holds it at `now` (aware)."""
        return bool(self.holder) and self.expires is not None and now < self.expires

    def surely_free(self, now: datetime) -> bool:
        """Whether nobody holds it at `now` (aware), by anybody's clock."""
        return not self.held(now - _CLOCKS_DIFFER)


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
    """Whether the Lease object is held at `now` (aware); an absent one is not.

    For who only keeps away from it: clocks differ, so it is given its duration twice.
    """
    if manifest is None:
        return False
    lease = parse_lease(manifest)
    return lease.held(now - timedelta(seconds=lease.duration_seconds))


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


async def take(client: KubernetesClient, seen: Lease, holder: str, duration_seconds: int, now: datetime) -> Lease:
    """Takes the Lease as it was `seen`; LeaseHeldError if anybody has written it since."""
    try:
        return await _write(client, seen, _taken(seen, holder, duration_seconds, now), {})
    except (ConflictError, NotFoundError) as error:
        raise LeaseHeldError(seen.name, seen.holder, _text(seen.expires or now)) from error


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
    LeaseOvertakenError where these annotations are no longer as they were known: another driver of this holder has
    written them, and what it wrote is never overwritten unread.
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
    except LeaseOvertakenError:
        raise
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
    found = known or await read(client, namespace, name)
    for _ in range(_ATTEMPTS):
        if found is None:
            raise LeaseLostError(f"Lease {name!r} in namespace {namespace!r} is gone; {holder!r} held it")
        if found.holder != holder:
            by = repr(found.holder) if found.holder else "nobody"
            raise LeaseLostError(f"Lease {name!r} in namespace {namespace!r} is held by {by}, no longer by {holder!r}")
        try:
            return await _write(client, found, spec, annotations)
        except (ConflictError, NotFoundError):
            before, found = found, await read(client, namespace, name)
        if found is not None and found.holder == holder and _overtaken(before, found, annotations or {}):
            raise LeaseOvertakenError(
                f"Lease {name!r} in namespace {namespace!r}: another driver of {holder!r} has gone on with it"
            )
    raise LeaseLostError(f"Lease {name!r} in namespace {namespace!r} changes faster than {holder!r} can write it")


def _overtaken(before: Lease, found: Lease, wanted: Mapping[str, str | None]) -> bool:
    """Whether `found` is neither what was known, whatever else others annotate, nor our write without an answer."""
    return any(found.annotations.get(key) not in (before.annotations.get(key), text) for key, text in wanted.items())


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
