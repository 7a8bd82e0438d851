"""What the API says of itself: versions, groups, resources. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from local.kubernetes.kinds import Definition

_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
_VERSION = {
    "major": "1",
    "minor": "31",
    "gitVersion": "v1.31.0+ml-lifecycle-local",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "",
    "compiler": "",
    "platform": "linux/amd64",
}


def answer(path: str, definitions: Iterable[Definition]) -> dict[str, Any] | None:
    """The document at a discovery path; None if the path is not one."""
    served = tuple(definitions)
    match path.strip("/").split("/"):
        case ["version"]:
            return _VERSION
        case ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
        case ["apis"]:
            groups = [_group(name, served) for name in sorted({item.resource.group for item in served} - {""})]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
        case ["apis", group] if _versions(group, served):
            return {"kind": "APIGroup", "apiVersion": "v1", **_group(group, served)}
        case ["api", "v1"]:
            return _resources("", "v1", served)
        case ["apis", group, version] if version in _versions(group, served):
            return _resources(group, version, served)
    return None


def _versions(group: str, served: Iterable[Definition]) -> list[str]:
    return sorted({item.resource.version for item in served if item.resource.group == group})


def _group(group: str, served: Iterable[Definition]) -> dict[str, Any]:
    versions = [
        {"groupVersion": f"{group}/{version}", "version": version} for version in reversed(_versions(group, served))
    ]
    return {"name": group, "versions": versions, "preferredVersion": versions[0]}


def _resources(group: str, version: str, served: Iterable[Definition]) -> dict[str, Any]:
    resources = []
    for item in served:
        if (item.resource.group, item.resource.version) != (group, version):
            continue
        entry = {
            "name": item.resource.plural,
            "singularName": item.resource.kind.lower(),
            "namespaced": item.resource.namespaced,
            "kind": item.resource.kind,
            "verbs": _VERBS,
            "shortNames": list(item.short_names),
        }
        resources.append(entry)
        subresource = {"singularName": "", "namespaced": item.resource.namespaced, "verbs": ["get", "patch", "update"]}
        if item.status:
            resources.append({"name": f"{item.resource.plural}/status", "kind": item.resource.kind, **subresource})
        if item.scale:
            scale = {"kind": "Scale", "group": "autoscaling", "version": "v1"}
            resources.append({"name": f"{item.resource.plural}/scale", **scale, **subresource})
    group_version = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}
