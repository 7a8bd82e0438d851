"""What the task needs of its worker, and what who starts it may not do."""

import importlib.util

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from ml_lifecycle.scaling.operators import ScaleReplicasOperator


def test_a_worker_without_torch_is_told_what_to_install(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else found(name))
    with pytest.raises(AirflowFailException, match=r"install requirements-forecast\.txt"):
        ScaleReplicasOperator(task_id="scale").execute({})


LAKE = "s3://bucket/lake"


@pytest.mark.parametrize(
    ("pictures", "below"),
    [
        ("file:///etc", LAKE),
        ("s3://bucket/lakes", LAKE),
        (f"{LAKE}/../elsewhere", LAKE),
        (f"{LAKE}/scalers/./../..", LAKE),
        (f"{LAKE}/scalers", ""),
    ],
)
def test_pictures_are_written_below_the_data_lake_alone(pictures, below):
    operator = ScaleReplicasOperator(task_id="scale", pictures=pictures, pictures_below=below)
    with pytest.raises(AirflowFailException, match="must lie below the data lake"):
        operator.execute({})


@pytest.mark.parametrize("pictures", ["", f"{LAKE}/scalers", f"{LAKE}/", LAKE])
def test_what_lies_below_it_is_taken(pictures):
    ScaleReplicasOperator(task_id="scale", pictures=pictures, pictures_below=LAKE)._check_pictures()
