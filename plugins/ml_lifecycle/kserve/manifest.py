"""What we set on ServingRuntimes and InferenceServices, and its YAML. Pure: the caller gives the templates' folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import jinja2
import yaml

from ml_lifecycle.settings import Serving

Manifest = dict[str, Any]

MANAGED_BY = "ml-lifecycle"
CONTAINER = "kserve-container"


@dataclass(frozen=True)
class Predictor:
    """The part of an InferenceService that a rollout exchanges; replicas are None where a scaler owns them."""

    storage_uri: str
    runtime: str
    cpu: str
    memory: str
    gpus: int = 0
    service_account: str | None = None
    min_replicas: int | None = None
    max_replicas: int | None = None

    @classmethod
    def of(cls, inference_service: Mapping[str, Any]) -> Self:
        """What a live InferenceService serves now."""
        predictor = inference_service["spec"]["predictor"]
        model = predictor.get("model") or {}
        limits = (model.get("resources") or {}).get("limits") or {}
        return cls(
            storage_uri=model.get("storageUri", ""),
            runtime=model.get("runtime", ""),
            cpu=limits.get("cpu", "1"),
            memory=limits.get("memory", "2Gi"),
            gpus=int(limits.get("nvidia.com/gpu", 0)),
            service_account=predictor.get("serviceAccountName"),
            min_replicas=predictor.get("minReplicas"),
            max_replicas=predictor.get("maxReplicas"),
        )

    @property
    def version(self) -> str:
        """The model version: the last part of the storage URI."""
        return self.storage_uri.rstrip("/").rpartition("/")[2]

    def without_replicas(self) -> Predictor:
        """For a service whose replicas a scaler owns."""
        return replace(self, min_replicas=None, max_replicas=None)

    def to_json(self) -> dict[str, Any]:
        """JSON of it."""
        return asdict(self)


class Templates:
    """The YAML templates of one folder."""

    def __init__(self, folder: Path) -> None:
        self._environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(folder),
            undefined=jinja2.StrictUndefined,
            autoescape=False,  # noqa: S701 - YAML
        )

    def serving_runtime(self, serving: Serving) -> Manifest:
        """Our server as a runtime, named after the hash of its spec: another image is another runtime."""
        fields = {"namespace": serving.namespace, "image": serving.image, "cpu": serving.cpu, "memory": serving.memory}
        spec = self._render("serving_runtime.yaml", name="", **fields)["spec"]
        digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:10]
        return self._render("serving_runtime.yaml", name=f"{MANAGED_BY}-{digest}", **fields)

    def inference_service(
        self, name: str, namespace: str, predictor: Predictor, canary_percent: int | None
    ) -> Manifest:
        """The service; without `canary_percent` the newest ready revision takes all traffic."""
        fields = {"name": name, "namespace": namespace, "predictor": predictor, "canary_percent": canary_percent}
        return self._render("inference_service.yaml", **fields)

    def golden_config_map(self, name: str, namespace: str, service: str, golden: str) -> Manifest:
        """The smoke test's cases."""
        return self._render("golden_config_map.yaml", name=name, namespace=namespace, service=service, golden=golden)

    def _render(self, template: str, **fields: Any) -> Manifest:
        manifest: Manifest = yaml.safe_load(self._environment.get_template(template).render(fields))
        return manifest


def predictor(serving: Serving, storage_uri: str, runtime: str) -> Predictor:
    """The predictor that the settings ask for."""
    return Predictor(
        storage_uri=storage_uri,
        runtime=runtime,
        cpu=serving.cpu,
        memory=serving.memory,
        gpus=serving.gpus,
        service_account=serving.service_account,
        min_replicas=serving.min_replicas,
        max_replicas=serving.max_replicas,
    )


def picked(manifest: Mapping[str, Any], fields: Iterable[str]) -> Manifest | None:
    """These fields alone, a merge patch that sets them; None where it lacks one.

    `fields` as the API names them in conflicts: ".spec.predictor.model.storageUri".
    """
    patch: Manifest = {}
    for field in fields:
        keys = _keys(manifest, field)
        if not keys:
            return None
        value, inner = manifest, patch
        for key in keys[:-1]:
            value, inner = value[key], inner.setdefault(key, {})
        inner[keys[-1]] = value[keys[-1]]
    return patch


def _keys(node: Any, field: str) -> tuple[str, ...] | None:
    """The keys that lead to a field; keys may hold dots themselves."""
    if not field:
        return ()
    for key, below in node.items() if isinstance(node, Mapping) else ():
        if f"{field}.".startswith(f".{key}.") and (rest := _keys(below, field[len(key) + 1 :])) is not None:
            return (key, *rest)
    return None


def is_ours(manifest: Mapping[str, Any]) -> bool:
    """Whether this package made the object."""
    labels = manifest.get("metadata", {}).get("labels") or {}
    return labels.get("app.kubernetes.io/managed-by") == MANAGED_BY
