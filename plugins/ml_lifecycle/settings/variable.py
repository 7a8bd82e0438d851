"""From the Variable's document to a model's settings, and what is said of one that is not understood."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Any, get_args, get_origin

from pydantic import ValidationError

from ml_lifecycle.exceptions import SettingsError
from ml_lifecycle.secrets import find_secrets
from ml_lifecycle.settings.locks import DEFAULT_LOCKS, check_lock, lock_of
from ml_lifecycle.settings.model import Connections, Settings
from ml_lifecycle.settings.section import Section
from ml_lifecycle.settings.serving import Serving

# PromQL has label matchers, which look like assignments.
QUERIES = ("rollout.own_metrics", "rollout.errors")


def parse_settings(
    variable: str | Mapping[str, Any], model: str, overrides: Mapping[str, Any] | None = None
) -> Settings:
    """The settings of `model`: defaults, then the model's own, then `overrides`.

    `overrides` maps dotted paths (`training.epochs`) to values; None means "not given". What the Variable's list
    `locked` names they may not loosen. Raises SettingsError that names the key, the value and what is allowed.
    """
    document = _document(variable)
    known = {"defaults", "locked", "models"}
    if unknown := sorted(set(document) - known):
        raise SettingsError(f"Variable ml_lifecycle: unknown key {unknown[0]!r}; allowed are {sorted(known)}")
    settled = overlay(document.get("defaults", {}), document.get("models", {}).get(model, {}))
    given = {path: value for path, value in (overrides or {}).items() if value is not None}
    asked = reduce(overlay, (_nested(path, value) for path, value in given.items()), settled)
    settings = _validated(asked, model)
    locks = {path: lock for path in given if (lock := lock_of(path, _locked(document)))}
    if locks:
        before = _validated(settled, model)
        for path, lock in locks.items():
            check_lock(path, lock, _at(before, path), _at(settings, path))
    return settings


def places(variable: str | Mapping[str, Any]) -> dict[str, list[Any]]:
    """Where any model's things are: `clouds` as (Yandex connection, folder), `kubernetes` as (connection, namespace).

    An empty folder is the connection's own. Reads no more than it needs: what is wrong elsewhere in the settings must
    not keep `clean_up` from its work.
    """
    document = _document(variable)
    clouds, kubernetes = set(), set()
    for own in ({}, *document.get("models", {}).values()):
        merged = overlay(document.get("defaults", {}), own)
        connections = merged.get("connections", {})
        folder = merged.get("cluster", {}).get("folder_id") or ""
        clouds.add((connections.get("yandex") or Connections().yandex, folder))
        namespace = merged.get("serving", {}).get("namespace") or Serving().namespace
        kubernetes.add((connections.get("kubernetes") or Connections().kubernetes, namespace))
    return {"clouds": sorted(clouds), "kubernetes": sorted(kubernetes)}


def _document(variable: str | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(variable, str):
        try:
            variable = json.loads(variable)
        except json.JSONDecodeError as error:
            raise SettingsError(f"Variable ml_lifecycle is not JSON: {error}") from error
    if not isinstance(variable, Mapping):
        raise SettingsError(f"Variable ml_lifecycle must be a JSON object, not {type(variable).__name__}")
    return variable


def _validated(document: Mapping[str, Any], model: str) -> Settings:
    try:
        settings = Settings.model_validate({**document, "model": model})
    except ValidationError as error:
        # Without the cause: a traceback of it would show what was given.
        raise SettingsError(_explain(error, model)) from None
    for secret in find_secrets(document):
        if not secret.where.startswith(QUERIES):
            raise SettingsError(
                f"settings of model {model!r}: {secret}; settings travel to tasks, jobs and Leases: put it into a "
                "connection, into Lockbox or into the cluster"
            )
    return settings


def _locked(document: Mapping[str, Any]) -> Iterable[str]:
    """The paths that the Variable locks; SettingsError where one is no setting: a slip would leave a door open."""
    locked = document.get("locked", DEFAULT_LOCKS)
    if not isinstance(locked, list | tuple):
        raise SettingsError('Variable ml_lifecycle: locked must be a list of settings, as in ["gate", "cost.limit"]')
    for path in locked:
        sections: list[type[Section]] = [Settings]
        for part in str(path).split("."):
            if sections and not any(part in section.model_fields for section in sections):
                allowed = sorted({name for section in sections for name in section.model_fields})
                raise SettingsError(
                    f"Variable ml_lifecycle: locked names {path!r}: no setting {part!r}; known are {allowed}"
                )
            below = [section.model_fields[part].annotation for section in sections if part in section.model_fields]
            sections = [found for annotation in below for found in sections_of(annotation)]
    return locked


def _at(settings: Settings, path: str) -> Any:
    return reduce(getattr, path.split("."), settings)


def _nested(path: str, value: object) -> dict[str, Any]:
    head, _, rest = path.partition(".")
    return {head: _nested(rest, value) if rest else value}


def overlay(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with what `top` says instead; objects are merged key by key."""
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        merged[key] = overlay(below, value) if isinstance(value, Mapping) and isinstance(below, Mapping) else value
    return merged


def _explain(error: ValidationError, model: str) -> str:
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"]) or "settings"
        reason = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            reason = f"unknown setting; allowed here are {', '.join(_siblings(item['loc']))}"
        if item["type"] == "union_tag_not_found":
            reason = "kind is missing: say 'counts' or 'gauge'"
        # What stands under a name that nobody knows may be anything, a password too.
        untold = item["type"] in ("missing", "extra_forbidden") or isinstance(item["input"], Mapping)
        untold = untold or bool(find_secrets({key: item["input"]}))
        given = "" if untold else f" = {item['input']!r}"
        lines.append(f"{key}{given}: {reason}")
    return f"settings of model {model!r}: " + "; ".join(lines)


def _siblings(location: tuple[int | str, ...]) -> list[str]:
    """The keys beside the one at `location`; a list's item and a union's member are not keys of their own."""
    sections: list[type[Section]] = [Settings]
    for part in location[:-1]:
        below = [section.model_fields[part].annotation for section in sections if part in section.model_fields]
        if below:
            sections = [found for annotation in below for found in sections_of(annotation)]
        elif isinstance(part, str):
            tagged = [section for section in sections if part in _kinds(section)]
            sections = tagged or sections
    return sorted({name for section in sections for name in section.model_fields})


def _kinds(section: type[Section]) -> tuple[str, ...]:
    """The values of the field that tells a union's members apart; none where it has no such field."""
    return get_args(section.model_fields["kind"].annotation) if "kind" in section.model_fields else ()


def sections_of(annotation: Any) -> list[type[Section]]:
    """The sections that a field's annotation names, through lists, unions and None."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return [annotation] if issubclass(annotation, Section) else []
    return [section for inner in get_args(annotation) for section in sections_of(inner)]
