"""The InferenceService and what stands around it: read in both modes, applied, and refused where it is not fit."""

from __future__ import annotations

import functools
import logging
from dataclasses import replace
from typing import Any

from ml_lifecycle.kserve.exceptions import RolloutRefusedError
from ml_lifecycle.kserve.found import Found, found
from ml_lifecycle.kserve.manifest import Manifest, Templates, changed_annotations, is_ours, left_behind
from ml_lifecycle.kserve.missing_pods import unready, why
from ml_lifecycle.kserve.predictor import Predictor, predictor
from ml_lifecycle.kserve.request import RolloutRequest
from ml_lifecycle.kserve.revisions import FIELD_MANAGER, Service, is_standard, read
from ml_lifecycle.kserve.rollout import Kind, RolloutState, Wanted
from ml_lifecycle.kserve.scalers import owns_replicas
from ml_lifecycle.kserve.standard import orphaned_autoscalers, pod_selector
from ml_lifecycle.kubernetes.client import KubernetesClient
from ml_lifecycle.kubernetes.exceptions import ConflictError, ForbiddenError, KubernetesError, NotFoundError
from ml_lifecycle.kubernetes.leases import MANAGED_BY
from ml_lifecycle.kubernetes.resource import (
    CONFIG_MAP,
    DEPLOYMENT,
    EVENT,
    HORIZONTAL_POD_AUTOSCALER,
    HTTP_ROUTE,
    INFERENCE_SERVICE,
    MLSCALER,
    NAMESPACE,
    POD,
    REVISION,
    SERVICE,
)
from ml_lifecycle.resources import resource

log = logging.getLogger(__name__)

_SERVICE_LABEL = "serving.kserve.io/inferenceservice"
_FENCE_MANAGER = "ml-lifecycle-fence"
_STORAGE_URI_ANNOTATION = "internal.serving.kserve.io/storage-initializer-sourceuri"


@functools.cache
def _templates() -> Templates:
    """Compiled once in a process: each takes as long as a look."""
    return Templates(resource("k8s_templates"))


