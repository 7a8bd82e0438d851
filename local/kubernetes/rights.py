"""Roles as RBAC has them: which requests an account may send."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True)
class Asked:
    """What a request wants to do; `namespace` is empty for all of them, `resource` has its subresource: `pods/log`."""

    verb: str
    group: str
    resource: str
    namespace: str

    def __str__(self) -> str:
        where = f"in the namespace {self.namespace!r}" if self.namespace else "at the cluster scope"
        return f"cannot {self.verb} resource {self.resource!r} in API group {self.group!r} {where}"


def asked(method: str, where: Mapping[str, str | None], *, watch: bool) -> Asked:
    """What a request to an address is called in a Role; `where` has the address's parts."""
    resource, name = where["plural"] or "", where["name"]
    verb = _VERBS.get(method, method.lower())
    if verb == "get" and name is None:
        verb = "watch" if watch else "list"
    if verb == "delete" and name is None:
        verb = "deletecollection"
    # A Role may speak of its own namespace.
    namespace = name if resource == "namespaces" and name else where.get("namespace") or ""
    subresource = where.get("subresource")
    return Asked(verb, where.get("group") or "", f"{resource}/{subresource}" if subresource else resource, namespace)


class Rights:
    """What Roles (of their namespaces) and ClusterRoles (of all) allow together; other objects are passed over."""

    def __init__(self, manifests: Iterable[Mapping[str, Any]]) -> None:
        self._rules = [
            (manifest["metadata"].get("namespace", ""), rule)
            for manifest in manifests
            if manifest["kind"] in {"Role", "ClusterRole"}
            for rule in manifest["rules"]
        ]
        self.refused: list[str] = []

    def allow(self, request: Asked) -> bool:
        """Whether any rule allows it; what none allows is remembered."""
        for namespace, rule in self._rules:
            fits = namespace in {"", request.namespace} and request.group in rule["apiGroups"]
            if fits and request.resource in rule["resources"] and request.verb in rule["verbs"]:
                return True
        self.refused.append(str(request))
        return False
