"""The status of an InferenceService in Standard mode. No I/O, no clock.

It has neither revisions nor traffic: who receives requests stands in the HTTPRoutes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from local.kubernetes.controllers.addresses import Addresses
from local.kubernetes.controllers.conditions import Condition, all_of, render
from local.kubernetes.controllers.model_status import model_status
from local.kubernetes.controllers.standard_objects import Predictor

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Observed:
    """What runs for one predictor."""

    predictor: Predictor
    deployment: Object

    @property
    def available(self) -> Condition:
        """The Deployment's own word, as the condition PredictorReady."""
        for item in (self.deployment.get("status") or {}).get("conditions") or ():
            if item["type"] == "Available":
                return Condition("PredictorReady", item["status"], item.get("reason", ""), item.get("message", ""))
        return Condition("PredictorReady", "Unknown")

    @property
    def is_ready(self) -> bool:
        """Whether any of its pods serves; so a canary without pods never is."""
        return bool((self.deployment.get("status") or {}).get("availableReplicas"))


def canary_ready(canaries: Sequence[Observed]) -> Condition:
    """The condition CanaryPredictorReady, which is no part of Ready."""
    if all(canary.is_ready for canary in canaries):
        return Condition("CanaryPredictorReady", "True", "AllCanariesReady")
    return Condition("CanaryPredictorReady", "False", "CanariesNotReady")


def ingress_ready(predictor: Condition, *, accepted: bool) -> Condition:
    """The condition IngressReady."""
    if predictor.status != "True":
        return Condition("IngressReady", "False", "Predictor ingress not created")
    if not accepted:
        return Condition("IngressReady", "False", "HttpRouteNotReady")
    return Condition("IngressReady", "True")


def standard_status(
    before: Object,
    stable: Observed,
    canaries: Sequence[Observed],
    *,
    pods: Sequence[Object],
    accepted: bool,
    addresses: Addresses,
    runtime: str,
    now: float,
) -> dict[str, Any]:
    """The next status.

    `pods` are the stable side's, newest first; `accepted` says whether the routes are in force. The predictor's URL and
    the address name the stable predictor, so a promotion moves both: the first to a host that no route has.
    """
    predictor = stable.available
    ingress = ingress_ready(predictor, accepted=accepted)
    ready = all_of("Ready", (predictor, ingress))
    conditions = ([canary_ready(canaries)] if canaries else []) + [ingress, predictor, ready]
    status: dict[str, Any] = {
        # The Deployment's generation, not the InferenceService's.
        "observedGeneration": (stable.deployment.get("status") or {}).get("observedGeneration", 0),
        "conditions": render(conditions, before.get("conditions") or (), now),
        "components": before.get("components") or {"predictor": {}},
        "modelStatus": model_status(
            before.get("modelStatus") or {}, pods, ready=ready.status == "True", latest_is_ready=True, failed=False
        ),
        "deploymentMode": "Standard",
        "servingRuntimeName": runtime,
    }
    if canaries:
        status["canaryStatuses"] = [_canary_status(canary) for canary in canaries]
    if ingress.status == "True":
        status["components"] = {"predictor": {"url": addresses.component(stable.predictor.name)}}
        status["url"] = addresses.service
        status["address"] = {"url": addresses.in_cluster(stable.predictor.name)}
        return status
    return status | {key: before[key] for key in ("url", "address") if key in before}


def _canary_status(canary: Observed) -> dict[str, Any]:
    """The percent is the spec's; whether requests arrive is the HTTPRoute's matter. There is no modelStatus."""
    predictor = canary.predictor
    return {"name": predictor.canary, "ready": canary.is_ready, "trafficPercent": predictor.percent}
