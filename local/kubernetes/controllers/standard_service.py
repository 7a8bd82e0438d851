"""InferenceServices to Deployments, Services and HTTPRoutes, as KServe does it in Standard mode."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from local.kubernetes.controllers.addresses import Addresses
from local.kubernetes.controllers.exceptions import InvalidServiceError
from local.kubernetes.controllers.finalizer import goes_on
from local.kubernetes.controllers.gateway import is_accepted
from local.kubernetes.controllers.invalid_service import invalid_status
from local.kubernetes.controllers.loop import Key, itself, named_by, owner_of, reconcile_forever
from local.kubernetes.controllers.serving import SERVICE_LABEL, pod_template, select_runtime
from local.kubernetes.controllers.standard_objects import (
    AUTOSCALER_CLASS,
    Predictor,
    autoscaler_of,
    backend_refs,
    beside,
    component_name,
    deployment_of,
    http_route_of,
    pod_labels,
    predictors_of,
    scaled,
    service_of,
)
from local.kubernetes.controllers.standard_status import Observed, standard_status
from local.kubernetes.deployment_mode import DeploymentMode, mode_of
from local.kubernetes.store import Store
from ml_lifecycle.kubernetes.resource import (
    DEPLOYMENT,
    HTTP_ROUTE,
    INFERENCE_SERVICE,
    POD,
    SERVICE,
    SERVING_RUNTIME,
    ResourceKind,
    kind_of,
)

DRAIN_SECONDS = 0.5
"""Between a predictor's leaving the routes and its end, so that the ingress has turned away from it."""

Object = Mapping[str, Any]


