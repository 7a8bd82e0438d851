"""The gateway's part in Standard mode: it accepts every HTTPRoute; the ingress (`local.ingress`) routes by them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from local.kubernetes.controllers.conditions import Condition, render
from local.kubernetes.controllers.loop import itself, reconcile_forever
from local.kubernetes.store import Store
from ml_lifecycle.kubernetes.resource import HTTP_ROUTE

CONTROLLER = "ml-lifecycle.io/local-gateway"
_CONDITIONS = (
    Condition("Accepted", "True", "Accepted", "Route was valid"),
    Condition("ResolvedRefs", "True", "ResolvedRefs", "All references resolved"),
)

Object = Mapping[str, Any]


class GatewayController:
    """Keeps the status of every HTTPRoute."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def run(self) -> None:
        """Until cancelled."""
        await reconcile_forever(self._store, ((HTTP_ROUTE, itself),), self.reconcile)

    def reconcile(self, namespace: str, name: str) -> None:
        """Every parent accepts the route as it is now."""
        route = self._store.find(HTTP_ROUTE, name, namespace)
        if route is None:
            return
        known = {parent["parentRef"]["name"]: parent for parent in (route.get("status") or {}).get("parents") or ()}
        parents = [_parent(route, reference, known) for reference in route["spec"].get("parentRefs") or ()]
        self._store.update_status(HTTP_ROUTE, name, namespace, {"parents": parents})


def is_accepted(route: Object) -> bool:
    """Whether a gateway has taken the route, be it as it is now or as it was before the last change."""
    parents = (route.get("status") or {}).get("parents") or ()
    return bool(parents) and all(item["status"] != "False" for parent in parents for item in parent["conditions"])


def _parent(route: Object, reference: Object, known: Mapping[str, Object]) -> dict[str, Any]:
    before = known.get(reference["name"], {}).get("conditions") or ()
    generation = route["metadata"]["generation"]
    conditions = [{**item, "observedGeneration": generation} for item in render(_CONDITIONS, before, time.time())]
    return {"parentRef": reference, "controllerName": CONTROLLER, "conditions": conditions}
