"""The kinds that the stand-in serves: those built in, and those that CustomResourceDefinitions add."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from local.kubernetes.schema import Schema
from local.kubernetes.tables import Column, columns_of
from ml_lifecycle.kubernetes.resource import ResourceKind

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Scale:
    """Where the scale subresource finds its numbers; each a path of field names."""

    spec_replicas: tuple[str, ...]
    status_replicas: tuple[str, ...]
    selector: tuple[str, ...] = ()


@dataclass(frozen=True)
class Definition:
    """One version of a kind, and what the API does with its objects."""

    resource: ResourceKind
    schema: Schema | None = None
    status: bool = False
    scale: Scale | None = None
    custom: bool = False
    short_names: tuple[str, ...] = ()
    names: str = "subdomain"
    must_name_version: bool = False
    columns: tuple[Column, ...] = columns_of(None)

    @property
    def key(self) -> tuple[str, str]:
        """What the store files objects of all versions under."""
        return self.resource.group, self.resource.plural

    @property
    def qualified_kind(self) -> str:
        """As the API's messages name it."""
        return f"{self.resource.kind}.{self.resource.group}" if self.resource.group else self.resource.kind


def built_in() -> Iterator[Definition]:
    """The kinds that every cluster has, as far as the package uses them."""
    for entry in yaml.safe_load((HERE / "built_in_kinds.yaml").read_text()):
        yield Definition(
            resource=ResourceKind(
                entry.get("group", ""), entry["version"], entry["kind"], entry["plural"], entry.get("namespaced", True)
            ),
            schema=_open(entry.get("schema", {})),
            status=entry.get("status", False),
            scale=_scale(entry.get("scale")),
            short_names=tuple(entry.get("shortNames", ())),
            names=entry.get("names", "subdomain"),
            must_name_version=entry.get("mustNameVersion", False),
            columns=columns_of(entry.get("columns")),
        )


def _open(schema: Mapping[str, Any]) -> Schema:
    """A built-in schema names only what the package sets; the rest is kept as it comes."""
    opened = dict(schema)
    if "properties" in schema or schema.get("type") == "object":
        opened["properties"] = {key: _open(value) for key, value in schema.get("properties", {}).items()}
        if "additionalProperties" not in schema:
            opened["x-kubernetes-preserve-unknown-fields"] = True
    if "items" in schema:
        opened["items"] = _open(schema["items"])
    return opened


def custom_resource_definitions() -> Iterator[dict[str, Any]]:
    """The small CRDs of KServe, Knative and KEDA that the stand-in brings along."""
    for path in sorted((HERE / "crds").glob("*.yaml")):
        yield from filter(None, yaml.safe_load_all(path.read_text()))


def defined_by(manifest: Mapping[str, Any]) -> Iterator[Definition]:
    """The kinds that a CustomResourceDefinition adds: one for each served version."""
    spec = manifest["spec"]
    names = spec["names"]
    for version in spec["versions"]:
        if not version.get("served", True):
            continue
        subresources = version.get("subresources") or {}
        yield Definition(
            resource=ResourceKind(
                spec["group"], version["name"], names["kind"], names["plural"], spec.get("scope") == "Namespaced"
            ),
            schema=(version.get("schema") or {}).get("openAPIV3Schema"),
            status="status" in subresources,
            scale=_scale(subresources.get("scale")),
            custom=True,
            short_names=tuple(names.get("shortNames", ())),
            must_name_version=True,
            columns=columns_of(version.get("additionalPrinterColumns")),
        )


def _scale(entry: Mapping[str, str] | None) -> Scale | None:
    if entry is None:
        return None
    return Scale(
        *(_path(entry.get(key, "")) for key in ("specReplicasPath", "statusReplicasPath", "labelSelectorPath"))
    )


def _path(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(".")))
