"""Names that Kubernetes, KServe and Knative make of a model's, and their limit. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from ml_lifecycle.kserve.exceptions import RolloutRefusedError
from ml_lifecycle.kserve.standard import canary_name, revision_name

LONGEST = 63
"""Characters of a label's value, of a Service's name, and of one part of a host name."""
_HOST = "the first part of its host"


def check_names(model: str, namespace: str, version: str, *, standard: bool) -> None:
    """RolloutRefusedError names the object whose name is too long by most.

    `standard`: in Standard mode a version that was a canary keeps its own name as the predictor.
    """
    names = _standard(model, namespace, version) if standard else _knative(model, namespace)
    what, name = max(names, key=lambda named: len(named[1]))
    if (over := len(name) - LONGEST) > 0:
        # Each of them holds the model's name once, so what is over is what the name has too much.
        or_else = " or serving.namespace" if what == _HOST else ""
        raise RolloutRefusedError(
            f"model {model!r} in namespace {namespace!r}: {what} would be {name!r}, of {len(name)} characters, and "
            f"{LONGEST} are allowed, so the name may have {max(0, len(model) - over)}: take {over} off the model's name"
            f"{or_else}"
        )


def _standard(model: str, namespace: str, version: str) -> Iterator[tuple[str, str]]:
    for revision in (revision_name(model, ""), revision_name(model, canary_name(version))):
        yield "its pods' label", f"isvc.{revision}"
        yield _HOST, f"{revision}-{namespace}"
    yield _HOST, f"{model}-{namespace}"


def _knative(model: str, namespace: str) -> Iterator[tuple[str, str]]:
    """Longer names of Revisions, Deployments and pods Knative cuts by itself."""
    yield _HOST, f"{model}-{namespace}"
    yield "the Service of the newest revision's tag", f"latest-{revision_name(model, '')}"
