"""Who owns which field: server-side apply and `metadata.managedFields`. Pure.

A path is a tuple of FieldsV1 elements: `f:<field>`, `k:<JSON of an item's keys>`, `v:<JSON of a set's item>`.
Maps are walked; lists are leaves unless the schema declares them as maps or sets; the schema may also declare a map
atomic. Reference: kubernetes.io "Server-Side Apply"; structured-merge-diff.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from local.kubernetes.schema import Schema

Path = tuple[str, ...]
Paths = frozenset[Path]
Entries = list[dict[str, Any]]

_ITEM = object()  # the value of an item of a keyed list, apart from its fields
_UNOWNED = frozenset(
    {
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "generateName",
        "generation",
        "managedFields",
        "name",
        "namespace",
        "resourceVersion",
        "selfLink",
        "uid",
    }
)


@dataclass(frozen=True)
class Owner:
    """One entry of managedFields, without its fields; `operation` is "Apply" or "Update"."""

    name: str
    operation: str
    subresource: str = ""
    api_version: str = ""
    time: str = ""

    def same_as(self, other: Owner) -> bool:
        """Whether both are the same entry, at whatever time."""
        return replace(self, api_version="", time="") == replace(other, api_version="", time="")

    def __str__(self) -> str:
        text = json.dumps(self.name)
        if self.subresource:
            text += f' with subresource "{self.subresource}"'
        return f"{text} using {self.api_version}" if self.operation == "Update" else text


Ownership = dict[Owner, Paths]


def leaves(manifest: Mapping[str, Any], schema: Schema | None) -> dict[Path, Any]:
    """Every leaf that can be owned, with its value."""
    owned = {key: value for key, value in manifest.items() if key not in ("apiVersion", "kind", "metadata")}
    metadata = {key: value for key, value in (manifest.get("metadata") or {}).items() if key not in _UNOWNED}
    if metadata:
        owned["metadata"] = metadata
    found: dict[Path, Any] = {}
    for key, value in owned.items():
        _walk(value, _field_schema(schema, key), (f"f:{key}",), found)
    return found


def _walk(value: Any, schema: Schema | None, path: Path, found: dict[Path, Any]) -> None:
    schema = schema or {}
    list_type = schema.get("x-kubernetes-list-type")
    if isinstance(value, dict) and value and schema.get("x-kubernetes-map-type") != "atomic":
        for key, item in value.items():
            _walk(item, _field_schema(schema, key), (*path, f"f:{key}"), found)
    elif isinstance(value, list) and value and list_type == "map":
        for item in value:
            element = (*path, _key(item, schema))
            found[element] = _ITEM
            for key, inner in item.items():
                _walk(inner, _field_schema(schema.get("items"), key), (*element, f"f:{key}"), found)
    elif isinstance(value, list) and value and list_type == "set":
        for item in value:
            found[(*path, f"v:{json.dumps(item)}")] = item
    else:
        found[path] = value


def _field_schema(schema: Schema | None, key: str) -> Schema | None:
    schema = schema or {}
    others = schema.get("additionalProperties")
    inner: Schema | None = schema.get("properties", {}).get(key, others if isinstance(others, Mapping) else None)
    return inner


def _key(item: Mapping[str, Any], schema: Schema) -> str:
    properties = (schema.get("items") or {}).get("properties", {})
    keys = {
        key: item.get(key, properties.get(key, {}).get("default"))
        for key in sorted(schema["x-kubernetes-list-map-keys"])
    }
    return "k:" + json.dumps({key: value for key, value in keys.items() if value is not None}, separators=(",", ":"))


def changes(old: Mapping[str, Any], new: Mapping[str, Any], schema: Schema | None) -> tuple[Paths, Paths]:
    """Leaves that are new or differ, and leaves that are gone."""
    before, after = leaves(old, schema), leaves(new, schema)
    written = frozenset(path for path, value in after.items() if path not in before or before[path] != value)
    return written, frozenset(before) - frozenset(after)


def after_update(ownership: Ownership, owner: Owner, written: Paths, removed: Paths) -> Ownership:
    """`owner` has what it wrote; nobody else has it, and nobody has what is gone."""
    rest: Ownership = {}
    mine = written
    for other, paths in ownership.items():
        if other.same_as(owner):
            mine |= paths - removed
        else:
            rest[other] = paths - written - removed
    if not written:
        owner = next((other for other in ownership if other.same_as(owner)), owner)
    return {other: paths for other, paths in {**rest, owner: mine}.items() if paths}


def conflicts(
    live: Mapping[str, Any], applied: Mapping[str, Any], schema: Schema | None, ownership: Ownership, owner: Owner
) -> list[tuple[Owner, Path]]:
    """Fields that `owner` applies with another value than their owners have set."""
    present, wanted = leaves(live, schema), leaves(applied, schema)
    return [
        (other, path)
        for other, paths in ownership.items()
        if not other.same_as(owner)
        for path in sorted(paths & frozenset(wanted))
        if path in present and present[path] != wanted[path]
    ]


def apply(
    live: Mapping[str, Any], applied: Mapping[str, Any], schema: Schema | None, ownership: Ownership, owner: Owner
) -> tuple[dict[str, Any], Ownership]:
    """The object after `owner` applied, conflicts taken over, and who owns what then.

    What `owner` applied before and no longer does is removed unless somebody else owns it too.
    """
    wanted = frozenset(leaves(applied, schema))
    taken = {path for _, path in conflicts(live, applied, schema, ownership, owner)}
    before: Paths = frozenset()
    after: Ownership = {}
    for other, paths in ownership.items():
        if other.same_as(owner):
            before = paths
        else:
            after[other] = paths - taken
    given_up = before - wanted - frozenset().union(*after.values())
    merged = _merge(live, applied, schema)
    for path in sorted(given_up, key=len):  # an item goes before its fields, its key among them
        # Something below it may be kept: fields of an item that others own, entries of a map that was applied empty.
        if not any(_below(path, kept) for kept in [wanted, *after.values()]):
            _remove(merged, path, schema, wanted)
    present = frozenset(leaves(merged, schema))
    after = {other: paths & present for other, paths in after.items()} | {owner: wanted & present}
    return merged, {other: paths for other, paths in after.items() if paths}


def _below(path: Path, paths: Paths) -> bool:
    return any(other[: len(path)] == path for other in paths)


def _merge(live: Any, applied: Any, schema: Schema | None) -> Any:
    schema = schema or {}
    if isinstance(live, Mapping) and isinstance(applied, Mapping) and schema.get("x-kubernetes-map-type") != "atomic":
        merged = copy.deepcopy(dict(live))
        for key, value in applied.items():
            merged[key] = _merge(live.get(key), value, _field_schema(schema, key))
        return merged
    list_type = schema.get("x-kubernetes-list-type")
    if isinstance(live, list) and isinstance(applied, list) and list_type == "map":
        items = {_key(item, schema): item for item in live}
        for item in applied:
            key = _key(item, schema)
            items[key] = _merge(items.get(key), item, schema.get("items"))
        return list(items.values())
    if isinstance(live, list) and isinstance(applied, list) and list_type == "set":
        return [*live, *(item for item in applied if item not in live)]
    return copy.deepcopy(applied)


def _remove(manifest: dict[str, Any], path: Path, schema: Schema | None, wanted: Paths) -> None:
    """Removes a field, and the maps and lists that it leaves empty unless they are `wanted` empty."""
    parents: list[tuple[Any, Any]] = []
    value: Any = manifest
    for element in path:
        position = _position(value, element, schema)
        if position is None:
            return
        parents.append((value, position))
        value = value[position]
        schema = _field_schema(schema, element[2:]) if element[:2] == "f:" else (schema or {}).get("items")
    for depth, (parent, position) in reversed(tuple(enumerate(parents))):
        del parent[position]
        if parent or path[:depth] in wanted or parent is manifest:
            return


def _position(value: Any, element: str, schema: Schema | None) -> Any:
    if element[:2] == "f:":
        return element[2:] if isinstance(value, dict) and element[2:] in value else None
    if not isinstance(value, list):
        return None
    if element[:2] == "v:":
        wanted = json.loads(element[2:])
        return value.index(wanted) if wanted in value else None
    return next((i for i, item in enumerate(value) if _key(item, schema or {}) == element), None)


def parse(entries: Iterable[Mapping[str, Any]]) -> Ownership:
    """The ownership that `metadata.managedFields` tells."""
    return {
        Owner(
            name=entry["manager"],
            operation=entry["operation"],
            subresource=entry.get("subresource", ""),
            api_version=entry.get("apiVersion", ""),
            time=entry.get("time", ""),
        ): frozenset(_flat(entry.get("fieldsV1") or {}))
        for entry in entries
    }


def _flat(fields: Mapping[str, Any], path: Path = ()) -> Iterable[Path]:
    if not fields and path:
        yield path
    for element, inner in fields.items():
        if element == ".":
            yield path
        else:
            yield from _flat(inner, (*path, element))


def render(ownership: Ownership) -> Entries:
    """`metadata.managedFields` that tells the ownership."""
    return [
        {
            "manager": owner.name,
            "operation": owner.operation,
            "apiVersion": owner.api_version,
            "time": owner.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": _nested(paths),
        }
        | ({"subresource": owner.subresource} if owner.subresource else {})
        for owner, paths in ownership.items()
    ]


def _nested(paths: Paths) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path in sorted(paths):
        node = tree
        for element in path:
            node = node.setdefault(element, {})
    for path in paths:
        node = tree
        for element in path:
            node = node[element]
        if node:
            node["."] = {}
    return tree


def readable(path: Path) -> str:
    """`.spec.containers[name="a"].image`, as the API's messages write a path."""
    text = ""
    for element in path:
        kind, rest = element[:2], element[2:]
        if kind == "f:":
            text += f".{rest}"
        elif kind == "k:":
            text += "[" + ",".join(f"{key}={json.dumps(value)}" for key, value in json.loads(rest).items()) + "]"
        else:
            text += f"[={rest}]"
    return text
