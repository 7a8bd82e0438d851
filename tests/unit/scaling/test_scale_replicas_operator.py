"""What the task needs of its worker."""

import importlib.util

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from ml_lifecycle.scaling.operators import ScaleReplicasOperator


def test_a_worker_without_torch_is_told_what_to_install(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else found(name))
    with pytest.raises(AirflowFailException, match=r"install requirements-forecast\.txt"):
        ScaleReplicasOperator(task_id="scale").execute({})
