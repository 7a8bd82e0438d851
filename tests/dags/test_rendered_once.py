"""What people give as a param is text: no template within it is rendered."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
HOSTILE = "{{ 7 * 191 }}{% set x = 1 %}{{ params.other }}{{ var.value.secret }}"
RENDERED = "1337"


@pytest.mark.parametrize("name", ["steer_rollout", "roll_back_model", "scale_replicas", "clean_up"])
def test_a_template_in_a_param_is_not_rendered(name: str, airflow_home: Path) -> None:
    """Of every operator that names params in its fields; what tasks in Python are given, Airflow renders nothing of."""
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(dag_folder=REPOSITORY / "dags" / f"{name}.py", bundle_name="dags-folder")
    assert not bag.import_errors
    dag = bag.dags[name]
    context: Any = {
        "params": {**dict.fromkeys(dag.params, HOSTILE), "nested": [{"deep": HOSTILE}], "other": RENDERED},
        "run_id": HOSTILE,
        "var": SimpleNamespace(json={}, value=SimpleNamespace(secret=RENDERED)),
        "dag": dag,
    }
    seen = []
    for task in dag.tasks:
        for field in getattr(task, "template_fields", ()):
            value = getattr(task, field, None)
            if isinstance(value, str | list | tuple | dict) and "params." in str(value):
                seen.append(str(task.render_template(value, context, dag.get_template_env())))
    assert seen
    assert not [text for text in seen if RENDERED in text]
    assert any("7 * 191" in text for text in seen)


def test_what_another_task_returned_is_not_rendered(airflow_home: Path) -> None:
    """A value within lists and objects, as it comes through XCom."""
    from airflow.sdk import DAG, BaseOperator

    class Given(BaseOperator):
        template_fields = ("value",)

        def __init__(self, *, value: Any, **options: Any) -> None:
            super().__init__(**options)
            self.value = value

    with DAG("rendered_once", schedule=None):
        task = Given(task_id="given", value="{{ ti.xcom_pull('before') }}")
    context: Any = {"ti": SimpleNamespace(xcom_pull=lambda _: [{"reason": HOSTILE}])}
    task.render_template_fields(context)
    assert RENDERED not in str(task.value)
    assert "7 * 191" in str(task.value)
