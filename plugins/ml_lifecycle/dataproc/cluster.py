"""A cluster, before it exists: its name, its labels, the request that creates it, and what is refused.

Requests are proto3 JSON of `yandex.cloud.dataproc.v1.CreateClusterRequest` (snake_case keys, durations as `"60s"`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ml_lifecycle.dataproc.names import LABEL_KEY, LABEL_VALUE, RESOURCE_NAME, digest, label_value
from ml_lifecycle.secrets import find_secrets
from ml_lifecycle.settings import Cluster as ClusterSettings
from ml_lifecycle.settings import Hosts

MANAGED_BY = "managed-by"
EXPIRES_AT = "expires-at"
OWNER = "ml-lifecycle"
# A cluster of ours whose label cannot be read is left alone this long, seconds.
UNREADABLE_EXPIRY_GRACE = 24 * 3600
REMEDY = "everybody who may see the cluster can read it; let hosts fetch it from Lockbox with their own token"
CONSOLE = "https://console.yandex.cloud/folders"


class ClusterStatus(StrEnum):
    """`Cluster.Status` of the API."""

    STATUS_UNKNOWN = "STATUS_UNKNOWN"
    CREATING = "CREATING"
    RUNNING = "RUNNING"
    ERROR = "ERROR"
    STOPPING = "STOPPING"
    STOPPED = "STOPPED"
    STARTING = "STARTING"

    @property
    def coming_up(self) -> bool:
        """Whether it runs or may yet run without anybody's help."""
        return self not in (ClusterStatus.ERROR, ClusterStatus.STOPPING, ClusterStatus.STOPPED)


@dataclass(frozen=True)
class Cluster:
    """A cluster as the API describes it; `created_at` in unix seconds."""

    id: str
    name: str
    folder_id: str
    status: ClusterStatus
    created_at: float
    labels: Mapping[str, str] = field(default_factory=dict)
    deletion_protection: bool = False

    @property
    def is_ours(self) -> bool:
        """Whether this package made it."""
        return self.labels.get(MANAGED_BY) == OWNER

    @property
    def expires_at(self) -> float:
        """When its time to live is over; without a readable label, a day after its creation."""
        label = self.labels.get(EXPIRES_AT, "")
        return float(label) if label.isdecimal() else self.created_at + UNREADABLE_EXPIRY_GRACE


@dataclass(frozen=True)
class ResourcePreset:
    """A kind of host; the API does not say whether it carries a GPU."""

    id: str
    zone_ids: tuple[str, ...]
    cores: int
    memory_bytes: int


def cluster_name(model: str, dag_id: str, run_id: str) -> str:
    """`ml-<model>-<digest of the DAG run>`: the same for every try of one run, unlike for any other run."""
    return f"ml-{model}-{digest(dag_id, run_id)}"


def cluster_labels(dag_id: str, run_id: str, expires_at: float, extra: Mapping[str, str]) -> dict[str, str]:
    """Who made the cluster, and when it may be deleted (unix seconds); `extra` values are sanitised."""
    return {key: label_value(value) for key, value in extra.items()} | {
        MANAGED_BY: OWNER,
        "dag": label_value(dag_id),
        "run": label_value(run_id),
        EXPIRES_AT: str(int(expires_at)),
    }


def same_run(cluster: Cluster, labels: Mapping[str, str]) -> bool:
    """Whether `cluster` was made by the DAG run that carries `labels`."""
    return cluster.is_ours and all(cluster.labels.get(key) == labels.get(key) for key in ("dag", "run"))


def problems(
    settings: ClusterSettings,
    name: str,
    labels: Mapping[str, str],
    folder_id: str | None,
    presets: Iterable[ResourcePreset],
) -> list[str]:
    """Everything that would make the creation fail or cost money for nothing; empty if it may be created."""
    found = []
    if not folder_id:
        found.append("cluster.folder_id: not given, and the connection has no folder_id either")
    if not settings.subnet_id:
        found.append("cluster.subnet_id: not given; name a subnet of the zone that has a NAT gateway")
    if not settings.service_account_id:
        found.append(
            "cluster.service_account_id: not given; name an account with dataproc.agent and dataproc.provisioner"
        )
    if not RESOURCE_NAME.fullmatch(name):
        found.append(f"cluster name {name!r}: must match {RESOURCE_NAME.pattern}")
    for key, value in labels.items():
        if not LABEL_KEY.fullmatch(key) or not LABEL_VALUE.fullmatch(value):
            found.append(f"label {key!r}={value!r}: must match {LABEL_KEY.pattern} and {LABEL_VALUE.pattern}")
    shown = {
        "properties": settings.properties,
        "initialization_actions": settings.model_dump()["initialization_actions"],
    }
    found.extend(f"{secret}: {REMEDY}" for secret in find_secrets(shown, "cluster"))
    known = {preset.id: preset for preset in presets}
    for role, hosts in _host_groups(settings):
        found.extend(_preset_problems(role, hosts, settings.zone, known))
    return found


