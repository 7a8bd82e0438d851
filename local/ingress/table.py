"""The current routes and endpoints, from the cluster's objects. No I/O."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from local.ingress.gateway import http_routes_of, service_endpoints, service_route
from local.ingress.knative import revision_endpoints, routes_of
from local.ingress.routing import BackendKey, Endpoint, Route, Target, WeightedTurns

Object = Mapping[str, Any]


class RoutingTable:
    """Which pods a request may go to; a route that did not change keeps its place in the turn."""

    def __init__(self) -> None:
        self._routes: dict[str, tuple[Route, ...]] = {}
        self._services: tuple[Object, ...] = ()
        self._pods: tuple[Object, ...] = ()
        self._turns: dict[str, WeightedTurns] = {}
        self._endpoints: dict[BackendKey, tuple[Endpoint, ...]] = {}
        self._rounds: dict[BackendKey, Iterator[int]] = {}

    def set_inference_services(self, services: Iterable[Object]) -> None:
        """Take over the routes of all InferenceServices in Knative mode."""
        self._set_routes("knative", itertools.chain.from_iterable(map(routes_of, services)))

    def set_http_routes(self, routes: Iterable[Object]) -> None:
        """Take over all HTTPRoutes."""
        self._set_routes("gateway", itertools.chain.from_iterable(map(http_routes_of, routes)))

    def set_services(self, services: Iterable[Object]) -> None:
        """Take over all Services, and their own hosts."""
        self._services = tuple(services)
        self._set_routes("cluster", map(service_route, self._services))
        self._set_endpoints()

    def set_pods(self, pods: Iterable[Object]) -> None:
        """Take over the ready pods of all backends."""
        self._pods = tuple(pods)
        self._set_endpoints()

    @property
    def pods(self) -> set[BackendKey]:
        """Namespace and name of all pods, ready or not."""
        return {(pod["metadata"]["namespace"], pod["metadata"]["name"]) for pod in self._pods}

    def knows(self, host: str) -> bool:
        """Whether anything has this host."""
        return host in self._turns

    def next_target(self, host: str) -> Target | None:
        """The backend for the next request of `host`; None when no backend receives traffic."""
        turns = self._turns.get(host)
        return turns.next() if turns else None

    def next_endpoints(self, target: Target) -> list[Endpoint]:
        """The backend's ready pods, the one whose turn it is first."""
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
                    target.kind: target.backend,
                    "percent": round(100 * target.weight / turns.total) if turns.total else 0,
                    "endpoints": [endpoint.address for endpoint in self._endpoints.get(target.key, ())],
                }
                for target in turns.targets
            ]
            for host, turns in sorted(self._turns.items())
        }

    def _set_routes(self, source: str, routes: Iterable[Route]) -> None:
        self._routes[source] = tuple(routes)
        fresh: dict[str, WeightedTurns] = {}
        for route in itertools.chain.from_iterable(self._routes.values()):
            known = self._turns.get(route.host)
            fresh[route.host] = known if known and known.targets == route.targets else WeightedTurns(route.targets)
        self._turns = fresh

    def _set_endpoints(self) -> None:
        found: defaultdict[BackendKey, set[Endpoint]] = defaultdict(set)
        for key, endpoint in (*revision_endpoints(self._pods), *service_endpoints(self._services, self._pods)):
            found[key].add(endpoint)
        self._endpoints = {
            key: tuple(sorted(endpoints, key=lambda endpoint: endpoint.pod)) for key, endpoints in found.items()
        }
        self._rounds = {key: self._rounds.get(key) or itertools.count() for key in self._endpoints}
