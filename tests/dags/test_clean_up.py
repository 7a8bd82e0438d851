"""clean_up by `dag.test()`: clusters past their time to live go, others stay; a dry run only says so."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from local.kubernetes.stand_in import KubernetesStandIn
from local.yandex.stand_in import YandexStandIn
from ml_lifecycle.dataproc.client import connect
from ml_lifecycle.dataproc.cluster import cluster_labels, create_request
from ml_lifecycle.settings import Cluster

pytestmark = pytest.mark.slow


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[YandexStandIn]:
    with YandexStandIn(tmp_path, creation_seconds=0.1, deletion_seconds=0.1) as stand_in:
        for name, value in stand_in.environment().items():
            monkeypatch.setenv(name, value)
        yield stand_in


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesStandIn]:
    with KubernetesStandIn(tmp_path / "kubernetes") as stand_in:
        document = {"conn_type": "kubernetes", "extra": {"kube_config_path": str(stand_in.state / "kubeconfig")}}
        monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", json.dumps(document))
        yield stand_in


async def create(name: str, expires_at: float) -> None:
    settings = Cluster(subnet_id="subnet", service_account_id="account")
    labels = cluster_labels("train_model", "crashed", expires_at, {"model": "digits"})
    async with connect("yandexcloud_default") as client:
        started = await client.create_cluster(create_request(settings, name, labels, "laptop"))
        while not (await client.operation(started.operation_id)).done:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


def alive(cloud: YandexStandIn) -> set[str]:
    return {cluster["name"] for cluster in cloud.history() if not cluster["deleted"]}


def test_expired_clusters_go_and_others_stay(
    cloud: YandexStandIn,
    cluster: KubernetesStandIn,
    run_dag: Any,
    states: Any,
    xcom: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    variable = {"defaults": {"data_lake": tmp_path.as_uri(), "cluster": {"folder_id": "laptop"}}}
    monkeypatch.setenv("AIRFLOW_VAR_ML_LIFECYCLE", json.dumps(variable))
    asyncio.run(create("ml-expired", time.time() - 1))
    asyncio.run(create("ml-young", time.time() + 3600))

    said = run_dag("clean_up.py", "clean_up", {"dry_run": True})
    assert xcom(said, "sweep_clusters", map_index=0)["expired"] == ["ml-expired"]
    assert alive(cloud) == {"ml-expired", "ml-young"}

    swept = run_dag("clean_up.py", "clean_up", {})
    assert set(states(swept).values()) == {"success"}
    assert alive(cloud) == {"ml-young"}
    assert xcom(swept, "sweep_clusters", map_index=0)["deleted"] == ["ml-expired"]
