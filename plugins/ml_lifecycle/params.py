"""DAG params: flat, each null unless given, with a schema that is static; and the way from them to settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from airflow.sdk import Param

from ml_lifecycle.exceptions import ParamMissingError, RefusalError


def optional(kind: str, description: str, **schema: Any) -> Param:
    """A param of JSON type `kind` that overrides a setting for one run when it is given."""
    return Param(None, type=["null", kind], description=description, **schema)


# Python's `$` lets a line break pass at the end; what stands behind it here does not, and means nothing to a browser.
_END = r"$(?!\n)"
NAMESPACE = rf"^[a-z0-9]([-a-z0-9]{{0,61}}[a-z0-9])?{_END}"


def optional_version(description: str) -> Param:
    """A param that names a registered version by its number."""
    return optional("string", description, pattern=rf"^[1-9][0-9]{{0,9}}{_END}")


def overrides(params: Mapping[str, Any], paths: Mapping[str, str]) -> dict[str, Any]:
    """Dotted settings path to value, for the params that were given; `paths` maps param to path."""
    return {path: params[name] for name, path in paths.items() if params.get(name) is not None}


def required(params: Mapping[str, Any], name: str) -> str:
    """The value of a param that has no default; ParamMissingError where it was not given."""
    if not params.get(name):
        raise ParamMissingError(f"the param {name!r} is missing: this DAG does nothing without it")
    return str(params[name])


@contextmanager
def refusing() -> Iterator[None]:
    """What is refused inside fails the task at once; all else, as a service that does not answer, is tried again."""
    from airflow.providers.common.compat.sdk import AirflowFailException

    try:
        yield
    except RefusalError as error:
        raise AirflowFailException(str(error)) from error