class ServiceClient:
    """What a rollout reads and writes of its service."""

    def __init__(self, kubernetes: KubernetesClient) -> None:
        self._kubernetes = kubernetes
        self._templates = _templates()

    async def find(self, state: RolloutState) -> Service | None:
        """The InferenceService as it stands; None if absent, or deleted and only kept by a finalizer."""
        found = await self._kubernetes.find(INFERENCE_SERVICE, state.service, state.request.namespace)
        if found is None or found["metadata"].get("deletionTimestamp"):
            return None
        # A canary that has all traffic has no more pods to wait for.
        replaced = state.kind in (Kind.ROLLING, Kind.RETURN)
        return await self._read(found, deployment=replaced)

    async def _read(self, found: dict[str, Any], *, deployment: bool = False) -> Service:
        """With what Standard mode keeps elsewhere: the HTTPRoute, and if it is asked for the newest Deployment."""
        if not is_standard(found):
            return read(found)
        name, namespace = found["metadata"]["name"], found["metadata"]["namespace"]
        try:
            route = await self._kubernetes.find(HTTP_ROUTE, name, namespace)
        except NotFoundError:
            route = None  # this cluster has no Gateway API
        service = read(found, route)
        if deployment and service.latest_created:
            own = await self._kubernetes.find(DEPLOYMENT, service.latest_created, namespace)
            service = read(found, route, own or {"metadata": {"generation": 1}, "spec": {}})
        return service

    async def check_namespace(self, request: RolloutRequest) -> None:
        """RolloutRefusedError where there is no such namespace."""
        try:
            if await self._kubernetes.find(NAMESPACE, request.namespace) is None:
                raise RolloutRefusedError(
                    f"serving.namespace = {request.namespace!r}: there is no such namespace; create it, or name another"
                )
        except ForbiddenError:
            log.info("namespaces may not be read: %r is taken on trust", request.namespace)

    async def live(self, request: RolloutRequest) -> Service | None:
        """The service as it stands, without replicas that a scaler keeps; None if there is none.

        RolloutRefusedError where a rollout cannot take it over.
        """
        name, namespace = request.model, request.namespace
        found = await self._kubernetes.find(INFERENCE_SERVICE, name, namespace)
        if found is None:
            await self._check_kserve(namespace)
            return None
        service = await self._read(found)
        if service.leaving:
            return service
        if await self._scaled(request):
            service = replace(service, predictor=service.predictor.without_replicas())
        if not is_ours(found):
            raise RolloutRefusedError(
                f"InferenceService {name!r} in {namespace!r} was not made by ml-lifecycle: delete it, or choose "
                "another model name or serving.namespace"
            )
        if reason := changed_annotations(request.serving, found):
            raise RolloutRefusedError(f"InferenceService {name!r} in {namespace!r} {reason}")
        if "transformer" in found["spec"]:
            raise RolloutRefusedError(
                f"InferenceService {name!r} has a transformer, whose traffic KServe splits apart from the predictor's: "
                "remove it"
            )
        gone = service.rolled_out and not service.standard
        if gone and await self._kubernetes.find(REVISION, service.rolled_out, namespace) is None:
            raise RolloutRefusedError(
                f"revision {service.rolled_out} of InferenceService {name!r} no longer exists, so traffic cannot go "
                "back to it: delete the service and roll out again"
            )
        return service

    async def found(self, request: RolloutRequest, *, served_before: bool) -> Found:
        """What is there: absent, never served, serving, or not to be told; RolloutRefusedError as `live`."""
        service = await self.live(request)
        if service is None or service.leaving or service.rolled_out:
            return found(service, (), served_before=served_before)
        kind = DEPLOYMENT if service.standard else REVISION
        own = await self._kubernetes.list(kind, request.namespace, label_selector=f"{_SERVICE_LABEL}={request.model}")
        return found(service, own, served_before=served_before)

    async def _check_kserve(self, namespace: str) -> None:
        try:
            await self._kubernetes.list(INFERENCE_SERVICE, namespace)
        except NotFoundError as error:
            raise RolloutRefusedError("this cluster has no InferenceServices: install KServe 0.15 or newer") from error

    async def predictor(self, request: RolloutRequest, storage_uri: str) -> Predictor:
        """What the settings ask for; a scaler keeps the replicas."""
        runtime = self._templates.runtime_name(request.serving)
        wanted = predictor(request.serving, storage_uri, runtime, request.digest)
        return wanted.without_replicas() if await self._scaled(request) else wanted

    async def _scaled(self, request: RolloutRequest) -> bool:
        """Whether an MLScaler sets the service's replicas."""
        try:
            scalers = await self._kubernetes.list(MLSCALER, request.namespace)
        except NotFoundError:
            return False
        return owns_replicas(request.model, scalers)

    async def apply_golden(self, request: RolloutRequest, golden: str) -> None:
        """The smoke test's cases."""
        cases = self._templates.golden_config_map(request.golden_name, request.namespace, request.model, golden)
        await self._kubernetes.apply(cases, field_manager=FIELD_MANAGER, force=True)

    async def delete_golden(self, request: RolloutRequest) -> None:
        """Nothing where they are gone already."""
        await self._kubernetes.delete(CONFIG_MAP, request.golden_name, request.namespace)

    async def apply_runtime(self, request: RolloutRequest) -> None:
        """Our server as a runtime; nothing where the cluster brings it."""
        if runtime := self._templates.serving_runtime(request.serving):
            await self._kubernetes.apply(runtime, field_manager=FIELD_MANAGER)

    async def apply(
        self, state: RolloutState, wanted: Wanted, *, resource_version: str = "", force: bool = False
    ) -> Manifest:
        """Server-side apply of the InferenceService as it was read, as stored; ConflictError if it has changed."""
        manifest = self.manifest(state, wanted)
        if resource_version:
            manifest["metadata"]["resourceVersion"] = resource_version
        applied = await self._kubernetes.apply(manifest, field_manager=FIELD_MANAGER, force=force)
        if not (kept := left_behind(applied, manifest)):
            return applied
        # A field that one manager leaves out stays while another owns it too.
        log.info("InferenceService %s: %s is others' as well, and is removed", state.service, ", ".join(kept))
        patch = {"metadata": {"resourceVersion": applied["metadata"]["resourceVersion"]}, "spec": kept}
        return await self._kubernetes.merge_patch(
            INFERENCE_SERVICE, state.service, state.request.namespace, patch, field_manager=FIELD_MANAGER
        )

    async def check_names(self, request: RolloutRequest, revision: str) -> None:
        """RolloutRefusedError where an object of the revision's name belongs to another service, or would.

        Deployment and Service of Standard mode bear the name; of Knative mode the Service of `<service>-predictor`.
        """
        namespace, other = request.namespace, revision.removesuffix("-predictor")
        if other != request.model and await self._kubernetes.find(INFERENCE_SERVICE, other, namespace) is not None:
            raise RolloutRefusedError(_taken(revision, request, f"InferenceService {other!r}"))
        for kind in (DEPLOYMENT, SERVICE):
            found = await self._kubernetes.find(kind, revision, namespace)
            owner = ((found or {}).get("metadata", {}).get("labels") or {}).get(_SERVICE_LABEL)
            if found is not None and owner != request.model:
                whose = f"InferenceService {owner!r}" if owner else "somebody else"
                raise RolloutRefusedError(_taken(revision, request, whose))

    async def fence(self, state: RolloutState, resource_version: str) -> None:
        """From here on an apply to the service as it was read earlier is refused, though nothing of it has changed.

        Another field manager shares a label with ours and gives it up: each gives the object a new resourceVersion.
        """
        kind, name, namespace = INFERENCE_SERVICE, state.service, state.request.namespace
        metadata = {"name": name, "namespace": namespace, "resourceVersion": resource_version}
        for labels in ({"labels": MANAGED_BY}, {}):
            body = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {**metadata, **labels}}
            try:
                fenced = await self._kubernetes.apply(body, field_manager=_FENCE_MANAGER)
            except (ConflictError, NotFoundError):
                return  # it has changed already
            metadata["resourceVersion"] = fenced["metadata"]["resourceVersion"]

    def manifest(self, state: RolloutState, wanted: Wanted) -> Manifest:
        """The InferenceService as it is wanted."""
        request = state.request
        return self._templates.inference_service(
            request.model,
            request.namespace,
            wanted.predictor,
            wanted.percent,
            wanted.canary,
            mode=request.serving.deployment_mode,
            autoscaler=request.serving.autoscaler,
        )

    async def raw(self, state: RolloutState) -> Manifest:
        """The InferenceService as the API shows it; empty if absent."""
        return await self._kubernetes.find(INFERENCE_SERVICE, state.service, state.request.namespace) or {}

    async def delete(self, state: RolloutState, *, resource_version: str = "") -> None:
        """The InferenceService as it was read and, by KServe, all that it owns; ConflictError if it has changed."""
        await self._kubernetes.delete(
            INFERENCE_SERVICE, state.service, state.request.namespace, resource_version=resource_version or None
        )

    async def remove_autoscalers(self, state: RolloutState, live: str) -> tuple[str, ...]:
        """Removes those of predictors other than the `live` one; the names of what could not be removed."""
        kind, namespace, left = HORIZONTAL_POD_AUTOSCALER, state.request.namespace, list[str]()
        try:
            names = orphaned_autoscalers(await self._kubernetes.list(kind, namespace), state.service, live)
        except KubernetesError as error:
            log.warning("what KServe left behind of the old predictor cannot be told: %s", error)
            return ()
        for name in names:
            try:
                await self._kubernetes.delete(kind, name, namespace)
                log.info("%s %s was left behind without a target and is removed", kind.kind, name)
            except KubernetesError as error:
                log.warning("%s %s is left behind: %s", kind.kind, name, error)
                left.append(name)
        return tuple(left)

    async def pods(self, state: RolloutState, revision: str, *, standard: bool) -> list[dict[str, Any]]:
        """Of a revision."""
        selector = pod_selector(revision) if standard else f"serving.knative.dev/revision={revision}"
        return await self._kubernetes.list(POD, state.request.namespace, label_selector=selector)

    async def why_missing(self, state: RolloutState, revision: str, *, standard: bool) -> str:
        """What the cluster says of a revision's missing pods; empty where it says nothing, or may not be asked."""
        namespace, kind = state.request.namespace, DEPLOYMENT if standard else REVISION
        owner = await self._kubernetes.find(kind, revision, namespace)
        pods = await self.pods(state, revision, standard=standard)
        events: list[dict[str, Any]] = []
        if late := unready(pods):
            try:
                of_pod = f"involvedObject.name={late[0]['metadata']['name']}"
                events = await self._kubernetes.list(EVENT, namespace, field_selector=of_pod)
            except ForbiddenError as error:
                log.info("Events may not be read: %s", error)
        return why(owner, pods, events)

    async def kept(self, live: Service, request: RolloutRequest) -> str:
        """The revision before the live one, if Knative still has it and it serves the version of `request`."""
        if not live.previous_rolled_out:
            return ""
        found = await self._kubernetes.find(REVISION, live.previous_rolled_out, request.namespace)
        annotations = ((found or {}).get("metadata") or {}).get("annotations") or {}
        return live.previous_rolled_out if annotations.get(_STORAGE_URI_ANNOTATION) == request.storage_uri else ""


def _taken(revision: str, request: RolloutRequest, whose: str) -> str:
    return (
        f"version {request.version} of {request.model!r} would be served by {revision!r} in {request.namespace!r}, a "
        f"name of {whose}: choose another model name or serving.namespace, or publish the model as another version"
    )
