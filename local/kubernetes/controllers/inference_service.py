"""InferenceServices to Revisions and their traffic, as KServe does it in Knative mode."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from local.kubernetes.controllers.addresses import Addresses
from local.kubernetes.controllers.conditions import Condition, all_of, render, status_of
from local.kubernetes.controllers.exceptions import InvalidServiceError
from local.kubernetes.controllers.finalizer import goes_on
from local.kubernetes.controllers.invalid_service import invalid_status
from local.kubernetes.controllers.loop import Key, itself, named_by, owner_reference, reconcile_forever
from local.kubernetes.controllers.model_status import model_status
from local.kubernetes.controllers.serving import (
    CONFIGURATION_LABEL,
    GENERATION_LABEL,
    KNATIVE_SERVICE_LABEL,
    REVISION_LABEL,
    SERVICE_LABEL,
    TAG_ROUTING,
    revision_template,
    select_runtime,
    template_hash,
)
from local.kubernetes.controllers.traffic import Rollout, TrafficTarget, latest_ready, roll_out, split
from local.kubernetes.deployment_mode import DeploymentMode, mode_of
from local.kubernetes.store import Store
from ml_lifecycle.kubernetes.resource import INFERENCE_SERVICE, POD, REVISION, SERVING_RUNTIME

TEMPLATE_ANNOTATION = "local.ml-lifecycle.io/template"

Object = Mapping[str, Any]


class InferenceServiceController:
    """Keeps the revisions, traffic and status of every InferenceService in Knative mode."""

    def __init__(self, store: Store, *, ingress_port: int, default_mode: DeploymentMode = "Knative") -> None:
        self._store = store
        self._ingress_port = ingress_port
        self._default_mode: DeploymentMode = default_mode
        self._observed: dict[str, tuple[object, int]] = {}

    async def run(self) -> None:
        """Until cancelled."""
        of_service = named_by(SERVICE_LABEL)
        watched = (
            (INFERENCE_SERVICE, itself),
            (REVISION, of_service),
            (POD, of_service),
            (SERVING_RUNTIME, self._in_namespace),
        )
        await reconcile_forever(self._store, watched, self.reconcile)

    def _in_namespace(self, runtime: Object) -> Iterable[Key]:
        for service in self._store.list(INFERENCE_SERVICE, runtime["metadata"]["namespace"]):
            yield service["metadata"]["namespace"], service["metadata"]["name"]

    def reconcile(self, namespace: str, name: str) -> None:
        """One step; a status that changed brings the next."""
        service = self._store.find(INFERENCE_SERVICE, name, namespace)
        if service is None or mode_of(service, self._default_mode) != "Knative":
            return
        if not goes_on(self._store, service):
            return
        before = service.get("status") or {}
        try:
            runtime = select_runtime(service, self._store.list(SERVING_RUNTIME, namespace))
            template = revision_template(service, runtime)
        except InvalidServiceError as error:
            status = invalid_status(before, error, "Knative", time.time())
        else:
            revisions = self._revisions(service, template)
            status = self._status(service, before, runtime["metadata"]["name"], revisions, template)
        self._store.update_status(INFERENCE_SERVICE, name, namespace, status)

    def _revisions(self, service: Object, template: Object) -> list[dict[str, Any]]:
        """The service's revisions, oldest first; the last has `template`."""
        metadata = service["metadata"]
        revisions = self._store.list(REVISION, metadata["namespace"], f"{SERVICE_LABEL}={metadata['name']}")
        revisions.sort(key=_generation)
        digest = template_hash(template)
        # The same template, the same storageUri in it, makes no revision (kserve#772).
        if not revisions or revisions[-1]["metadata"]["annotations"].get(TEMPLATE_ANNOTATION) != digest:
            number = max([_latest_number(service), *map(_generation, revisions)], default=0) + 1
            revisions.append(self._store.create(_revision_of(service, template, digest, number)))
        return revisions

    def _status(
        self,
        service: Object,
        before: Object,
        runtime: str,
        revisions: Sequence[Object],
        template: Object,
    ) -> dict[str, Any]:
        metadata = service["metadata"]
        known = (before.get("components") or {}).get("predictor") or {}
        readiness = {revision["metadata"]["name"]: status_of(revision, "Ready") for revision in revisions}
        created = revisions[-1]
        rollout = Rollout(
            latest_created=created["metadata"]["name"],
            latest_ready=latest_ready(
                [(name, ready == "True") for name, ready in readiness.items()], known.get("latestReadyRevision", "")
            ),
            latest_rolledout=known.get("latestRolledoutRevision", ""),
            previous_rolledout=known.get("previousRolledoutRevision", ""),
        )
        percent = service["spec"]["predictor"].get("canaryTrafficPercent")
        tag_routing = (metadata.get("annotations") or {}).get(TAG_ROUTING) == "true"
        targets = split(percent, rollout, tag_routing=tag_routing)
        addresses = Addresses(metadata["name"], metadata["namespace"], self._ingress_port)
        routes = _routes_ready(targets, readiness)
        traffic = known.get("traffic") or []
        if routes.status == "True":
            rollout = roll_out(rollout, targets)
            traffic = [_traffic_item(target, addresses) for target in targets]
        configuration = _configuration_ready(created)
        predictor = all_of("PredictorReady", (configuration, routes))
        url = known.get("url") or (addresses.predictor if predictor.status == "True" else "")
        conditions = _conditions(configuration, routes, predictor, routable=bool(url))
        pods = self._store.list(POD, metadata["namespace"], f"{REVISION_LABEL}={rollout.latest_created}")
        ready = next(condition for condition in conditions if condition.type == "Ready")
        status = {
            "observedGeneration": self._observed_generation(service, before, template, percent, rollout),
            "conditions": render(conditions, before.get("conditions") or (), time.time()),
            "components": {"predictor": _component(rollout, traffic, url)},
            "modelStatus": model_status(
                before.get("modelStatus") or {},
                [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")],
                ready=ready.status == "True",
                latest_is_ready=rollout.latest_created == rollout.latest_ready,
                failed=any(condition.status == "False" for condition in (configuration, routes)),
            ),
            "deploymentMode": "Knative",
            "servingRuntimeName": runtime,
        }
        if url:
            status |= {"url": addresses.service, "address": {"url": addresses.service}}
        return status

    def _observed_generation(
        self, service: Object, before: Object, template: Object, percent: int | None, rollout: Rollout
    ) -> int:
        """The generation of what would be the Knative Service; not the InferenceService's own."""
        uid = service["metadata"]["uid"]
        spec = (template_hash(template), percent, rollout.latest_rolledout if percent is not None else "")
        known, generation = self._observed.get(uid, (None, int(before.get("observedGeneration") or 0)))
        if spec != known:
            self._observed[uid] = (spec, generation + 1)
        return self._observed[uid][1]


def _generation(revision: Object) -> int:
    return int((revision["metadata"].get("labels") or {}).get(GENERATION_LABEL, "0"))


def _latest_number(service: Object) -> int:
    """The number of the latest created revision, which may have been deleted: names are never used twice."""
    predictor = ((service.get("status") or {}).get("components") or {}).get("predictor") or {}
    return int(predictor.get("latestCreatedRevision", "-0").rpartition("-")[2])


def _revision_of(service: Object, template: Object, digest: str, number: int) -> dict[str, Any]:
    metadata = service["metadata"]
    configuration = f"{metadata['name']}-predictor"
    labels = {
        **template["metadata"]["labels"],
        CONFIGURATION_LABEL: configuration,
        GENERATION_LABEL: str(number),
        KNATIVE_SERVICE_LABEL: configuration,
    }
    return {
        "apiVersion": REVISION.api_version,
        "kind": REVISION.kind,
        "metadata": {
            "name": f"{configuration}-{number:05}",
            "namespace": metadata["namespace"],
            "labels": labels,
            "annotations": {**template["metadata"]["annotations"], TEMPLATE_ANNOTATION: digest},
            "ownerReferences": [owner_reference(service)],
        },
        "spec": template["spec"],
    }


def _routes_ready(targets: Sequence[TrafficTarget], revisions: Mapping[str, str]) -> Condition:
    for target in targets:
        if not target.revision:
            message = "Configuration is waiting for a Revision to become ready."
            return Condition("RoutesReady", "Unknown", "RevisionMissing", message)
        if target.revision not in revisions:
            message = f'Revision "{target.revision}" referenced in traffic not found.'
            return Condition("RoutesReady", "False", "RevisionMissing", message)
    return Condition("RoutesReady", "True")


def _configuration_ready(created: Object) -> Condition:
    name, status = created["metadata"]["name"], status_of(created, "Ready")
    if status != "False":
        return Condition("LatestDeploymentReady", status, "" if status == "True" else "Deploying")
    found = next(item for item in created["status"]["conditions"] if item["type"] == "Ready")
    message = f'Revision "{name}" failed with message: {found.get("message", "")}.'
    return Condition("LatestDeploymentReady", "False", "RevisionFailed", message)


def _conditions(
    configuration: Condition, routes: Condition, predictor: Condition, *, routable: bool
) -> tuple[Condition, ...]:
    ingress = (
        Condition("IngressReady", "True")
        if routable
        else Condition("IngressReady", "False", "Predictor ingress not created")
    )
    return (
        ingress,
        configuration,
        replace(configuration, type="PredictorConfigurationReady"),
        predictor,
        replace(routes, type="PredictorRouteReady"),
        all_of("Ready", (predictor, ingress)),
        routes,
    )


def _component(rollout: Rollout, traffic: list[dict[str, Any]], url: str) -> dict[str, Any]:
    component: dict[str, Any] = {
        "latestCreatedRevision": rollout.latest_created,
        "latestReadyRevision": rollout.latest_ready,
        "latestRolledoutRevision": rollout.latest_rolledout,
        "previousRolledoutRevision": rollout.previous_rolledout,
        "traffic": traffic,
        "url": url,
        "address": {"url": url} if url else None,
    }
    return {key: value for key, value in component.items() if value}


def _traffic_item(target: TrafficTarget, addresses: Addresses) -> dict[str, Any]:
    item = {"latestRevision": target.latest, "percent": target.percent, "revisionName": target.revision}
    return item | ({"tag": target.tag, "url": addresses.tag(target.tag)} if target.tag else {})