def _host_groups(settings: ClusterSettings) -> list[tuple[str, Hosts]]:
    extra = [(f"extra_compute[{index}].hosts", group.hosts) for index, group in enumerate(settings.extra_compute)]
    return [("master", settings.master), ("compute", settings.compute), *extra]


def _preset_problems(role: str, hosts: Hosts, zone: str, known: Mapping[str, ResourcePreset]) -> list[str]:
    where = f"cluster.{role}.preset = {hosts.preset!r}"
    if hosts.preset not in known:
        return [f"{where}: no such resource preset; available in {zone}: {_available(known, zone)}"]
    if zone not in known[hosts.preset].zone_ids:
        return [f"{where}: not offered in zone {zone}; available there: {_available(known, zone)}"]
    return []


def _available(known: Mapping[str, ResourcePreset], zone: str) -> str:
    return ", ".join(sorted(preset.id for preset in known.values() if zone in preset.zone_ids)) or "none"


def create_request(settings: ClusterSettings, name: str, labels: Mapping[str, str], folder_id: str) -> dict[str, Any]:
    """The `CreateClusterRequest` of these settings, in proto3 JSON."""
    hadoop: dict[str, Any] = {
        "services": list(settings.services),
        "properties": dict(settings.properties),
        "ssh_public_keys": list(settings.ssh_public_keys),
        "oslogin_enabled": not settings.ssh_public_keys,
        "initialization_actions": [action.model_dump() for action in settings.initialization_actions],
    }
    request: dict[str, Any] = {
        "folder_id": folder_id,
        "name": name,
        "description": "made by ml-lifecycle; may be deleted once the label expires-at has passed",
        "labels": dict(labels),
        "zone_id": settings.zone,
        "service_account_id": settings.service_account_id,
        "bucket": settings.bucket or "",
        "security_group_ids": list(settings.security_group_ids),
        "deletion_protection": settings.deletion_protection,
        "log_group_id": settings.log_group_id or "",
        "autoscaling_service_account_id": settings.autoscaling_service_account_id or "",
        "config_spec": {
            "version_id": settings.image_version,
            "hadoop": hadoop,
            "subclusters_spec": _subclusters(settings),
        },
    }
    return request


def _subclusters(settings: ClusterSettings) -> list[dict[str, Any]]:
    found = [
        _subcluster("master", "MASTERNODE", settings.master, 1, settings.subnet_id),
        _subcluster("compute", "COMPUTENODE", settings.compute, settings.compute_hosts, settings.subnet_id)
        | _autoscaling(settings, settings.compute_hosts, settings.compute_max_hosts, preemptible=settings.preemptible),
    ]
    for index, group in enumerate(settings.extra_compute):
        name = group.name or f"compute-{index + 2}"
        found.append(
            _subcluster(name, "COMPUTENODE", group.hosts, group.count, settings.subnet_id)
            | _autoscaling(settings, group.count, group.max_count, preemptible=group.preemptible)
        )
    return found


def _subcluster(name: str, role: str, hosts: Hosts, count: int, subnet_id: str | None) -> dict[str, Any]:
    return {
        "name": name,
        "role": role,
        "resources": {
            "resource_preset_id": hosts.preset,
            "disk_type_id": hosts.disk_type,
            "disk_size": hosts.disk_gib << 30,
        },
        "subnet_id": subnet_id,
        "hosts_count": count,
    }


def _autoscaling(settings: ClusterSettings, count: int, most: int | None, *, preemptible: bool) -> dict[str, Any]:
    """The API takes `preemptible` in the autoscaling part alone: preemptible hosts of a fixed number need one too."""
    if most is None and not preemptible:
        return {}
    scaling = settings.autoscaling
    return {
        "autoscaling_config": {
            "max_hosts_count": most or count,
            "preemptible": preemptible,
            "measurement_duration": f"{scaling.measurement_seconds}s",
            "warmup_duration": f"{scaling.warmup_seconds}s",
            "stabilization_duration": f"{scaling.stabilization_seconds}s",
            "cpu_utilization_target": scaling.cpu_utilization_target,
            "decommission_timeout": scaling.decommission_seconds,
        }
    }


def console_link(folder_id: str, cluster_id: str) -> str:
    """The cluster's page in Yandex's console."""
    return f"{CONSOLE}/{folder_id}/data-proc/cluster/{cluster_id}"
