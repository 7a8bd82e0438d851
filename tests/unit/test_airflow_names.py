"""The package runs on Airflow 3.1, the newest that Yandex's managed service offers: it uses only what 3.1 has.

What is used is read from the syntax trees, so that a new import of a name that is not in the list fails here.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

# From Airflow 3.1.8 (task SDK 1.1.8) and the providers of requirements.lock, which install beside it. `airflow.sdk` is
# whole; of the other modules there stands what has been used, and looked up there.
NAMES_OF_3_1: dict[str, str] = {
    "airflow.sdk": """
        Asset AssetAlias AssetAll AssetAny AssetWatcher BaseHook BaseNotifier BaseOperator BaseOperatorLink
        BaseSensorOperator Connection Context DAG DagRunState EdgeModifier Label Metadata ObjectStoragePath Param
        ParamsDict PokeReturnValue TaskGroup TaskInstanceState TriggerRule Variable WeightRule XComArg asset chain
        chain_linear cross_downstream dag get_current_context get_parsing_context literal setup task task_group teardown
    """,
    "airflow.sdk.exceptions": "AirflowRuntimeError ErrorType",
    "airflow.sdk.execution_time.xcom": "XCom",
    "airflow.models.taskinstancekey": "TaskInstanceKey",
    "airflow.triggers.base": "BaseTrigger TriggerEvent",
    "airflow.providers.cncf.kubernetes.hooks.kubernetes": "AsyncKubernetesHook",
    "airflow.providers.cncf.kubernetes.operators.pod": "KubernetesPodOperator",
    "airflow.providers.cncf.kubernetes.triggers.pod": "KubernetesPodTrigger",
    "airflow.providers.common.compat.connection": "get_async_connection",
    "airflow.providers.common.compat.sdk": """
        AirflowException AirflowFailException AirflowNotFoundException AirflowSkipException TaskDeferred conf
    """,
    "airflow.providers.standard.operators.hitl": "HITLOperator",
    "airflow.providers.yandex.hooks.yandex": "YandexCloudBaseHook",
    "airflow.providers.yandex.utils.fields": "get_field_from_extras",
}


def used() -> dict[tuple[str, str], str]:
    """Module and name of each import from Airflow, to where it stands; the name is empty for `import airflow…`."""
    found = {}
    for folder in ("plugins", "dags"):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            place = path.relative_to(REPOSITORY).as_posix()
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("airflow."):
                    found |= {(str(node.module), alias.name): f"{place}:{node.lineno}" for alias in node.names}
                if isinstance(node, ast.Import):
                    modules = [alias.name for alias in node.names if f"{alias.name}.".startswith("airflow.")]
                    found |= {(name, ""): f"{place}:{node.lineno}" for name in modules}
    return found


USED = used()


def test_the_package_uses_airflow():
    assert ("airflow.sdk", "DAG") in USED


@pytest.mark.parametrize(("module", "name"), USED, ids=".".join)
def test_every_name_of_airflow_is_one_of_3_1_and_of_the_installed_one(module, name):
    place = USED[module, name]
    assert name, f"{place}: import names from {module}, not the module: then it shows which are used"
    known = NAMES_OF_3_1.get(module, "").split()
    assert name in known, (
        f"{place}: {module}.{name} is not among the names that Airflow 3.1 is known to have; use another (for many, "
        "airflow.providers.common.compat.sdk has one), or look it up in 3.1 and add it to the list of this test"
    )
    assert hasattr(importlib.import_module(module), name)
