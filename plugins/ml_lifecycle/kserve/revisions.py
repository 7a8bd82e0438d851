"""Reads an InferenceService, in either mode, and its pods: what serves, what is ready, what failed. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ml_lifecycle.kserve.predictor import Predictor, canary_of
from ml_lifecycle.kserve.standard import Share, Standing, gateway_address, standing

FIELD_MANAGER = "ml-lifecycle-rollout"
_STANDARD = frozenset({"Standard", "RawDeployment"})
_MODE_ANNOTATION = "serving.kserve.io/deploymentMode"
_BLOCKED = frozenset({"BlockedByFailedLoad", "InvalidSpec"})
_UNSTARTABLE = frozenset({"ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError", "CreateContainerError"})
_MOST_RESTARTS = 2


@dataclass(frozen=True)
class Service:
    """An InferenceService as read; empty strings where the status says nothing (yet).

    A revision is Knative's, or in Standard mode the Deployment of a predictor. `canary` is that of Standard mode; in
    Knative mode the predictor itself is the canary while `canary_percent` is set. `conditions`: what its status says is
    not so; `ours_alone`: whether nobody but the rollout has set anything of its spec; `leaving`: it was deleted, and is
    there until KServe takes its finalizer off; `in_cluster`: how callers within the cluster ask, in words; `labels`:
    its own, as `key=value`.
    """

    predictor: Predictor
    canary: Predictor | None
    canary_percent: int | None
    mode: str
    url: str
    latest_created: str
    latest_ready: str
    rolled_out: str
    previous_rolled_out: str
    traffic: tuple[Share, ...]
    transition: str
    target_state: str
    failure: str
    failed_revision: str
    resource_version: str = ""
    conditions: str = ""
    ours_alone: bool = False
    leaving: bool = False
    in_cluster: str = ""
    labels: tuple[str, ...] = ()

    @property
    def told(self) -> bool:
        """Whether KServe has said anything about it yet."""
        return bool(self.conditions or self.latest_created) if not self.standard else bool(self.conditions)

    @property
    def standard(self) -> bool:
        """Whether KServe runs it in Standard mode, without Knative."""
        return self.mode in _STANDARD

    @property
    def newest(self) -> Predictor:
        """What came last into the spec."""
        return self.canary or self.predictor

    def is_newer(self, before: str) -> bool:
        """Whether KServe has created a revision after `before`."""
        return self.latest_created not in {"", before}

    def percent(self, revision: str) -> int:
        """The revision's share of the traffic, all its entries together."""
        return sum(share.percent for share in self.traffic if share.revision == revision)

    def routes(self, revision: str) -> bool:
        """Whether the traffic list names the revision, be it with 0 %."""
        return any(share.revision == revision for share in self.traffic)

    def tag_url(self, revision: str) -> str:
        """The revision's own address; empty without one."""
        return next((share.url for share in self.traffic if share.revision == revision and share.tag and share.url), "")


def is_standard(inference_service: Mapping[str, Any]) -> bool:
    """Whether it runs in Standard mode, so far as it says; then `read` wants its HTTPRoute."""
    return _mode(inference_service) in _STANDARD


def read(
    inference_service: Mapping[str, Any],
    route: Mapping[str, Any] | None = None,
    deployment: Mapping[str, Any] | None = None,
) -> Service:
    """The service; tolerates a status that is absent or partly filled.

    In Standard mode the traffic is what its HTTPRoute says, and a rolling update is over when `deployment`, that of
    the predictor, has followed; None: it is not asked for.
    """
    status = inference_service.get("status") or {}
    model = status.get("modelStatus") or {}
    failure = model.get("lastFailureInfo") or {}
    predictor, canary = inference_service["spec"]["predictor"], canary_of(inference_service)
    mode = _mode(inference_service)
    if mode in _STANDARD:
        found = standing(inference_service, canary and canary[0], route, deployment)
    else:
        found = _knative((status.get("components") or {}).get("predictor") or {})
    labels = inference_service.get("metadata", {}).get("labels") or {}
    # In Standard mode modelStatus is the predictor's: of an open canary it says nothing.
    told = canary is None
    return Service(
        predictor=Predictor.of(inference_service),
        canary=canary and canary[0],
        canary_percent=predictor.get("canaryTrafficPercent") if canary is None else canary[1],
        mode=mode,
        url=status.get("url", ""),
        **vars(found),
        transition=model.get("transitionStatus", "") if told else "",
        target_state=(model.get("states") or {}).get("targetModelState", "") if told else "",
        failure=_failure(failure),
        failed_revision=failure.get("modelRevisionName", ""),
        resource_version=inference_service.get("metadata", {}).get("resourceVersion", ""),
        conditions=_conditions(status.get("conditions") or ()),
        ours_alone=_ours_alone(inference_service.get("metadata", {}).get("managedFields") or ()),
        in_cluster=gateway_address(route, status.get("url", ""))
        if mode in _STANDARD and route is not None
        else (status.get("address") or {}).get("url", ""),
        labels=tuple(sorted(f"{key}={value}" for key, value in labels.items())),
        leaving=bool(inference_service.get("metadata", {}).get("deletionTimestamp")),
    )


