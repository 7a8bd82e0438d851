"""What every request's way is made of: hosts, the backends that share one by weight, their pods in turn. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

PORT_ANNOTATION = "local.ml-lifecycle.io/port"

Object = Mapping[str, Any]
BackendKey = tuple[str, str]
"""Namespace and name of a backend."""


@dataclass(frozen=True)
class Target:
    """A backend (in Knative mode a revision, in Standard mode a Service) and its weight in a host's requests."""

    namespace: str
    backend: str
    weight: int
    configuration: str = ""
    """A revision's; a Service has none."""

    @property
    def key(self) -> BackendKey:
        """Namespace and name."""
        return self.namespace, self.backend

    @property
    def kind(self) -> str:
        """What the backend is called."""
        return "revision" if self.configuration else "service"


@dataclass(frozen=True)
class Route:
    """A host name and the backends that share its requests."""

    host: str
    targets: tuple[Target, ...]


@dataclass(frozen=True)
class Endpoint:
    """A ready pod's address."""

    pod: str
    address: str
    """As in `127.0.0.1:41234`."""


def host_name(authority: str) -> str:
    """The host of a Host header or URL authority: lower case, without its port."""
    return (urlsplit(f"//{authority}").hostname or "").lower()


def endpoint_of(pod: Object) -> Endpoint | None:
    """Where the pod receives requests; None while it may not."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    port = (metadata.get("annotations") or {}).get(PORT_ANNOTATION)
    ready = any((item["type"], item["status"]) == ("Ready", "True") for item in status.get("conditions") or ())
    if not port or not ready or metadata.get("deletionTimestamp"):
        return None
    return Endpoint(metadata["name"], f"{status.get('podIP', '127.0.0.1')}:{port}")


class WeightedTurns:
    """Smooth weighted round robin: as many requests as the weights add up to hold exactly each one, evenly spread."""

    def __init__(self, targets: tuple[Target, ...]) -> None:
        self.targets = targets
        self.total = sum(target.weight for target in targets)
        self._credit = [0] * len(targets)

    def next(self) -> Target | None:
        """The target of the next request; None when no backend receives traffic."""
        if self.total == 0:
            return None
        for index, target in enumerate(self.targets):
            self._credit[index] += target.weight
        winner = max(range(len(self.targets)), key=self._credit.__getitem__)
        self._credit[winner] -= self.total
        return self.targets[winner]
