"""The kinds of Kubernetes objects that the package reads or writes, and their addresses. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ml_lifecycle.kubernetes.exceptions import InvalidNameError, UnknownKindError

# What Kubernetes allows, and the length of it (RFC 1123); none of it has a meaning in an address.
_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_PATTERNS = {
    "name": re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*"),
    "namespace": re.compile(_LABEL),
    "API group": re.compile(rf"(?:(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*)?"),
    "API version": re.compile(r"v[0-9][a-z0-9]{0,30}"),
    "plural": re.compile(_LABEL),
    "subresource": re.compile(r"[a-z]{1,63}"),
}


@dataclass(frozen=True)
class ResourceKind:
    """One kind of object; `group` is empty for the core group."""

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """`group/version`, or `version` alone in the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, name: str | None = None, namespace: str | None = None, subresource: str | None = None) -> str:
        """Path below the server's address: of the collection without `name`; of all namespaces without `namespace`.

        InvalidNameError for a part that no object can have, so that an address is always of the kind and namespace
        that were meant.
        """
        root = ["apis", self._part("API group", self.group)] if self.group else ["api"]
        parts = [*root, self._part("API version", self.version)]
        if self.namespaced and namespace is not None:
            parts += ["namespaces", self._part("namespace", namespace)]
        parts.append(self._part("plural", self.plural))
        if name is not None:
            parts.append(self._part("name", name))
        if subresource is not None:
            parts.append(self._part("subresource", subresource))
        return "/" + "/".join(quote(part, safe="") for part in parts)

    def _part(self, what: str, text: str) -> str:
        if not isinstance(text, str) or _PATTERNS[what].fullmatch(text) is None:
            raise InvalidNameError(
                f"{text!r} is no {what} of a {self.kind or self.plural}: lower-case letters, digits and hyphens, "
                "as Kubernetes has it"
            )
        return text

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


NAMESPACE = ResourceKind("", "v1", "Namespace", "namespaces", namespaced=False)
POD = ResourceKind("", "v1", "Pod", "pods")
SERVICE = ResourceKind("", "v1", "Service", "services")
CONFIG_MAP = ResourceKind("", "v1", "ConfigMap", "configmaps")
SECRET = ResourceKind("", "v1", "Secret", "secrets")
SERVICE_ACCOUNT = ResourceKind("", "v1", "ServiceAccount", "serviceaccounts")
EVENT = ResourceKind("", "v1", "Event", "events")
DEPLOYMENT = ResourceKind("apps", "v1", "Deployment", "deployments")
REPLICA_SET = ResourceKind("apps", "v1", "ReplicaSet", "replicasets")
LEASE = ResourceKind("coordination.k8s.io", "v1", "Lease", "leases")
HORIZONTAL_POD_AUTOSCALER = ResourceKind("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
CUSTOM_RESOURCE_DEFINITION = ResourceKind(
    "apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False
)
INFERENCE_SERVICE = ResourceKind("serving.kserve.io", "v1beta1", "InferenceService", "inferenceservices")
SERVING_RUNTIME = ResourceKind("serving.kserve.io", "v1alpha1", "ServingRuntime", "servingruntimes")
REVISION = ResourceKind("serving.knative.dev", "v1", "Revision", "revisions")
HTTP_ROUTE = ResourceKind("gateway.networking.k8s.io", "v1", "HTTPRoute", "httproutes")
SCALED_OBJECT = ResourceKind("keda.sh", "v1alpha1", "ScaledObject", "scaledobjects")
MLSCALER = ResourceKind("ml-lifecycle.io", "v1alpha1", "MLScaler", "mlscalers")

KINDS: tuple[ResourceKind, ...] = (
    NAMESPACE,
    POD,
    SERVICE,
    CONFIG_MAP,
    SECRET,
    SERVICE_ACCOUNT,
    EVENT,
    DEPLOYMENT,
    REPLICA_SET,
    LEASE,
    HORIZONTAL_POD_AUTOSCALER,
    CUSTOM_RESOURCE_DEFINITION,
    INFERENCE_SERVICE,
    SERVING_RUNTIME,
    REVISION,
    HTTP_ROUTE,
    SCALED_OBJECT,
    MLSCALER,
)
_BY_NAME = {(kind.api_version, kind.kind): kind for kind in KINDS}


def kind_of(manifest: Mapping[str, Any]) -> ResourceKind:
    """The kind that an object's `apiVersion` and `kind` name; UnknownKindError for one the package does not use."""
    name = (str(manifest.get("apiVersion", "")), str(manifest.get("kind", "")))
    if name not in _BY_NAME:
        known = ", ".join(f"{kind.api_version} {kind.kind}" for kind in KINDS)
        raise UnknownKindError(f"no known kind: apiVersion {name[0]!r}, kind {name[1]!r}; known are {known}")
    return _BY_NAME[name]