def _conditions(conditions: Iterable[Mapping[str, Any]]) -> str:
    """Each condition with its reason, as "PredictorReady False (MinimumReplicasUnavailable)"."""
    said = (
        f"{item.get('type')} {item.get('status')}" + (f" ({item['reason']})" if item.get("reason") else "")
        for item in conditions
    )
    return ", ".join(said)


def _ours_alone(managed_fields: Iterable[Mapping[str, Any]]) -> bool:
    """Whether the rollout's applies, and nobody else's writes, own the spec."""
    owners = {entry.get("manager") for entry in managed_fields if "f:spec" in (entry.get("fieldsV1") or {})}
    return owners == {FIELD_MANAGER}


def _mode(inference_service: Mapping[str, Any]) -> str:
    annotations = inference_service.get("metadata", {}).get("annotations") or {}
    # KServe's webhook writes the annotation where Standard is the cluster's default.
    mode: str = (inference_service.get("status") or {}).get("deploymentMode") or annotations.get(_MODE_ANNOTATION, "")
    return mode


def _knative(component: Mapping[str, Any]) -> Standing:
    return Standing(
        latest_created=component.get("latestCreatedRevision", ""),
        latest_ready=component.get("latestReadyRevision", ""),
        rolled_out=component.get("latestRolledoutRevision", ""),
        previous_rolled_out=component.get("previousRolledoutRevision", ""),
        traffic=tuple(_share(entry) for entry in component.get("traffic") or ()),
    )


@dataclass(frozen=True)
class Readiness:
    """Whether a new revision may be tested; `failed` is final, and `reason` says what is missing or broken.

    `unrouted`: all is there but a place in the traffic, which KServe gives at once or never.
    """

    ready: bool = False
    failed: bool = False
    unrouted: bool = False
    reason: str = ""


def readiness(service: Service, pods: Iterable[Mapping[str, Any]], *, before: str) -> Readiness:
    """Of the revision that came after `before` (the latest one created when the rollout opened).

    The service's own Ready says little: it flaps, and is true while new pods crash. So the revision must be the
    latest created and the latest ready, its model loaded and one of its pods ready.
    """
    created = service.latest_created
    if not service.is_newer(before):
        return Readiness(reason="KServe has not created the new revision yet")
    pods = list(pods)
    if reason := _broken_pod(pods) or _failed_load(service, created):
        return Readiness(failed=True, reason=f"revision {created}: {reason}")
    if service.latest_ready != created:
        return Readiness(reason=f"revision {created} is not ready yet")
    if service.target_state not in {"", "Loaded"}:
        return Readiness(reason=f"revision {created}: its model is {service.target_state}")
    if not any(_pod_ready(pod) for pod in pods):
        return Readiness(reason=f"revision {created}: no pod is ready")
    if service.standard and not service.routes(created):
        return Readiness(unrouted=True, reason=f"revision {created} is ready but no part of the traffic, not even 0 %")
    return Readiness(ready=True)


def _share(entry: Mapping[str, Any]) -> Share:
    return Share(
        entry.get("revisionName", ""), int(entry.get("percent") or 0), entry.get("tag", ""), entry.get("url", "")
    )


def _failure(info: Mapping[str, Any]) -> str:
    """KServe's `lastFailureInfo` in words: 137 is what a process without memory ends with."""
    code = f"exit code {info['exitCode']}" if info.get("exitCode") else ""
    return ": ".join(part for part in (info.get("reason", ""), info.get("message", ""), code) if part)


def _failed_load(service: Service, revision: str) -> str:
    """`lastFailureInfo` may be stale: it counts while KServe is blocked, and for this revision."""
    if service.latest_ready == revision or service.transition not in _BLOCKED:
        return ""
    if service.failed_revision not in {"", revision}:
        return ""
    return service.failure or service.transition


def crashed(pods: Iterable[Mapping[str, Any]]) -> str:
    """Which pod crashes or cannot start, and why; empty where none does, or where another one serves."""
    pods = list(pods)
    return "" if any(_pod_ready(pod) for pod in pods) else _broken_pod(pods)


def _broken_pod(pods: Iterable[Mapping[str, Any]]) -> str:
    for pod in pods:
        status = pod.get("status") or {}
        for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
            if reason := _broken_container(container):
                return f"pod {pod['metadata']['name']}, container {container.get('name')}: {reason}"
    return ""


def _broken_container(container: Mapping[str, Any]) -> str:
    waiting = (container.get("state") or {}).get("waiting") or {}
    reason = waiting.get("reason", "")
    if reason in _UNSTARTABLE:
        return f"{reason} {waiting.get('message', '')}".strip()
    if int(container.get("restartCount") or 0) >= _MOST_RESTARTS and not container.get("ready"):
        last = (container.get("lastState") or {}).get("terminated") or {}
        why = last.get("reason") or "it ended"
        return f"restarted {container['restartCount']} times ({why}, exit code {last.get('exitCode', 'unknown')})"
    return ""


def _pod_ready(pod: Mapping[str, Any]) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(item.get("type") == "Ready" and item.get("status") == "True" for item in conditions)