class StandardServiceController:
    """Keeps the objects and the status of every InferenceService in Standard mode.

    With `splits_traffic=False` it is KServe 0.20.0: no route ever has a canary, the predictor's route takes the
    predictor's name, and canaries that are not ready count against the stable side's replicas too.
    """

    def __init__(
        self, store: Store, *, ingress_port: int, default_mode: DeploymentMode = "Knative", splits_traffic: bool = True
    ) -> None:
        self._store = store
        self._ingress_port = ingress_port
        self._default_mode: DeploymentMode = default_mode
        self._splits_traffic = splits_traffic
        self._leaving: dict[str, float] = {}

    async def run(self) -> None:
        """Until cancelled."""
        owner = owner_of(INFERENCE_SERVICE.kind)
        watched = (
            (INFERENCE_SERVICE, itself),
            (DEPLOYMENT, owner),
            (SERVICE, owner),
            (HTTP_ROUTE, owner),
            (POD, named_by(SERVICE_LABEL)),
            (SERVING_RUNTIME, self._in_namespace),
        )
        await reconcile_forever(self._store, watched, self.reconcile)

    def _in_namespace(self, runtime: Object) -> Iterable[Key]:
        for service in self._store.list(INFERENCE_SERVICE, runtime["metadata"]["namespace"]):
            yield service["metadata"]["namespace"], service["metadata"]["name"]

    def reconcile(self, namespace: str, name: str) -> float | None:
        """One step; returns the seconds until a predictor that is no longer wanted may end."""
        service = self._store.find(INFERENCE_SERVICE, name, namespace)
        if service is None or mode_of(service, self._default_mode) != "Standard":
            return None
        if not goes_on(self._store, service):
            return None
        before = service.get("status") or {}
        stable, canaries = predictors_of(service)
        try:
            self._check_host(service, stable)
            templates = [self._template(service, predictor) for predictor in (stable, *canaries)]
        except InvalidServiceError as error:
            status = invalid_status(before, error, "Standard", time.time())
            self._store.update_status(INFERENCE_SERVICE, name, namespace, status)
            return None
        (runtime, template), *others = templates
        canary_sides = [self._deploy(service, canary, own) for canary, (_, own) in zip(canaries, others, strict=True)]
        running = [side.predictor for side in canary_sides if side.is_ready or not self._splits_traffic]
        stable_side = self._deploy(service, beside(stable, running), template)
        routes = self._route(service, stable_side, canary_sides)
        if before or stable_side.deployment.get("status"):  # until then there is no status (kserve#4454)
            self._report(service, stable_side, canary_sides, routes=routes, runtime=runtime)
        return self._retire(service, wanted={predictor.name for predictor in (stable, *canaries)})

    def _check_host(self, service: Object, stable: Predictor) -> None:
        """InvalidServiceError where the stable predictor's host cannot be; its pods would never be reached."""
        if problem := self._addresses(service).problem(stable.name):
            raise InvalidServiceError("InvalidPredictorSpec", problem)

    def _template(self, service: Object, predictor: Predictor) -> tuple[str, dict[str, Any]]:
        """The runtime's name and the pod template."""
        alone = predictor.alone(service)
        runtime = select_runtime(alone, self._store.list(SERVING_RUNTIME, service["metadata"]["namespace"]))
        return runtime["metadata"]["name"], pod_template(alone, runtime, pod_labels(service, predictor))

    def _deploy(self, service: Object, predictor: Predictor, template: Object) -> Observed:
        body = deployment_of(service, predictor, template)
        found = self._store.find(DEPLOYMENT, predictor.name, service["metadata"]["namespace"])
        autoscaler = (service["metadata"].get("annotations") or {}).get(AUTOSCALER_CLASS, "hpa")
        body["spec"]["replicas"] = scaled(predictor, found, autoscaler)
        self._write(service_of(service, predictor))
        if autoscaler == "hpa":
            self._write(autoscaler_of(service, predictor))
        return Observed(predictor, self._write(body))

    def _route(self, service: Object, stable: Observed, canaries: Sequence[Observed]) -> list[dict[str, Any]]:
        """The HTTPRoutes, the predictor's first; they stay as they are while the stable predictor is not ready."""
        name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
        predictor_route = component_name(name, "") if self._splits_traffic else stable.predictor.name
        if stable.available.status != "True":
            found = (self._store.find(HTTP_ROUTE, route, namespace) for route in (predictor_route, name))
            return [route for route in found if route]
        for route in self._owned(HTTP_ROUTE, service):
            if route["metadata"]["name"] not in (predictor_route, name):
                self._store.delete(HTTP_ROUTE, route["metadata"]["name"], namespace)
        ready = [canary.predictor for canary in canaries if canary.is_ready and self._splits_traffic]
        backends = backend_refs(stable.predictor, ready, namespace)
        addresses = self._addresses(service)
        return [
            self._write(http_route_of(service, route, addresses.host(route), backends))
            for route in (predictor_route, name)
        ]

    def _report(
        self,
        service: Object,
        stable: Observed,
        canaries: Sequence[Observed],
        *,
        routes: Sequence[Object],
        runtime: str,
    ) -> None:
        metadata = service["metadata"]
        status = standard_status(
            service.get("status") or {},
            stable,
            canaries,
            pods=self._pods(metadata["namespace"], stable.predictor),
            accepted=bool(routes) and all(is_accepted(route) for route in routes),
            addresses=self._addresses(service),
            runtime=runtime,
            now=time.time(),
        )
        self._store.update_status(INFERENCE_SERVICE, metadata["name"], metadata["namespace"], status)

    def _pods(self, namespace: str, predictor: Predictor) -> list[dict[str, Any]]:
        pods = self._store.list(POD, namespace, f"app=isvc.{predictor.name}")
        kept = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
        return sorted(kept, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), reverse=True)

    def _retire(self, service: Object, wanted: set[str]) -> float | None:
        """End the predictors that the spec no longer has, once the ingress has had time to see it.

        Their autoscalers stay behind without a target, as KServe leaves them.
        """
        namespace, soonest = service["metadata"]["namespace"], None
        for kind in (DEPLOYMENT, SERVICE):
            for item in self._owned(kind, service):
                name, uid = item["metadata"]["name"], item["metadata"]["uid"]
                if name in wanted:
                    self._leaving.pop(uid, None)
                    continue
                left = self._leaving.setdefault(uid, time.monotonic()) + DRAIN_SECONDS - time.monotonic()
                if left > 0:
                    soonest = left if soonest is None else min(soonest, left)
                else:
                    self._store.delete(kind, name, namespace)
                    del self._leaving[uid]
        return soonest

    def _owned(self, kind: ResourceKind, service: Object) -> Iterator[dict[str, Any]]:
        metadata = service["metadata"]
        for item in self._store.list(kind, metadata["namespace"], f"{SERVICE_LABEL}={metadata['name']}"):
            if any(owner["uid"] == metadata["uid"] for owner in item["metadata"].get("ownerReferences") or ()):
                yield item

    def _write(self, body: Object) -> dict[str, Any]:
        """The object as stored; what is the same already is not written."""
        metadata = body["metadata"]
        found = self._store.find(kind_of(body), metadata["name"], metadata["namespace"])
        if found is None:
            return self._store.create(body)
        return self._store.update({**found, "metadata": {**found["metadata"], **metadata}, "spec": body["spec"]})

    def _addresses(self, service: Object) -> Addresses:
        return Addresses(service["metadata"]["name"], service["metadata"]["namespace"], self._ingress_port)
