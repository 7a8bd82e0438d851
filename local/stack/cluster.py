"""The serving cluster: what a platform team would apply once, and what the demo reads of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jinja2 import Environment, StrictUndefined

from local.stack.layout import REPOSITORY
from ml_lifecycle.kubernetes.client import KubernetesClient
from ml_lifecycle.kubernetes.leases import lease_name
from ml_lifecycle.kubernetes.resource import INFERENCE_SERVICE, LEASE, MLSCALER, REVISION

FIELD_MANAGER = "ml-lifecycle-local"
ROLLOUT_ANNOTATION = "ml-lifecycle.io/rollout"
Found = TypeVar("Found")


@dataclass(frozen=True)
class Replicas:
    """Replicas of the live revision: asked for and running."""

    revision: str
    desired: int
    actual: int


class Cluster:
    """A kubeconfig and a namespace."""

    def __init__(self, kubeconfig: Path, namespace: str = "models") -> None:
        self._kubeconfig = kubeconfig
        self._namespace = namespace

    def prepare(self) -> None:
        """Apply the MLScaler's definition and the namespace of the models."""
        definition = yaml.safe_load((REPOSITORY / "k8s_templates" / "mlscaler_crd.yaml").read_text())
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self._namespace}}
        self.apply(definition, namespace)

    def apply(self, *objects: dict[str, Any]) -> None:
        """Server-side apply, as `kubectl apply --server-side` does."""

        async def act(client: KubernetesClient) -> None:
            for item in objects:
                await client.apply(item, field_manager=FIELD_MANAGER, force=True)

        self._run(act)

    def scale_by_forecast(self, name: str, **values: Any) -> dict[str, Any]:
        """Apply a MLScaler for the InferenceService `name`, from the template."""
        template = (REPOSITORY / "k8s_templates" / "mlscaler.yaml").read_text()
        text = Environment(undefined=StrictUndefined, autoescape=False).from_string(template)
        scaler: dict[str, Any] = yaml.safe_load(text.render(name=name, namespace=self._namespace, **values))
        self.apply(scaler)
        return scaler

    def scaler(self, name: str) -> dict[str, Any]:
        """The MLScaler with its status; empty if absent."""
        return self._run(lambda client: client.find(MLSCALER, name, self._namespace)) or {}

    def rollout(self, service: str) -> dict[str, Any]:
        """The state of the service's rollout, from its Lease; empty if there is none."""
        lease = self._run(lambda client: client.find(LEASE, lease_name(service), self._namespace)) or {}
        annotations = lease.get("metadata", {}).get("annotations") or {}
        state: dict[str, Any] = json.loads(annotations.get(ROLLOUT_ANNOTATION, "{}"))
        return state

    def held_leases(self) -> list[str]:
        """Names of the Leases that somebody holds."""
        found = self._run(lambda client: client.list(LEASE, self._namespace))
        return [lease["metadata"]["name"] for lease in found if lease.get("spec", {}).get("holderIdentity")]

    def service(self, name: str) -> dict[str, Any]:
        """The InferenceService; empty if absent."""
        return self._run(lambda client: client.find(INFERENCE_SERVICE, name, self._namespace)) or {}

    def replicas(self, service: str) -> Replicas | None:
        """Replicas of the revision that serves all traffic; None if none does."""
        predictor = self.service(service).get("status", {}).get("components", {}).get("predictor", {})
        revision = predictor.get("latestRolledoutRevision")
        if not revision:
            return None
        status = (self._run(lambda client: client.find(REVISION, revision, self._namespace)) or {}).get("status", {})
        return Replicas(revision, status.get("desiredReplicas") or 0, status.get("actualReplicas") or 0)

    def _run(self, act: Callable[[KubernetesClient], Awaitable[Found]]) -> Found:
        async def connected() -> Found:
            async with KubernetesClient.from_kubeconfig(str(self._kubeconfig)) as client:
                return await act(client)

        return asyncio.run(connected())
