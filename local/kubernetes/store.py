"""All objects of the stand-in, in memory: what the API server does behind HTTP, for controllers in the same process.

Every method is synchronous, atomic and may be called from any thread. Objects are plain dicts, copies both ways.
Errors are those of the package's own client (`ml_lifecycle.kubernetes.exceptions`).
"""

from __future__ import annotations

import asyncio
import threading
import uuid
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from local.kubernetes import kinds, metadata, ownership, patches, schema
from local.kubernetes.kinds import Definition
from local.kubernetes.selectors import Predicate, field_predicate, label_predicate
from ml_lifecycle.kubernetes.exceptions import (
    AlreadyExistsError,
    ConflictError,
    ExpiredError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
)
from ml_lifecycle.kubernetes.resource import CUSTOM_RESOURCE_DEFINITION, EVENT, NAMESPACE, POD, ResourceKind

Manifest = dict[str, Any]
Manifests = list[Manifest]
Admission = Callable[[Manifest, Manifest | None], None]
"""A validating webhook: given an object, and what it was if it is not new, it raises what it refuses."""
Defaulter = Callable[[Manifest], Manifest]
"""A mutating webhook: given an object, it returns what is stored of it."""
CONTROLLER = "controller"


def deepcopy(value: Any) -> Any:
    """A copy of JSON: several times faster than the standard library's, which is most of what the store does."""
    if isinstance(value, dict):
        return {key: deepcopy(item) for key, item in value.items()}
    return [deepcopy(item) for item in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class Change:
    """One write: `before` is what a watch with selectors compares with."""

    version: int
    type: str
    manifest: Manifest
    before: Manifest | None


class Subscription:
    """An endless async iterator of (type, object), to be closed; it may be left to the garbage collector."""

    def __init__(self, namespace: str | None, selected: Predicate) -> None:
        self._namespace = namespace
        self._selected = selected
        self._queue: asyncio.Queue[tuple[str, Manifest] | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self.closed = False

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> tuple[str, Manifest]:
        event = None if self.closed else await self._queue.get()
        if event is None:
            raise StopAsyncIteration
        return event

    def close(self) -> None:
        """Ends the iteration."""
        self.closed = True
        self._put(None)

    def offer(self, change: Change) -> None:
        """Delivers the change, as far as the selectors let it through."""
        if self._namespace and change.manifest["metadata"].get("namespace") != self._namespace:
            return
        now = change.type != "DELETED" and self._selected(change.manifest)
        before = change.before is not None and self._selected(change.before)
        if now or before:
            type_ = "DELETED" if not now else "MODIFIED" if before else "ADDED"
            self._put((type_, deepcopy(change.manifest)))

    def _put(self, event: tuple[str, Manifest] | None) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, event)


class Store:
    """The objects, their kinds, and everybody who watches them."""

    def __init__(self, *, history: int = 1000, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._lock = threading.RLock()
        self._clock = clock
        self._version = 0
        self._definitions: dict[tuple[str, str, str], Definition] = {}
        self._objects: dict[tuple[str, str], dict[tuple[str, str], Manifest]] = {}
        self._history: dict[tuple[str, str], deque[Change]] = {}
        self._history_length = history
        self._forgotten: dict[tuple[str, str], int] = {}
        self._subscriptions: dict[tuple[str, str], weakref.WeakSet[Subscription]] = {}
        self._admissions: dict[ResourceKind, Admission] = {}
        self._defaulters: dict[ResourceKind, Defaulter] = {}
        for definition in kinds.built_in():
            self._define(definition)
        for name in ("default", "kube-system"):
            self.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        for manifest in kinds.custom_resource_definitions():
            self.create(manifest)

    # Reading

    def get(self, kind: ResourceKind, name: str, namespace: str | None = None) -> Manifest:
        """The object; NotFoundError if absent."""
        with self._lock:
            definition = self.definition(kind)
            return self._served(self._existing(definition, name, namespace), definition)

    def find(self, kind: ResourceKind, name: str, namespace: str | None = None) -> Manifest | None:
        """The object; None if absent."""
        try:
            return self.get(kind, name, namespace)
        except NotFoundError:
            return None

    def list(
        self,
        kind: ResourceKind,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ) -> Manifests:
        """All objects of a kind, in the order of their names; of all namespaces if none is given."""
        selected = _selected(label_selector, field_selector)
        with self._lock:
            definition = self.definition(kind)
            return [
                self._served(manifest, definition)
                for key, manifest in sorted(self._objects[definition.key].items())
                if (not namespace or key[0] == namespace) and selected(manifest)
            ]

    @property
    def version(self) -> str:
        """The resourceVersion of the last write."""
        return str(self._version)

    def subscribe(
        self,
        kind: ResourceKind,
        namespace: str | None = None,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
        resource_version: str | None = None,
    ) -> Subscription:
        """Changes as (type, object), from now on, on the running loop.

        It begins with ADDED for each object that exists, or, with `resource_version`, with what happened since;
        ExpiredError if that is no longer known.
        """
        with self._lock:
            definition = self.definition(kind)
            subscription = Subscription(namespace, _selected(label_selector, field_selector))
            if resource_version in (None, "", "0"):
                for _, manifest in sorted(self._objects[definition.key].items()):
                    subscription.offer(Change(0, "ADDED", self._served(manifest, definition), None))
            else:
                for change in self._since(definition, str(resource_version)):
                    subscription.offer(change)
            self._subscriptions[definition.key].add(subscription)
            return subscription

    def definition(self, kind: ResourceKind) -> Definition:
        """The definition of a kind; NotFoundError where no API serves it."""
        found = self._definitions.get((kind.group, kind.version, kind.plural))
        if found is None:
            raise NotFoundError("the server could not find the requested resource", details={})
        return found

    def definitions(self) -> tuple[Definition, ...]:
        """All kinds that are served."""
        with self._lock:
            return tuple(self._definitions.values())

    # Writing

    def create(
        self, body: Mapping[str, Any], namespace: str | None = None, *, field_manager: str = CONTROLLER
    ) -> Manifest:
        """The object as stored; AlreadyExistsError if its name is taken."""
        with self._lock:
            definition = self._definition_of(body)
            manifest = self._addressed(body, definition, namespace)
            metadata.check_new(manifest, definition)
            self._check_namespace(manifest, definition)
            if self._key(manifest) in self._objects[definition.key]:
                name = manifest["metadata"]["name"]
                raise AlreadyExistsError(
                    f'{definition.resource} "{name}" already exists', details=_details(definition, name)
                )
            manifest = self._admitted(manifest, definition, None)
            owner = self._owner(field_manager, "Update", definition)
            written, removed = ownership.changes({}, manifest, definition.schema)
            self._own(manifest, ownership.after_update({}, owner, written, removed))
            return self._served(self._put_new(manifest, definition), definition)

    def update(
        self, body: Mapping[str, Any], *, subresource: str | None = None, field_manager: str = CONTROLLER
    ) -> Manifest:
        """Replaces the object; ConflictError if the body's resourceVersion is not the present one."""
        with self._lock:
            definition = self._definition_of(body)
            asked = body.get("metadata") or {}
            old = self._existing(definition, asked.get("name", ""), asked.get("namespace"))
            if definition.must_name_version and not asked.get("resourceVersion"):
                raise InvalidError(
                    f'{definition.qualified_kind} "{asked.get("name")}" is invalid: metadata.resourceVersion: Invalid '
                    "value: 0x0: must be specified for an update"
                )
            return self._update(definition, old, deepcopy(dict(body)), subresource, field_manager)

    def update_status(
        self, kind: ResourceKind, name: str, namespace: str | None, status: Mapping[str, Any], **options: Any
    ) -> Manifest:
        """Replaces the object's status, nothing else; `options` as of `update`."""
        with self._lock:
            manifest = self.get(kind, name, namespace)
            return self.update({**manifest, "status": deepcopy(dict(status))}, subresource="status", **options)

    def merge_patch(
        self,
        kind: ResourceKind,
        name: str,
        namespace: str | None,
        patch: Mapping[str, Any],
        *,
        subresource: str | None = None,
        field_manager: str = CONTROLLER,
    ) -> Manifest:
        """JSON merge patch: the object as stored."""
        return self.patch(
            kind,
            name,
            namespace,
            lambda old, _: patches.merge_patch(old, patch),
            subresource=subresource,
            field_manager=field_manager,
        )

    def patch(
        self,
        kind: ResourceKind,
        name: str,
        namespace: str | None,
        change: Callable[[Manifest, Definition], Manifest],
        *,
        subresource: str | None = None,
        field_manager: str = CONTROLLER,
    ) -> Manifest:
        """Stores what `change` makes of the object."""
        with self._lock:
            definition = self.definition(kind)
            old = self._existing(definition, name, namespace)
            served = self._served(old, definition)
            return self._update(definition, old, change(served, definition), subresource, field_manager)

    def apply(
        self,
        body: Mapping[str, Any],
        *,
        field_manager: str,
        force: bool = False,
        subresource: str | None = None,
    ) -> Manifest:
        """Server-side apply; ConflictError names the owners of disputed fields, unless forced."""
        with self._lock:
            definition = self._definition_of(body)
            applied = self._addressed(body, definition, None)
            if applied["metadata"].get("managedFields"):
                raise InvalidError("metadata.managedFields must be nil", status=400, reason="BadRequest")
            metadata.check_new(applied, definition)
            key = self._key(applied)
            old = self._objects[definition.key].get(key)
            if old is None:
                if subresource:
                    raise self._not_found(definition, key[1])
                self._check_namespace(applied, definition)
            applied = _of_subresource(applied, definition, subresource)
            self._check_applied(applied, definition)
            owner = self._owner(field_manager, "Apply", definition, subresource)
            base = old or {field: applied[field] for field in ("apiVersion", "kind", "metadata")}
            owners = ownership.parse((old or {}).get("metadata", {}).get("managedFields", ()))
            if old is not None:
                self._check_version(definition, old, applied["metadata"])
                self._check_owners(base, applied, definition, owners, owner, force=force)
            merged, owners = ownership.apply(base, applied, definition.schema, owners, owner)
            self._own(merged, owners)
            if old is None:
                return self._served(self._put_new(self._admitted(merged, definition, None), definition), definition)
            return self._served(self._put(definition, old, self._admitted(merged, definition, old)), definition)

    def delete(
        self,
        kind: ResourceKind,
        name: str,
        namespace: str | None = None,
        *,
        grace_period_seconds: int | None = None,
        orphan: bool = False,
        preconditions: Mapping[str, str] | None = None,
    ) -> bool:
        """True if the deletion was accepted, False if the object was absent.

        A pod that a node runs gets its deletionTimestamp first and is gone when the node deletes it with a grace period
        of 0; an object with finalizers is gone when the last is removed. What it owns is deleted after it.
        """
        with self._lock:
            definition = self.definition(kind)
            try:
                old = self._existing(definition, name, namespace)
            except NotFoundError:
                return False
            self._check_preconditions(definition, old, preconditions or {})
            if orphan:
                self._orphan(old)
            self._delete(definition, old, grace_period_seconds)
            return True

    def record_event(
        self, about: Mapping[str, Any], reason: str, message: str, *, type_: str = "Normal", component: str = CONTROLLER
    ) -> None:
        """An Event about an object, as `kubectl describe` and KubernetesPodOperator show it."""
        now = _time(self._clock())
        of = about["metadata"]
        self.create(
            {
                "apiVersion": EVENT.api_version,
                "kind": EVENT.kind,
                "metadata": {"generateName": f"{of['name']}.", "namespace": of.get("namespace") or "default"},
                "involvedObject": {
                    "apiVersion": about["apiVersion"],
                    "kind": about["kind"],
                    "name": of["name"],
                    "namespace": of.get("namespace"),
                    "uid": of.get("uid"),
                    "resourceVersion": of.get("resourceVersion"),
                },
                "reason": reason,
                "message": message,
                "type": type_,
                "source": {"component": component},
                "reportingComponent": component,
                "firstTimestamp": now,
                "lastTimestamp": now,
                "count": 1,
            }
        )

    def admit_by(self, kind: ResourceKind, check: Admission, default: Defaulter | None = None) -> None:
        """Every object of the kind goes through `default` before its schema, and must pass `check` after it."""
        self._admissions[kind] = check
        if default is not None:
            self._defaulters[kind] = default

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Several reads and writes as one."""
        with self._lock:
            yield

    # What the API server does with every write

    def _define(self, definition: Definition) -> None:
        resource = definition.resource
        self._definitions[resource.group, resource.version, resource.plural] = definition
        self._objects.setdefault(definition.key, {})
        self._history.setdefault(definition.key, deque())
        self._forgotten.setdefault(definition.key, 0)
        self._subscriptions.setdefault(definition.key, weakref.WeakSet())

    def _definition_of(self, body: Mapping[str, Any]) -> Definition:
        api_version, kind = body.get("apiVersion"), body.get("kind")
        for definition in self._definitions.values():
            if (definition.resource.api_version, definition.resource.kind) == (api_version, kind):
                return definition
        raise NotFoundError(f'no matches for kind "{kind}" in version "{api_version}"')

    def _key(self, manifest: Mapping[str, Any]) -> tuple[str, str]:
        return manifest["metadata"].get("namespace", ""), manifest["metadata"]["name"]

    def _existing(self, definition: Definition, name: str, namespace: str | None) -> Manifest:
        key = (namespace or "" if definition.resource.namespaced else "", name)
        found = self._objects[definition.key].get(key)
        if found is None:
            raise self._not_found(definition, name)
        return found

    def _not_found(self, definition: Definition, name: str) -> NotFoundError:
        return NotFoundError(f'{definition.resource} "{name}" not found', details=_details(definition, name))

    def _served(self, manifest: Manifest, definition: Definition) -> Manifest:
        return {**deepcopy(manifest), "apiVersion": definition.resource.api_version, "kind": definition.resource.kind}

    def _addressed(self, body: Mapping[str, Any], definition: Definition, namespace: str | None) -> Manifest:
        """A copy of the body that names its namespace and itself."""
        manifest = deepcopy(dict(body))
        meta = manifest["metadata"] = dict(manifest.get("metadata") or {})
        if definition.resource.namespaced:
            given = meta.setdefault("namespace", namespace or "default")
            if namespace and given != namespace:
                raise InvalidError(
                    "the namespace of the provided object does not match the namespace sent on the request",
                    status=400,
                    reason="BadRequest",
                )
        else:
            meta.pop("namespace", None)
        if meta.get("generateName") and not meta.get("name"):
            meta["name"] = f"{meta['generateName'][:58]}{uuid.uuid4().hex[:5]}"
        return manifest

    def _check_namespace(self, manifest: Manifest, definition: Definition) -> None:
        if not definition.resource.namespaced:
            return
        name = manifest["metadata"]["namespace"]
        namespace = self._objects[self.definition(NAMESPACE).key].get(("", name))
        if namespace is None:
            raise NotFoundError(f'namespaces "{name}" not found', details={"name": name, "kind": "namespaces"})
        if namespace["metadata"].get("deletionTimestamp"):
            raise ForbiddenError(
                f'{definition.resource} "{manifest["metadata"]["name"]}" is forbidden: unable to create new content in '
                f"namespace {name} because it is being terminated"
            )

    def _admitted(self, manifest: Manifest, definition: Definition, old: Manifest | None) -> Manifest:
        """The object pruned, with defaults, and valid; a new one has no status of its own."""
        if old is None and definition.status:
            manifest.pop("status", None)
            if definition.resource == POD:
                manifest["status"] = {"phase": "Pending", "qosClass": "BestEffort"}
            elif definition.resource == NAMESPACE:
                manifest["status"] = {"phase": "Active"}
        admitted: Manifest = schema.with_defaults(schema.prune(manifest, definition.schema), definition.schema)
        if default := self._defaulters.get(definition.resource):
            admitted = default(admitted)
        metadata.check(admitted, definition)
        problems = list(schema.validate(admitted, definition.schema))
        if problems:
            raise metadata.invalid(definition, admitted["metadata"]["name"], problems)
        if check := self._admissions.get(definition.resource):
            check(admitted, old)
        return admitted

    def _check_applied(self, applied: Manifest, definition: Definition) -> None:
        """Apply refuses, where other writes prune, what the schema does not name; and what is of another type."""
        unknown = schema.unknown_fields(applied, definition.schema)
        mistyped = [text for _, _, text in schema.validate(applied, definition.schema) if "must be of type" in text]
        if unknown or mistyped:
            meta = applied["metadata"]
            reason = f".{unknown[0]}: field not declared in schema" if unknown else mistyped[0]
            raise InvalidError(
                f"failed to create typed patch object ({meta.get('namespace', '')}/{meta['name']}; "
                f"{applied['apiVersion']}, Kind={applied['kind']}): {reason}",
                status=500,
                reason="",
            )

    def _update(
        self, definition: Definition, old: Manifest, new: Manifest, subresource: str | None, field_manager: str
    ) -> Manifest:
        asked = new.get("metadata") or {}
        self._check_version(definition, old, asked)
        if asked.get("uid") not in (None, old["metadata"]["uid"]):
            raise self._conflict(definition, old, f"Precondition failed: UID in precondition: {asked['uid']}")
        if subresource == "status":
            new = {**deepcopy(old), "status": new.get("status")} if "status" in new else _without_status(old)
        else:
            kept = {"status": old["status"]} if "status" in old else {}
            new = {**_without_status(new), **kept} if definition.status else new
            new["metadata"] = metadata.updated(old["metadata"], asked)
        new = self._admitted(new, definition, old)
        written, removed = ownership.changes(old, new, definition.schema)
        owners = ownership.parse(old["metadata"].get("managedFields", ()))
        owner = self._owner(field_manager, "Update", definition, subresource)
        self._own(new, ownership.after_update(owners, owner, written, removed) if written or removed else owners)
        return self._served(self._put(definition, old, new), definition)

    def _check_version(self, definition: Definition, old: Manifest, asked: Mapping[str, Any]) -> None:
        if asked.get("resourceVersion") not in (None, "", old["metadata"]["resourceVersion"]):
            raise self._conflict(
                definition,
                old,
                "the object has been modified; please apply your changes to the latest version and try again",
            )

    def _check_preconditions(self, definition: Definition, old: Manifest, wanted: Mapping[str, str]) -> None:
        for field in ("uid", "resourceVersion"):
            present = old["metadata"][field]
            if wanted.get(field) not in (None, present):
                raise self._conflict(
                    definition,
                    old,
                    f"Precondition failed: {field} in precondition: {wanted[field]}, in object meta: {present}",
                )

    def _conflict(self, definition: Definition, old: Manifest, message: str) -> ConflictError:
        name = old["metadata"]["name"]
        return ConflictError(
            f'Operation cannot be fulfilled on {definition.resource} "{name}": {message}',
            details=_details(definition, name),
        )

    def _check_owners(
        self,
        live: Manifest,
        applied: Manifest,
        definition: Definition,
        owners: ownership.Ownership,
        owner: ownership.Owner,
        *,
        force: bool,
    ) -> None:
        disputed = ownership.conflicts(live, applied, definition.schema, owners, owner)
        if not disputed or force:
            return
        causes = [
            {"reason": "FieldManagerConflict", "message": f"conflict with {other}", "field": ownership.readable(path)}
            for other, path in disputed
        ]
        count = f"{len(causes)} conflict" + ("s" if len(causes) > 1 else "")
        listed = "; ".join(f"{cause['message']}: {cause['field']}" for cause in causes)
        raise ConflictError(f"Apply failed with {count}: {listed}", details={"causes": causes})

    def _owner(
        self, name: str, operation: str, definition: Definition, subresource: str | None = None
    ) -> ownership.Owner:
        return ownership.Owner(
            name, operation, subresource or "", definition.resource.api_version, _time(self._clock())
        )

    def _own(self, manifest: Manifest, owners: ownership.Ownership) -> None:
        manifest["metadata"]["managedFields"] = ownership.render(owners)

    def _put_new(self, manifest: Manifest, definition: Definition) -> Manifest:
        meta = manifest["metadata"]
        meta["uid"] = str(uuid.uuid4())
        meta["creationTimestamp"] = _time(self._clock())
        if definition.custom or definition.status:
            meta["generation"] = 1
        self._store(manifest, definition, "ADDED", None)
        if definition.resource == CUSTOM_RESOURCE_DEFINITION:
            self._establish(manifest)
        return self._objects[definition.key][self._key(manifest)]

    def _put(self, definition: Definition, old: Manifest, new: Manifest) -> Manifest:
        """Stores a changed object; what changed nothing is no write."""
        if _unversioned(old) == _unversioned(new):
            return old
        if (definition.custom or definition.status) and _desired(old, definition) != _desired(new, definition):
            new["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1
        leaving = new["metadata"].get("deletionTimestamp")
        busy = definition.resource == NAMESPACE and self._contents(new["metadata"]["name"])
        if (
            leaving
            and not busy
            and not new["metadata"].get("finalizers")
            and not new["metadata"].get("deletionGracePeriodSeconds")
        ):
            return self._remove(definition, old, new)
        self._store(new, definition, "MODIFIED", old)
        if definition.resource == CUSTOM_RESOURCE_DEFINITION:
            self._establish(new)
        return self._objects[definition.key].get(self._key(new), new)

    def _store(self, manifest: Manifest, definition: Definition, type_: str, before: Manifest | None) -> None:
        self._version += 1
        manifest["metadata"]["resourceVersion"] = str(self._version)
        if type_ == "DELETED":
            del self._objects[definition.key][self._key(manifest)]
        else:
            self._objects[definition.key][self._key(manifest)] = manifest
        history = self._history[definition.key]
        history.append(Change(self._version, type_, manifest, before))
        while len(history) > self._history_length:
            self._forgotten[definition.key] = history.popleft().version
        for subscription in tuple(self._subscriptions[definition.key]):
            if subscription.closed:
                self._subscriptions[definition.key].discard(subscription)
            else:
                subscription.offer(history[-1])

    def _since(self, definition: Definition, version: str) -> Manifests:
        after = int(version)
        if after < self._forgotten[definition.key] or after > self._version:
            oldest = self._forgotten[definition.key]
            raise ExpiredError(f"too old resource version: {after} ({oldest})")
        return [change for change in self._history[definition.key] if change.version > after]

    # Deletion

    def _delete(self, definition: Definition, old: Manifest, grace: int | None) -> None:
        new = deepcopy(old)
        meta = new["metadata"]
        grace = self._grace(definition, old, grace)
        if meta.get("finalizers") or grace or (definition.resource == NAMESPACE and self._contents(meta["name"])):
            if not meta.get("deletionTimestamp") or grace < meta.get("deletionGracePeriodSeconds", 0):
                meta["deletionTimestamp"] = _time(self._clock() + timedelta(seconds=grace))
                meta["deletionGracePeriodSeconds"] = grace
                if definition.resource == NAMESPACE:
                    new["status"] = {"phase": "Terminating"}
                self._store(new, definition, "MODIFIED", old)
            if definition.resource == NAMESPACE:
                self._empty(meta["name"])
            return
        self._remove(definition, old, new)

    def _grace(self, definition: Definition, old: Manifest, asked: int | None) -> int:
        """Only a pod that a node runs has one."""
        if definition.resource != POD or not old["spec"].get("nodeName"):
            return 0
        if old.get("status", {}).get("phase") in ("Succeeded", "Failed"):
            return 0
        return int(old["spec"].get("terminationGracePeriodSeconds", 30) if asked is None else asked)

    def _remove(self, definition: Definition, old: Manifest, last: Manifest) -> Manifest:
        self._store(last, definition, "DELETED", old)
        if definition.resource == CUSTOM_RESOURCE_DEFINITION:
            self._withdraw(last)
        self._collect(old["metadata"]["uid"])
        self._finish_namespace(last["metadata"].get("namespace"))
        return last

    def _collect(self, uid: str) -> None:
        """Deletes what only the object with this uid owned."""
        for definition, dependent in self._dependents(uid):
            owners = dependent["metadata"]["ownerReferences"]
            if all(owner["uid"] == uid or not self._alive(owner["uid"]) for owner in owners):
                self._delete(definition, dependent, None)

    def _orphan(self, owner: Manifest) -> None:
        uid = owner["metadata"]["uid"]
        for definition, dependent in self._dependents(uid):
            new = deepcopy(dependent)
            rest = [owner for owner in new["metadata"]["ownerReferences"] if owner["uid"] != uid]
            new["metadata"]["ownerReferences"] = rest
            self._store(new, definition, "MODIFIED", dependent)

    def _dependents(self, uid: str) -> list[tuple[Definition, Manifest]]:
        return [
            (definition, manifest)
            for definition in self._unique_definitions()
            for manifest in tuple(self._objects[definition.key].values())
            if any(owner.get("uid") == uid for owner in manifest["metadata"].get("ownerReferences") or ())
        ]

    def _alive(self, uid: str) -> bool:
        return any(
            manifest["metadata"]["uid"] == uid for objects in self._objects.values() for manifest in objects.values()
        )

    def _unique_definitions(self) -> tuple[Definition, ...]:
        return tuple({definition.key: definition for definition in self._definitions.values()}.values())

    def _contents(self, namespace: str) -> list[tuple[Definition, Manifest]]:
        return [
            (definition, manifest)
            for definition in self._unique_definitions()
            if definition.resource.namespaced
            for manifest in tuple(self._objects[definition.key].values())
            if manifest["metadata"]["namespace"] == namespace
        ]

    def _empty(self, namespace: str) -> None:
        for definition, manifest in self._contents(namespace):
            present = self._objects[definition.key].get(self._key(manifest))
            if present is not None:
                self._delete(definition, present, None)

    def _finish_namespace(self, name: str | None) -> None:
        definition = self.definition(NAMESPACE)
        namespace = self._objects[definition.key].get(("", name)) if name else None
        if namespace and namespace["metadata"].get("deletionTimestamp") and not self._contents(str(name)):
            self._remove(definition, namespace, deepcopy(namespace))

    # Custom kinds

    def _establish(self, manifest: Manifest) -> None:
        """Serves the kinds of a CustomResourceDefinition."""
        spec = manifest["spec"]
        for key in [key for key in self._definitions if (key[0], key[2]) == (spec["group"], spec["names"]["plural"])]:
            del self._definitions[key]
        for definition in kinds.defined_by(manifest):
            self._define(definition)
        now = _time(self._clock())
        new = deepcopy(manifest)
        new["status"] = {
            "acceptedNames": spec["names"],
            "storedVersions": [version["name"] for version in spec["versions"] if version.get("storage")],
            "conditions": [
                {"type": type_, "status": "True", "reason": reason, "message": "", "lastTransitionTime": now}
                for type_, reason in (("NamesAccepted", "NoConflicts"), ("Established", "InitialNamesAccepted"))
            ],
        }
        if {**new["status"], "conditions": None} != {**(manifest.get("status") or {}), "conditions": None}:
            self._store(new, self.definition(CUSTOM_RESOURCE_DEFINITION), "MODIFIED", manifest)

    def _withdraw(self, manifest: Manifest) -> None:
        spec = manifest["spec"]
        gone = [key for key in self._definitions if (key[0], key[2]) == (spec["group"], spec["names"]["plural"])]
        for key in gone:
            definition = self._definitions[key]
            for custom in tuple(self._objects[definition.key].values()):
                self._remove(definition, custom, deepcopy(custom))
            del self._definitions[key]


def _selected(label_selector: str | None, field_selector: str | None) -> Predicate:
    labels, fields = label_predicate(label_selector), field_predicate(field_selector)
    return lambda manifest: labels(manifest) and fields(manifest)


def _details(definition: Definition, name: str) -> dict[str, Any]:
    return {"name": name, "group": definition.resource.group, "kind": definition.resource.plural}


def _of_subresource(applied: Manifest, definition: Definition, subresource: str | None) -> Manifest:
    """What of an applied body the address is about: the status, or all the rest."""
    if subresource == "status":
        return {key: value for key, value in applied.items() if key in ("apiVersion", "kind", "status")} | {
            "metadata": {key: applied["metadata"][key] for key in ("name", "namespace") if key in applied["metadata"]}
        }
    return _without_status(applied) if definition.status else applied


def _without_status(manifest: Mapping[str, Any]) -> Manifest:
    return {key: deepcopy(value) for key, value in manifest.items() if key != "status"}


def _desired(manifest: Manifest, definition: Definition) -> Manifest:
    """What the generation counts changes of."""
    ignored = ("metadata", "status") if definition.status else ("metadata",)
    return {key: value for key, value in manifest.items() if key not in ignored}


def _unversioned(manifest: Manifest) -> Manifest:
    """Everything but what every write changes."""
    meta = {
        key: value for key, value in manifest["metadata"].items() if key not in ("managedFields", "resourceVersion")
    }
    owners = [
        {key: value for key, value in entry.items() if key != "time"}
        for entry in manifest["metadata"].get("managedFields") or ()
    ]
    return {**manifest, "metadata": {**meta, "managedFields": owners}}


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
