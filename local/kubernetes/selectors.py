"""Label and field selectors. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from ml_lifecycle.kubernetes.exceptions import InvalidError

Predicate = Callable[[Mapping[str, Any]], bool]

_TERM = re.compile(
    r"""\s*(?:
        (?P<absent>!)\s*(?P<absent_key>[-\w./]+)
      | (?P<set_key>[-\w./]+)\s+(?P<set>in|notin)\s*\((?P<values>[^()]*)\)
      | (?P<key>[-\w./]+)\s*(?P<operator>==|!=|=)\s*(?P<value>[-\w.]*)
      | (?P<present>[-\w./]+)
    )\s*(?:,|$)""",
    re.VERBOSE,
)


def label_predicate(selector: str | None) -> Predicate:
    """`a=b,c!=d,e in (f,g),h notin (i),j,!k` as a predicate over objects; InvalidError if it is malformed."""
    terms = _label_terms(selector or "")
    return lambda manifest: _all(terms, manifest["metadata"].get("labels") or {})


def _all(terms: list[Callable[[Mapping[str, str]], bool]], labels: Mapping[str, str]) -> bool:
    return all(term(labels) for term in terms)


def _label_terms(selector: str) -> list[Callable[[Mapping[str, str]], bool]]:
    terms, position = [], 0
    while position < len(selector.rstrip()):
        match = _TERM.match(selector, position)
        if match is None:
            raise InvalidError(f"unable to parse requirement: {selector!r}", status=400, reason="BadRequest")
        terms.append(_label_term(match))
        position = match.end()
    return terms


def _label_term(match: re.Match[str]) -> Callable[[Mapping[str, str]], bool]:
    if match["absent"]:
        return lambda labels: match["absent_key"] not in labels
    if match["present"]:
        return lambda labels: match["present"] in labels
    if match["set"]:
        values = {value.strip() for value in match["values"].split(",")}
        if match["set"] == "in":
            return lambda labels: labels.get(match["set_key"]) in values
        return lambda labels: labels.get(match["set_key"]) not in values
    if match["operator"] == "!=":
        return lambda labels: labels.get(match["key"]) != match["value"]
    return lambda labels: labels.get(match["key"]) == match["value"]


def field_predicate(selector: str | None) -> Predicate:
    """`metadata.name=a,status.phase!=Running` as a predicate over objects; InvalidError if it is malformed."""
    terms = []
    for text in filter(None, (part.strip() for part in (selector or "").split(","))):
        match = re.fullmatch(r"([\w.]+)\s*(==|!=|=)\s*(.*)", text)
        if match is None:
            raise InvalidError(f"invalid field selector {selector!r}", status=400, reason="BadRequest")
        terms.append((match[1].split("."), match[2] != "!=", match[3]))
    return lambda manifest: all((_field(manifest, path) == value) is equal for path, equal, value in terms)


def _field(manifest: Any, path: list[str]) -> str:
    for part in path:
        manifest = manifest.get(part) if isinstance(manifest, Mapping) else None
    return "" if manifest is None else str(manifest)
