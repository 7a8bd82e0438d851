"""Objects as the table that `kubectl get` prints (`as=Table`). Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

Manifest = Mapping[str, Any]

_STEP = re.compile(
    r"""\.(?P<field>[A-Za-z_][-\w]*)
      | \[\?\(@\.(?P<key>\w+)\s*==\s*(?P<value>"[^"]*"|'[^']*'|true|false)\)\]
      | \[(?P<index>\d+)\]""",
    re.VERBOSE,
)
_UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


@dataclass(frozen=True)
class Column:
    """One column: `type` string, integer, … or date; a priority above 0 shows it with `-o wide` only."""

    name: str
    json_path: str
    type: str = "string"
    priority: int = 0


NAME = Column("Name", ".metadata.name")
AGE = Column("Age", ".metadata.creationTimestamp", "date")


def columns_of(entries: Iterable[Mapping[str, Any]] | None) -> tuple[Column, ...]:
    """A definition's `additionalPrinterColumns`, after the name; the age alone where it has none."""
    own = tuple(
        Column(entry["name"], entry["jsonPath"], entry.get("type", "string"), entry.get("priority", 0))
        for entry in entries or ()
    )
    return (NAME, *(own or (AGE,)))


def wanted(accept: str) -> bool:
    """Whether a request's Accept header asks for a table first."""
    return "as=table" in accept.split(",")[0].lower()


def table(columns: Iterable[Column], objects: Iterable[Manifest], version: str, now: datetime) -> dict[str, Any]:
    """`meta.k8s.io/v1` Table of the objects."""
    shown = tuple(columns)
    definitions = [
        {
            "name": column.name,
            "type": column.type,
            "format": "name" if column is NAME else "",
            "description": "",
            "priority": column.priority,
        }
        for column in shown
    ]
    rows = [{"cells": [cell(column, item, now) for column in shown], "object": _partial(item)} for item in objects]
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": version},
        "columnDefinitions": definitions,
        "rows": rows,
    }


def cell(column: Column, item: Manifest, now: datetime) -> Any:
    """What stands in one cell: None, printed as <none>, where the object has nothing there."""
    found = look_up(item, column.json_path)
    if found is None:
        return None
    if column.type == "date":
        return age(str(found), now)
    if column.type == "string":
        return found if isinstance(found, str) else json.dumps(found)
    return found


def look_up(item: Any, path: str) -> Any:
    """What a JSON path of printer columns finds: fields, `[n]`, and the first match of `[?(@.key=='value')]`."""
    position = 0
    while position < len(path):
        step = _STEP.match(path, position)
        if step is None:
            return None
        item = _step(item, step)
        if item is None:
            return None
        position = step.end()
    return item


def _step(item: Any, step: re.Match[str]) -> Any:
    if step["field"]:
        return item.get(step["field"]) if isinstance(item, Mapping) else None
    if not isinstance(item, list):
        return None
    if step["index"]:
        return item[int(step["index"])] if int(step["index"]) < len(item) else None
    value = {"true": True, "false": False}.get(step["value"], step["value"].strip("\"'"))
    return next((entry for entry in item if isinstance(entry, Mapping) and entry.get(step["key"]) == value), None)


def age(timestamp: str, now: datetime) -> str:
    """`3m` since an RFC 3339 time, in the two largest units where the first is small, as kubectl prints it."""
    seconds = int((now - datetime.fromisoformat(timestamp.replace("Z", "+00:00")).astimezone(UTC)).total_seconds())
    for index, (unit, name) in enumerate(_UNITS):
        if seconds >= unit:
            count, rest = divmod(seconds, unit)
            smaller = _UNITS[index + 1] if index + 1 < len(_UNITS) else None
            if smaller and count < 10 and rest // smaller[0]:
                return f"{count}{name}{rest // smaller[0]}{smaller[1]}"
            return f"{count}{name}"
    return "0s"


def _partial(item: Manifest) -> dict[str, Any]:
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": item["metadata"]}
