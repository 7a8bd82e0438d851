"""The three ways of patching an object that are not server-side apply. Pure; nothing given is changed."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from local.kubernetes.schema import Schema
from ml_lifecycle.kubernetes.exceptions import InvalidError


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386: objects merge, null removes, everything else replaces."""
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    merged = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def strategic_merge_patch(target: Any, patch: Any, schema: Schema | None) -> Any:
    """As merge_patch, but lists that the schema declares as maps merge item by item, by their keys.

    `$patch: delete` in an item removes it, `$patch: replace` in an object replaces it.
    """
    schema = schema or {}
    if isinstance(patch, Mapping):
        if patch.get("$patch") == "replace":
            return {key: copy.deepcopy(value) for key, value in patch.items() if key != "$patch"}
        merged = dict(target) if isinstance(target, Mapping) else {}
        for key, value in patch.items():
            if value is None:
                merged.pop(key, None)
            elif not key.startswith("$"):
                inner = schema.get("properties", {}).get(key)
                merged[key] = strategic_merge_patch(merged.get(key), value, inner)
        return merged
    if isinstance(patch, list) and schema.get("x-kubernetes-list-type") == "map":
        return _merge_items(target or [], patch, schema)
    return copy.deepcopy(patch)


def _merge_items(target: Sequence[Any], patch: Sequence[Any], schema: Schema) -> list[Any]:
    # Strategic merge knows one merge key for a list, the first of those that apply knows.
    merge_key = schema["x-kubernetes-list-map-keys"][0]
    merged = list(target)
    for item in patch:
        position = next((i for i, old in enumerate(merged) if old.get(merge_key) == item.get(merge_key)), None)
        if item.get("$patch") == "delete":
            if position is not None:
                del merged[position]
        elif position is None:
            merged.append(copy.deepcopy(item))
        else:
            merged[position] = strategic_merge_patch(merged[position], item, schema.get("items"))
    return merged


def json_patch(target: Any, operations: Sequence[Mapping[str, Any]]) -> Any:
    """RFC 6902 with add, replace, remove and test; InvalidError where an operation does not fit."""
    result = copy.deepcopy(target)
    for operation in operations:
        _operate(result, operation)
    return result


def _operate(result: Any, operation: Mapping[str, Any]) -> None:
    verb, pointer = operation["op"], operation["path"]
    *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
    try:
        for part in parents:
            result = result[int(part)] if isinstance(result, list) else result[part]
        if isinstance(result, list):
            _operate_on_list(result, verb, last, operation.get("value"))
        elif verb == "add" or (verb == "replace" and last in result):
            result[last] = operation["value"]
        elif verb == "remove":
            del result[last]
        elif verb != "test" or result[last] != operation["value"]:
            raise InvalidError(f"the JSON patch operation {dict(operation)} does not fit")
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise InvalidError(f"the JSON patch path {pointer!r} does not exist") from error


def _operate_on_list(items: list[Any], verb: str, last: str, value: Any) -> None:
    if verb == "add":
        items.insert(len(items) if last == "-" else int(last), value)
    elif verb == "replace":
        items[int(last)] = value
    elif verb == "remove":
        del items[int(last)]
    elif verb != "test" or items[int(last)] != value:
        raise InvalidError(f"the JSON patch operation {verb} does not fit a list at {last}")
