"""A pod's volumes as folders, and the paths and variables of its containers rewritten to them."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from local.kubernetes.controllers.exceptions import VolumeUnsupportedError

Object = Mapping[str, Any]
Find = Callable[[str, str], Object | None]
"""Kind (`ConfigMap` or `Secret`) and name to the object of the pod's namespace."""

_FIELDS: dict[str, Callable[[Object], str]] = {
    "metadata.name": lambda pod: pod["metadata"]["name"],
    "metadata.namespace": lambda pod: pod["metadata"]["namespace"],
    "metadata.uid": lambda pod: pod["metadata"]["uid"],
    "spec.nodeName": lambda _: "laptop",
    "spec.serviceAccountName": lambda pod: pod["spec"].get("serviceAccountName", "default"),
    "status.hostIP": lambda _: "127.0.0.1",
    "status.podIP": lambda _: "127.0.0.1",
}


def prepare_volumes(pod: Object, folder: Path, find: Find) -> dict[str, Path]:
    """Make the folder of each volume; VolumeUnsupportedError names one that cannot be made (yet)."""
    folders = {}
    for volume in pod["spec"].get("volumes") or ():
        target = folder / "volumes" / volume["name"]
        target.mkdir(parents=True, exist_ok=True)
        _fill(volume, target, find)
        folders[volume["name"]] = target
    return folders


def _fill(volume: Object, target: Path, find: Find) -> None:
    if "emptyDir" in volume:
        return
    if source := volume.get("configMap"):
        files = _config_map_files(_required(find, "ConfigMap", source["name"], volume))
    elif source := volume.get("secret"):
        files = _secret_files(_required(find, "Secret", source["secretName"], volume))
    else:
        kinds = ", ".join(sorted(set(volume) - {"name"})) or "none"
        raise VolumeUnsupportedError(
            f"volume {volume['name']!r} of kind {kinds}: the laptop has emptyDir, configMap and secret"
        )
    paths = {item["key"]: item["path"] for item in source.get("items") or ()}
    for key, content in files.items():
        if not paths or key in paths:
            path = target / paths.get(key, key)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def _required(find: Find, kind: str, name: str, volume: Object) -> Object:
    found = find(kind, name)
    if found is None:
        raise VolumeUnsupportedError(f"volume {volume['name']!r}: {kind} {name!r} does not exist")
    return found


def _config_map_files(config_map: Object) -> dict[str, bytes]:
    text = {key: value.encode() for key, value in (config_map.get("data") or {}).items()}
    return text | {key: base64.b64decode(value) for key, value in (config_map.get("binaryData") or {}).items()}


def _secret_files(secret: Object) -> dict[str, bytes]:
    coded = {key: base64.b64decode(value) for key, value in (secret.get("data") or {}).items()}
    return coded | {key: value.encode() for key, value in (secret.get("stringData") or {}).items()}


def mounts_of(container: Object, volumes: Mapping[str, Path]) -> dict[str, Path]:
    """Mount path to folder."""
    found = {}
    for mount in container.get("volumeMounts") or ():
        if mount["name"] not in volumes:
            raise VolumeUnsupportedError(
                f"container {container['name']!r} mounts the volume {mount['name']!r}, which the pod does not have"
            )
        found[mount["mountPath"].rstrip("/") or "/"] = volumes[mount["name"]] / mount.get("subPath", "")
    return found


def rewrite(text: str, mounts: Mapping[str, Path]) -> str:
    """`text` with every mount path in it replaced by its folder; a path is no part of a longer name."""
    if not mounts:
        return text
    paths = "|".join(re.escape(path) for path in sorted(mounts, key=len, reverse=True))
    return re.sub(rf"(?<![\w./-])({paths})(?![\w-]|\.\w)", lambda match: str(mounts[match[1]]), text)


def environment_of(container: Object, pod: Object, mounts: Mapping[str, Path], find: Find) -> dict[str, str]:
    """The container's variables, with references resolved and mount paths rewritten."""
    variables: dict[str, str] = {}
    for source in container.get("envFrom") or ():
        prefix = source.get("prefix", "")
        for key, content in _source_files(source, find).items():
            variables[prefix + key] = content.decode()
    for item in container.get("env") or ():
        value = item.get("value", "") if "valueFrom" not in item else _value_from(item, pod, find)
        variables[item["name"]] = rewrite(expand(value, variables), mounts)
    return variables


def _source_files(source: Object, find: Find) -> dict[str, bytes]:
    for key, kind, files in (("configMapRef", "ConfigMap", _config_map_files), ("secretRef", "Secret", _secret_files)):
        if reference := source.get(key):
            found = find(kind, reference["name"])
            if found is None and not reference.get("optional"):
                raise VolumeUnsupportedError(f"envFrom: {kind} {reference['name']!r} does not exist")
            return files(found) if found else {}
    return {}


def _value_from(item: Object, pod: Object, find: Find) -> str:
    source = item["valueFrom"]
    if path := (source.get("fieldRef") or {}).get("fieldPath"):
        return _field(item["name"], path, pod)
    for key, kind, files in (
        ("configMapKeyRef", "ConfigMap", _config_map_files),
        ("secretKeyRef", "Secret", _secret_files),
    ):
        if reference := source.get(key):
            content = files(find(kind, reference["name"]) or {}).get(reference["key"])
            if content is None and not reference.get("optional"):
                raise VolumeUnsupportedError(
                    f"variable {item['name']}: {kind} {reference['name']!r} has no key {reference['key']!r}"
                )
            return (content or b"").decode()
    raise VolumeUnsupportedError(
        f"variable {item['name']}: the laptop knows fieldRef, configMapKeyRef and secretKeyRef, not {sorted(source)}"
    )


def _field(name: str, path: str, pod: Object) -> str:
    if match := re.fullmatch(r"metadata\.(labels|annotations)\['([^']+)'\]", path):
        return str((pod["metadata"].get(match[1]) or {}).get(match[2], ""))
    if path not in _FIELDS:
        raise VolumeUnsupportedError(f"variable {name}: the laptop does not know the field {path!r}")
    return _FIELDS[path](pod)


def expand(text: str, variables: Mapping[str, str]) -> str:
    """`text` with `$(NAME)` replaced where NAME is known, as Kubernetes does in args, command and env."""
    return re.sub(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)", lambda match: variables.get(match[1], match[0]), text)


def command_of(
    container: Object, image: Object, variables: Mapping[str, str], mounts: Mapping[str, Path]
) -> Sequence[str]:
    """The local command: the pod's `command` takes the entrypoint's place, `python` means the image's python."""
    entrypoint = list(image["entrypoint"])
    own = [rewrite(expand(part, variables), mounts) for part in container.get("command") or ()]
    arguments = [rewrite(expand(part, variables), mounts) for part in container.get("args") or ()]
    if own and own[0] in ("python", "python3"):
        own[0] = entrypoint[0]
    if not own and not container.get("args"):
        arguments = list(image.get("arguments") or ())
    return [*(own or entrypoint), *arguments]
