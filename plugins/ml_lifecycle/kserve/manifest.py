"""What we set on ServingRuntimes and InferenceServices, and its YAML. Pure: the caller gives the templates' folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jinja2
import yaml
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from ml_lifecycle.kserve.predictor import Predictor, check_canary
from ml_lifecycle.runtimes import RUNTIMES
from ml_lifecycle.settings import Serving

Manifest = dict[str, Any]

MANAGED_BY = "ml-lifecycle"
DEPLOYMENT_MODE = "serving.kserve.io/deploymentMode"
AUTOSCALER_CLASS = "serving.kserve.io/autoscalerClass"
TAG_ROUTING = "serving.kserve.io/enable-tag-routing"


class Templates:
    """The YAML templates of one folder.

    Whatever a template names enters it as JSON, which is YAML too: no value can become a field of its own.
    """

    def __init__(self, folder: Path) -> None:
        self._environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(folder), undefined=jinja2.StrictUndefined, autoescape=True, finalize=_as_json
        )

    def serving_runtime(self, serving: Serving) -> Manifest | None:
        """Our server as a runtime, named after the hash of its spec: another image is another runtime.

        None where the cluster brings the runtime.
        """
        if RUNTIMES[serving.runtime].cluster_runtime is not None:
            return None
        fields = {"namespace": serving.namespace, "image": serving.image, "cpu": serving.cpu, "memory": serving.memory}
        spec = self._render("serving_runtime.yaml", name="", **fields)["spec"]
        digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:10]
        return self._render("serving_runtime.yaml", name=f"{MANAGED_BY}-{digest}", **fields)

    def runtime_name(self, serving: Serving) -> str:
        """The ServingRuntime, or ClusterServingRuntime, that serves the model."""
        own = self.serving_runtime(serving)
        return str(own["metadata"]["name"]) if own else str(RUNTIMES[serving.runtime].cluster_runtime)

    def inference_service(
        self,
        name: str,
        namespace: str,
        predictor: Predictor,
        canary_percent: int | None,
        canary: Predictor | None = None,
        *,
        mode: str | None = None,
        autoscaler: str | None = None,
    ) -> Manifest:
        """The service; without `canary_percent` the newest ready version takes all traffic.

        Without `canary` the percent is that of the newest revision, in Knative mode. With it `predictor` is the
        stable side of Standard mode, and `canary` takes the percent (CanaryRefusedError where KServe refuses it).
        `mode` and `autoscaler` are annotations, and stay the same for the service's life.
        """
        if canary is not None:
            check_canary(name, predictor, canary, canary_percent)
        return self._render(
            "inference_service.yaml",
            name=name,
            namespace=namespace,
            annotations=fixed_annotations(mode, autoscaler),
            predictor=predictor,
            canary_percent=canary_percent,
            canary=canary,
        )

    def golden_config_map(self, name: str, namespace: str, service: str, golden: str) -> Manifest:
        """The smoke test's cases."""
        return self._render("golden_config_map.yaml", name=name, namespace=namespace, service=service, golden=golden)

    def _render(self, template: str, **fields: Any) -> Manifest:
        manifest: Manifest = yaml.safe_load(self._environment.get_template(template).render(fields))
        return manifest


def _as_json(value: Any) -> Markup:
    """What Jinja writes for a value; what a macro has written is JSON already."""
    return value if isinstance(value, Markup) else htmlsafe_json_dumps(value)


def fixed_annotations(mode: str | None, autoscaler: str | None) -> dict[str, str]:
    """Of the InferenceService; KServe copies them into every revision, so they must never change."""
    own = {DEPLOYMENT_MODE: mode, AUTOSCALER_CLASS: autoscaler, TAG_ROUTING: None if mode == "Standard" else "true"}
    return {key: value for key, value in own.items() if value is not None}


def changed_annotations(serving: Serving, inference_service: Mapping[str, Any]) -> str:
    """Why the settings do not fit the live service, and the way out; empty where they do.

    The mode may stand there without having been asked for: KServe writes a cluster's default down.
    """
    live = inference_service["metadata"].get("annotations") or {}
    wanted = fixed_annotations(serving.deployment_mode, serving.autoscaler)
    fixed = [TAG_ROUTING, AUTOSCALER_CLASS, *([DEPLOYMENT_MODE] if serving.deployment_mode else [])]
    for key in fixed:
        if live.get(key) != wanted.get(key):
            return (
                f"has {key}: {live.get(key)!r}, and by settings would have {wanted.get(key)!r}, which cannot change "
                "while it lives: set serving.deployment_mode and serving.autoscaler back, or delete the service and "
                "roll out again"
            )
    return ""


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


def left_behind(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> Manifest:
    """What `wanted` leaves out of the canary and `stored` still has: a merge patch of the spec that removes it."""
    patch: Manifest = {}
    percent = "canaryTrafficPercent"
    if percent in stored["spec"]["predictor"] and percent not in wanted["spec"]["predictor"]:
        patch["predictor"] = {percent: None}
    if stored["spec"].get("canary") and "canary" not in wanted["spec"]:
        patch["canary"] = None
    return patch


def setters(managed_fields: Iterable[Mapping[str, Any]], *, but: str) -> tuple[str, ...]:
    """Who else has set the canary's fields, by `metadata.managedFields`."""
    found = set()
    for entry in managed_fields:
        spec = (entry.get("fieldsV1") or {}).get("f:spec") or {}
        if "f:canary" in spec or "f:canaryTrafficPercent" in (spec.get("f:predictor") or {}):
            found.add(str(entry.get("manager")))
    return tuple(sorted(found - {but}))


def is_ours(manifest: Mapping[str, Any]) -> bool:
    """Whether this package made the object."""
    labels = manifest.get("metadata", {}).get("labels") or {}
    return labels.get("app.kubernetes.io/managed-by") == MANAGED_BY
