"""Who else sets the replicas of a target, and whether a rollout has it. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime

from ml_lifecycle.kubernetes.leases import is_held, lease_name, parse_lease
from ml_lifecycle.scaling.inference_services import deployment_name
from ml_lifecycle.scaling.manifests import Manifest, name_of, section, text
from ml_lifecycle.scaling.resource import INFERENCE_SERVICE_KIND, Scaler

Address = tuple[str, str, str]  # namespace, kind, name


def addresses(
    namespace: str, kind: str, name: str, inference_services: Mapping[tuple[str, str], Manifest]
) -> frozenset[Address]:
    """The objects by which a target's replicas can be set.

    In Standard mode whoever scales the predictor's Deployment scales the InferenceService.
    """
    if kind != INFERENCE_SERVICE_KIND:
        return frozenset({(namespace, kind, name)})
    service = inference_services.get((namespace, name)) or {"metadata": {"name": name}}
    return frozenset({(namespace, kind, name), (namespace, "Deployment", deployment_name(service))})


def find_conflicts(
    scalers: Iterable[Scaler],
    autoscalers: Iterable[Manifest],
    scaled_objects: Iterable[Manifest],
    inference_services: Mapping[tuple[str, str], Manifest],
) -> dict[tuple[str, str], str]:
    """For each scaler that must leave its target alone (by its key): what else scales it.

    A scaler that writes nothing (dryRun, off) is in nobody's way.
    """
    owners: dict[Address, set[str]] = defaultdict(set)
    targets: dict[tuple[str, str], frozenset[Address]] = {}
    for scaler in scalers:
        if scaler.spec is not None and scaler.spec.writes:
            reference = scaler.spec.target_ref
            targets[scaler.key] = addresses(scaler.namespace, reference.kind, reference.name, inference_services)
            for address in targets[scaler.key]:
                owners[address].add(f"MLScaler {scaler.name}")
    for word, manifests in (("HorizontalPodAutoscaler", autoscalers), ("KEDA ScaledObject", scaled_objects)):
        for manifest in manifests:
            namespace, own = name_of(manifest)
            target = section(manifest, "spec", "scaleTargetRef")
            kind, name = text(target, "kind") or "Deployment", text(target, "name")
            for address in addresses(namespace, kind, name, inference_services):
                owners[address].add(f"{word} {own}")
    found: dict[tuple[str, str], str] = {}
    for key, places in targets.items():
        others = set().union(*(owners[address] for address in places)) - {f"MLScaler {key[1]}"}
        if others:
            found[key] = f"{', '.join(sorted(others))} scales the same target: keep one of them"
    return found


def rollout_in_progress(
    service: str, inference_service: Manifest | None, lease: Manifest | None, now: datetime
) -> str | None:
    """Why the scaler must leave `service` alone now; None if it need not. `now` is aware."""
    if lease is not None and is_held(lease, now):
        return f"{parse_lease(lease).holder} rolls out (Lease {lease_name(service)})"
    if inference_service is None:
        return None
    spec = section(inference_service, "spec")
    percent = section(spec, "predictor").get("canaryTrafficPercent")
    if percent is not None and int(percent) < 100:
        return f"a canary is open at {percent} % (spec.predictor.canaryTrafficPercent)"
    if spec.get("canary"):
        return "a canary is open (spec.canary)"
    return None
