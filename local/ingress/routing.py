"""Which pod a request goes to: hosts to revisions by weight, revisions to ready pods in turn. No I/O."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

PORT_ANNOTATION = "local.ml-lifecycle.io/port"
REVISION_LABEL = "serving.knative.dev/revision"

Object = Mapping[str, Any]
RevisionKey = tuple[str, str]
"""Namespace and name of a revision."""


@dataclass(frozen=True)
class Target:
    """A revision and its share of a host's requests, in percent."""

    namespace: str
    configuration: str
    revision: str
    percent: int

    @property
    def key(self) -> RevisionKey:
        """Namespace and name."""
        return self.namespace, self.revision


@dataclass(frozen=True)
class Route:
    """A host name and the revisions that share its requests."""

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


def routes_of(service: Object) -> Iterator[Route]:
    """The routes in an InferenceService's status: its own hosts, and one host for each tag."""
    namespace = service["metadata"]["namespace"]
    status = service.get("status") or {}
    predictor = (status.get("components") or {}).get("predictor") or {}
    configuration = f"{service['metadata']['name']}-predictor"
    traffic: Sequence[Object] = predictor.get("traffic") or ()

    def target(item: Object, percent: int) -> Target:
        return Target(namespace, configuration, item["revisionName"], percent)

    shares = tuple(target(item, int(item.get("percent") or 0)) for item in traffic)
    for url in dict.fromkeys((status.get("url"), predictor.get("url"))):
        if url:
            yield Route(host_name(urlsplit(url).netloc), shares)
    for item in traffic:
        if item.get("tag") and item.get("url"):
            yield Route(host_name(urlsplit(item["url"]).netloc), (target(item, 100),))


def is_ready(pod: Object) -> bool:
    """True when the pod may receive requests."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return not pod["metadata"].get("deletionTimestamp") and any(
        condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions
    )


def endpoints_of(pods: Iterable[Object]) -> dict[RevisionKey, tuple[Endpoint, ...]]:
    """The ready pods of each revision, by name."""
    found: dict[RevisionKey, list[Endpoint]] = {}
    for pod in pods:
        metadata = pod["metadata"]
        revision = (metadata.get("labels") or {}).get(REVISION_LABEL)
        port = (metadata.get("annotations") or {}).get(PORT_ANNOTATION)
        if revision and port and is_ready(pod):
            address = f"{pod['status'].get('podIP', '127.0.0.1')}:{port}"
            found.setdefault((metadata["namespace"], revision), []).append(Endpoint(metadata["name"], address))
    return {key: tuple(sorted(endpoints, key=lambda endpoint: endpoint.pod)) for key, endpoints in found.items()}


class WeightedTurns:
    """Smooth weighted round robin: every 100 requests hold exactly each target's percent, evenly spread."""

    def __init__(self, targets: tuple[Target, ...]) -> None:
        self.targets = targets
        self._credit = [0] * len(targets)
        self._total = sum(target.percent for target in targets)

    def next(self) -> Target | None:
        """The target of the next request; None when no revision receives traffic."""
        if self._total == 0:
            return None
        for index, target in enumerate(self.targets):
            self._credit[index] += target.percent
        winner = max(range(len(self.targets)), key=self._credit.__getitem__)
        self._credit[winner] -= self._total
        return self.targets[winner]


class RoutingTable:
    """The current routes and endpoints; a route that did not change keeps its place in the turn."""

    def __init__(self) -> None:
        self._turns: dict[str, WeightedTurns] = {}
        self._endpoints: dict[RevisionKey, tuple[Endpoint, ...]] = {}
        self._rounds: dict[RevisionKey, Iterator[int]] = {}

    def set_services(self, services: Iterable[Object]) -> None:
        """Take over the routes of all InferenceServices."""
        fresh: dict[str, WeightedTurns] = {}
        for route in itertools.chain.from_iterable(routes_of(service) for service in services):
            known = self._turns.get(route.host)
            fresh[route.host] = known if known and known.targets == route.targets else WeightedTurns(route.targets)
        self._turns = fresh

    def set_pods(self, pods: Iterable[Object]) -> None:
        """Take over the ready pods of all revisions."""
        self._endpoints = endpoints_of(pods)
        self._rounds = {key: self._rounds.get(key) or itertools.count() for key in self._endpoints}

    def knows(self, host: str) -> bool:
        """Whether any InferenceService has this host."""
        return host in self._turns

    def next_target(self, host: str) -> Target | None:
        """The revision for the next request of `host`; None when no revision receives traffic."""
        turns = self._turns.get(host)
        return turns.next() if turns else None

    def next_endpoints(self, target: Target) -> list[Endpoint]:
        """The revision's ready pods, the one whose turn it is first."""
        endpoints = self._endpoints.get(target.key)
        if not endpoints:
            return []
        first = next(self._rounds[target.key]) % len(endpoints)
        return [*endpoints[first:], *endpoints[:first]]

    def describe(self) -> dict[str, Any]:
        """The table as JSON, for people and tests."""
        return {
            host: [
                {
                    "namespace": target.namespace,
                    "revision": target.revision,
                    "percent": target.percent,
                    "endpoints": [endpoint.address for endpoint in self._endpoints.get(target.key, ())],
                }
                for target in turns.targets
            ]
            for host, turns in sorted(self._turns.items())
        }
