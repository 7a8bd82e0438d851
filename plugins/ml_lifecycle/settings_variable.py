"""Reads the settings from where Airflow keeps them; only ever called while a task runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_lifecycle.exceptions import SettingsError
from ml_lifecycle.settings import Settings, parse_settings

VARIABLE = "ml_lifecycle"


def read_settings(model: str, overrides: Mapping[str, Any] | None = None) -> Settings:
    """The settings of `model` for this run; `overrides` maps dotted paths to values, None meaning "not given"."""
    return parse_settings(read_variable(), model, overrides)


def read_variable() -> Mapping[str, Any]:
    """The Variable's document; SettingsError where it is missing or no JSON object."""
    from airflow.sdk import Variable

    document = Variable.get(VARIABLE, default=None, deserialize_json=True)
    if not isinstance(document, Mapping):
        raise SettingsError(
            f"Airflow Variable {VARIABLE!r} is missing or no JSON object: set it, or AIRFLOW_VAR_ML_LIFECYCLE, to "
            '{"defaults": {"data_lake": "s3://bucket/prefix"}, "models": {}}'
        )
    return document
