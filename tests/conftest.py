"""Airflow reads its home when it is first imported, whoever imports it: so it is set before any test module."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import hypothesis

# How long one example takes says nothing on a machine that does other things as well.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

_HOME = tempfile.TemporaryDirectory(prefix="ml-lifecycle-airflow-")
_PLUGINS = Path(__file__).resolve().parent.parent / "plugins"
(Path(_HOME.name) / "dags").mkdir()

os.environ.update(
    {
        "AIRFLOW_HOME": _HOME.name,
        "AIRFLOW__CORE__DAGS_FOLDER": f"{_HOME.name}/dags",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(_PLUGINS),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS": "False",
        "AIRFLOW__API_AUTH__JWT_SECRET": "only-for-the-tests-of-one-session",
    }
)
