"""Structural OpenAPI v3 schemas as CustomResourceDefinitions carry them: prune, default, validate. Pure.

CEL rules (`x-kubernetes-validations`) are in `rules.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from local.kubernetes.rules import broken_rules

Schema = Mapping[str, Any]
Problem = tuple[str, str, str]
"""Path, kind of problem as the API names it ("Invalid value", "Required value", …), explanation."""

_PRESERVE = "x-kubernetes-preserve-unknown-fields"
_INT_OR_STRING = "x-kubernetes-int-or-string"
_IMPLICIT = ("apiVersion", "kind", "metadata")
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}
_JSON_TYPES = {dict: "object", list: "array", str: "string", int: "integer", float: "number", bool: "boolean"}


def prune(value: Any, schema: Schema | None, *, root: bool = True) -> Any:
    """`value` without the fields that its schema does not name."""
    if schema is None:
        return value
    if isinstance(value, list):
        return [prune(item, schema.get("items"), root=False) for item in value]
    if not isinstance(value, dict):
        return value
    root = root or bool(schema.get("x-kubernetes-embedded-resource"))
    kept = {}
    for key, item in value.items():
        if root and key in _IMPLICIT:
            kept[key] = item
        elif key in schema.get("properties", {}):
            kept[key] = prune(item, schema["properties"][key], root=False)
        elif isinstance(schema.get("additionalProperties"), Mapping):
            kept[key] = prune(item, schema["additionalProperties"], root=False)
        elif schema.get(_PRESERVE) or schema.get("additionalProperties") is True:
            kept[key] = item
    return kept


def unknown_fields(value: Any, schema: Schema | None) -> list[str]:
    """Paths of the fields that `prune` removes."""
    return list(_lost(value, prune(value, schema), ""))


def _lost(value: Any, kept: Any, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key in kept:
                yield from _lost(item, kept[key], _join(path, key))
            else:
                yield _join(path, key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _lost(item, kept[index], f"{path}[{index}]")


def with_defaults(value: Any, schema: Schema | None) -> Any:
    """`value` with the schema's defaults wherever a field is absent (or null without being nullable)."""
    if schema is None:
        return value
    if isinstance(value, list):
        return [with_defaults(item, schema.get("items")) for item in value]
    if not isinstance(value, dict):
        return value
    properties: Mapping[str, Schema] = schema.get("properties", {})
    filled = dict(value)
    for key, inner in properties.items():
        missing = key not in filled or (filled[key] is None and not inner.get("nullable"))
        if missing and "default" in inner:
            filled[key] = inner["default"]
    others = schema.get("additionalProperties")
    return {
        key: with_defaults(item, properties.get(key, others if isinstance(others, Mapping) else None))
        for key, item in filled.items()
    }


def validate(value: Any, schema: Schema | None, path: str = "") -> Iterator[Problem]:
    """Everything about `value` that breaks the schema."""
    if schema is None or (value is None and schema.get("nullable")):
        return
    if not _type_fits(value, schema):
        expected = "integer or string" if schema.get(_INT_OR_STRING) else schema.get("type")
        found = _JSON_TYPES.get(type(value), "null")
        yield path, "Invalid value", f'"{found}": {path} in body must be of type {expected}: "{found}"'
        return
    yield from _limits(value, schema, path)
    yield from _combinations(value, schema, path)
    if isinstance(value, dict):
        yield from _fields(value, schema, path)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from validate(item, schema.get("items"), f"{path}[{index}]")
    for message in broken_rules(value, schema):
        yield path, "Invalid value", f'"{_JSON_TYPES.get(type(value), "null")}": {message}'


def _type_fits(value: Any, schema: Schema) -> bool:
    if schema.get(_INT_OR_STRING):
        return isinstance(value, int | str) and not isinstance(value, bool)
    kind = schema.get("type")
    if kind is None:
        return True
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[kind])


def _fields(value: dict[str, Any], schema: Schema, path: str) -> Iterator[Problem]:
    for key in schema.get("required", ()):
        if key not in value:
            yield _join(path, key), "Required value", ""
    properties = schema.get("properties", {})
    others = schema.get("additionalProperties")
    for key, item in value.items():
        if not path and key in _IMPLICIT:
            continue
        inner = properties.get(key, others if isinstance(others, Mapping) else None)
        yield from validate(item, inner, _join(path, key))


def _limits(value: Any, schema: Schema, path: str) -> Iterator[Problem]:
    if "enum" in schema and value not in schema["enum"]:
        allowed = ", ".join(f'"{item}"' for item in schema["enum"])
        yield path, "Unsupported value", f'"{value}": supported values: {allowed}'
    if isinstance(value, str):
        yield from _text_limits(value, schema, path)
    elif isinstance(value, list):
        yield from _size_limits(len(value), "items", schema, path)
    elif isinstance(value, dict):
        yield from _size_limits(len(value), "properties", schema, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _number_limits(value, schema, path)


def _text_limits(value: str, schema: Schema, path: str) -> Iterator[Problem]:
    yield from _size_limits(len(value), "length", schema, path)
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield path, "Invalid value", f"\"{value}\": {path} in body should match '{schema['pattern']}'"
    if schema.get("format") == "date-time" and not _is_time(value):
        yield path, "Invalid value", f'"{value}": {path} in body must be of type date-time: "{value}"'


def _is_time(value: str) -> bool:
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def _size_limits(size: int, unit: str, schema: Schema, path: str) -> Iterator[Problem]:
    suffix = unit.capitalize()
    least, most = schema.get(f"min{suffix}"), schema.get(f"max{suffix}")
    if least is not None and size < least:
        yield path, "Invalid value", f"{path} in body should have at least {least} {unit}"
    if most is not None and size > most:
        yield path, "Too long" if unit == "length" else "Too many", f"must have at most {most} {unit}"


def _number_limits(value: float, schema: Schema, path: str) -> Iterator[Problem]:
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None and (value < least or (value == least and schema.get("exclusiveMinimum"))):
        than = "greater than" if schema.get("exclusiveMinimum") else "greater than or equal to"
        yield path, "Invalid value", f"{value}: {path} in body should be {than} {least}"
    if most is not None and (value > most or (value == most and schema.get("exclusiveMaximum"))):
        than = "less than" if schema.get("exclusiveMaximum") else "less than or equal to"
        yield path, "Invalid value", f"{value}: {path} in body should be {than} {most}"
    if schema.get("format") == "int32" and not -(2**31) <= value < 2**31:
        yield path, "Invalid value", f"{value}: {path} in body must be of type int32"


def _combinations(value: Any, schema: Schema, path: str) -> Iterator[Problem]:
    for inner in schema.get("allOf", ()):
        yield from validate(value, inner, path)
    if schema.get("anyOf") and not any(_fits(value, inner) for inner in schema["anyOf"]):
        yield path, "Invalid value", f"{path} in body must validate at least one schema (anyOf)"
    if schema.get("oneOf") and sum(_fits(value, inner) for inner in schema["oneOf"]) != 1:
        yield path, "Invalid value", f"{path} in body must validate one and only one schema (oneOf)"
    if "not" in schema and _fits(value, schema["not"]):
        yield path, "Invalid value", f"{path} in body must not validate the schema (not)"


def _fits(value: Any, schema: Schema) -> bool:
    return next(iter(validate(value, schema, "")), None) is None


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
