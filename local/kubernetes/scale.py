"""The scale subresource: an object's replicas as autoscaling/v1 Scale. Pure."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from local.kubernetes.kinds import Definition, Scale
from ml_lifecycle.kubernetes.exceptions import InvalidError


def render(manifest: Mapping[str, Any], definition: Definition) -> dict[str, Any]:
    """The Scale of an object."""
    where, metadata = _scale(definition), manifest["metadata"]
    selector = _at(manifest, where.selector)
    return {
        "apiVersion": "autoscaling/v1",
        "kind": "Scale",
        "metadata": {
            key: metadata[key]
            for key in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
            if key in metadata
        },
        "spec": {"replicas": _at(manifest, where.spec_replicas) or 0},
        "status": {"replicas": _at(manifest, where.status_replicas) or 0}
        | ({"selector": selector} if isinstance(selector, str) else {}),
    }


def changed(manifest: Mapping[str, Any], body: Mapping[str, Any], definition: Definition) -> dict[str, Any]:
    """The object with the replicas of a Scale; the Scale's resourceVersion, if any, must be the object's."""
    new = copy.deepcopy(dict(manifest))
    _put(new, _scale(definition).spec_replicas, _replicas(body))
    version = (body.get("metadata") or {}).get("resourceVersion")
    if version:
        new["metadata"]["resourceVersion"] = version
    return new


def applied(body: Mapping[str, Any], manifest: Mapping[str, Any], definition: Definition) -> dict[str, Any]:
    """The body to apply to the object, for an applied Scale."""
    metadata = {key: manifest["metadata"][key] for key in ("name", "namespace") if key in manifest["metadata"]}
    wanted = {"apiVersion": manifest["apiVersion"], "kind": manifest["kind"], "metadata": metadata}
    _put(wanted, _scale(definition).spec_replicas, _replicas(body))
    return wanted


def _scale(definition: Definition) -> Scale:
    if definition.scale is None:
        raise InvalidError(f"{definition.resource} has no scale subresource", status=404, reason="NotFound")
    return definition.scale


def _replicas(body: Mapping[str, Any]) -> int:
    replicas = (body.get("spec") or {}).get("replicas", 0)
    if not isinstance(replicas, int) or replicas < 0:
        raise InvalidError(
            f'Scale.autoscaling "" is invalid: spec.replicas: Invalid value: {replicas!r}: must be greater than or '
            "equal to 0"
        )
    return replicas


def _at(manifest: Any, path: tuple[str, ...]) -> Any:
    for field in path:
        manifest = manifest.get(field) if isinstance(manifest, Mapping) else None
    return manifest if path else None


def _put(manifest: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for field in path[:-1]:
        manifest = manifest.setdefault(field, {})
    manifest[path[-1]] = value
