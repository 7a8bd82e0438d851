"""What the API says of itself: versions, groups, resources, and the OpenAPI that kubectl asks for. Pure."""

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
        case ["openapi", "v3"]:
            paths = {_base(item): {"serverRelativeURL": f"/openapi/v3/{_base(item)}"} for item in served}
            return {"paths": paths}
        case ["openapi", "v3", *base]:
            return _open_api("/".join(base), served)
    return None


def _base(item: Definition) -> str:
    resource = item.resource
    return f"apis/{resource.group}/{resource.version}" if resource.group else f"api/{resource.version}"


def _open_api(base: str, served: Iterable[Definition]) -> dict[str, Any]:
    """That unknown fields are looked for by the server (`fieldValidation`); kubectl then leaves it to the server."""
    parameter = {"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}
    paths = {}
    for item in served:
        if _base(item) != base:
            continue
        resource = item.resource
        kind = {"group": resource.group, "version": resource.version, "kind": resource.kind}
        place = "namespaces/{namespace}/" if resource.namespaced else ""
        operation = {"parameters": [parameter], "responses": {}, "x-kubernetes-group-version-kind": kind}
        paths[f"/{base}/{place}{resource.plural}/{{name}}"] = {"patch": {"x-kubernetes-action": "patch", **operation}}
    return {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": _VERSION["gitVersion"]}, "paths": paths}


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
