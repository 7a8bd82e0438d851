"""Reads API objects that may be odd: a field of another shape than its schema says is taken for one left out. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Manifest = Mapping[str, Any]


def section(manifest: Any, *path: str) -> Manifest:
    """The mapping at `path`; empty where there is none."""
    for key in path:
        manifest = manifest.get(key) if isinstance(manifest, Mapping) else None
    return manifest if isinstance(manifest, Mapping) else {}


def sections(manifest: Any, *path: str) -> list[Manifest]:
    """The mappings of the list at `path`; whatever else stands in it is left out."""
    found = section(manifest, *path[:-1]).get(path[-1])
    return [item for item in found if isinstance(item, Mapping)] if isinstance(found, list | tuple) else []


def text(manifest: Any, *path: str) -> str:
    """The text at `path`; empty where there is none."""
    found = section(manifest, *path[:-1]).get(path[-1])
    return found if isinstance(found, str) else ""


def name_of(manifest: Any) -> tuple[str, str]:
    """Namespace and name; empty where there is none."""
    return text(manifest, "metadata", "namespace"), text(manifest, "metadata", "name")
