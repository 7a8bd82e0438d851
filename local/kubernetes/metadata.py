"""The rules of `metadata`: names, labels, what a client may not set. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from local.kubernetes.kinds import Definition
from local.kubernetes.schema import Problem
from ml_lifecycle.kubernetes.exceptions import InvalidError

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_NAMES = {
    "subdomain": (
        re.compile(rf"{_LABEL}(\.{_LABEL})*"),
        253,
        (
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must "
            "start and end with an alphanumeric character"
        ),
    ),
    "label": (
        re.compile(_LABEL),
        63,
        (
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and "
            "end with an alphanumeric character"
        ),
    ),
    "service": (
        re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?"),
        63,
        (
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic "
            "character, and end with an alphanumeric character"
        ),
    ),
}
_LABEL_KEY = re.compile(rf"({_LABEL}(\.{_LABEL})*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_ANNOTATIONS_LIMIT = 256 * 1024
_CONFIG_LIMIT = 1024 * 1024
# What a client's update cannot change.
_KEPT = (
    "name",
    "namespace",
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "resourceVersion",
    "generateName",
    "managedFields",
)
_SERVERS = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink")


def check_new(manifest: dict[str, Any], definition: Definition) -> None:
    """Refuses a missing or malformed name, and drops what only the server sets."""
    metadata = manifest["metadata"]
    name = metadata.get("name")
    if not name:
        problem = ("metadata.name", "Required value", "name or generateName is required")
        raise invalid(definition, "", [problem])
    pattern, limit, explanation = _NAMES[definition.names]
    if len(name) > limit:
        raise invalid(
            definition, name, [("metadata.name", "Invalid value", f'"{name}": must be no more than {limit} characters')]
        )
    if not pattern.fullmatch(name):
        raise invalid(definition, name, [("metadata.name", "Invalid value", f'"{name}": {explanation}')])
    for field in _SERVERS:
        metadata.pop(field, None)


def check(manifest: Mapping[str, Any], definition: Definition) -> None:
    """Refuses malformed labels and annotations, and what is too large."""
    problems = [*_labels(manifest["metadata"]), *_annotations(manifest["metadata"]), *_size(manifest, definition)]
    if problems:
        raise invalid(definition, manifest["metadata"]["name"], problems)


def _labels(metadata: Mapping[str, Any]) -> Iterator[Problem]:
    for key, value in (metadata.get("labels") or {}).items():
        if not _LABEL_KEY.fullmatch(key):
            yield (
                "metadata.labels",
                "Invalid value",
                f"\"{key}\": name part must consist of alphanumeric characters, '-', '_' or '.'",
            )
        if not isinstance(value, str) or not _LABEL_VALUE.fullmatch(value):
            yield (
                "metadata.labels",
                "Invalid value",
                (
                    f'"{value}": a valid label must be empty or consist of at most 63 alphanumeric characters, '
                    "'-', '_' or '.', and must start and end with an alphanumeric character"
                ),
            )


def _annotations(metadata: Mapping[str, Any]) -> Iterator[Problem]:
    size = 0
    for key, value in (metadata.get("annotations") or {}).items():
        if not _LABEL_KEY.fullmatch(key.lower()):
            yield (
                "metadata.annotations",
                "Invalid value",
                f"\"{key}\": name part must consist of alphanumeric characters, '-', '_' or '.'",
            )
        if not isinstance(value, str):
            yield "metadata.annotations", "Invalid value", f"{value!r}: must be a string"
        size += len(key) + len(str(value))
    if size > _ANNOTATIONS_LIMIT:
        yield "metadata.annotations", "Too long", f"may not be more than {_ANNOTATIONS_LIMIT} bytes"


def _size(manifest: Mapping[str, Any], definition: Definition) -> Iterator[Problem]:
    if definition.resource.plural == "configmaps":
        size = sum(
            len(str(value)) for field in ("data", "binaryData") for value in (manifest.get(field) or {}).values()
        )
        if size > _CONFIG_LIMIT:
            yield "[]", "Too long", f"may not be more than {_CONFIG_LIMIT} bytes"


def updated(old: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata after an update: what the client asks for, and the server's fields as they were."""
    free = {key: value for key, value in asked.items() if key not in _KEPT}
    return free | {key: old[key] for key in _KEPT if key in old}


def invalid(definition: Definition, name: str, problems: Iterable[Problem]) -> InvalidError:
    """422, as the API words it."""
    problems = list(problems)
    texts = [": ".join(filter(None, problem)) for problem in problems]
    text = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    causes = [
        {
            "field": path,
            "reason": f"FieldValue{kind.split()[0]}",
            "message": ": ".join(filter(None, (kind, explanation))),
        }
        for path, kind, explanation in problems
    ]
    return InvalidError(
        f'{definition.qualified_kind} "{name}" is invalid: {text}',
        details={"name": name, "group": definition.resource.group, "kind": definition.resource.kind, "causes": causes},
    )
