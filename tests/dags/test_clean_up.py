"""clean_up by `dag.test()`: clusters past their time to live go, abandoned rollouts are closed; others stay."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from local.kubernetes.stand_in import KubernetesStandIn
from local.yandex.stand_in import YandexStandIn
from ml_lifecycle.dataproc.client import connect
from ml_lifecycle.dataproc.cluster import cluster_labels, create_request
from ml_lifecycle.kserve.client import RolloutClient
from ml_lifecycle.kserve.found import Absent
from ml_lifecycle.kserve.predictor import predictor
from ml_lifecycle.kserve.request import RolloutRequest
from ml_lifecycle.kserve.rollout import opened
from ml_lifecycle.kubernetes import leases
from ml_lifecycle.kubernetes.client import KubernetesClient
from ml_lifecycle.kubernetes.resource import LEASE
from ml_lifecycle.settings import Cluster, parse_settings
from ml_lifecycle.tracking import rollout_aliases
from ml_lifecycle.tracking.client import TrackingClient

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
    ended = states(swept)
    assert swept.state == "success"
    assert ended["sweep_clusters[0]"] == "success"
    assert (ended["sweep_rollouts[0]"], ended["follow_rollouts[0]"]) == ("skipped", "skipped"), "none was abandoned"
    assert alive(cloud) == {"ml-young"}
    assert xcom(swept, "sweep_clusters", map_index=0)["deleted"] == ["ml-expired"]


@pytest.fixture
def tracking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrackingClient:
    """MLflow's registry with a champion that was never live."""
    import mlflow

    client = TrackingClient(f"sqlite:///{tmp_path}/mlflow.db")
    store = mlflow.MlflowClient(client.uri)
    store.create_registered_model("digits")
    store.create_model_version("digits", source="file:///nowhere", run_id=None)
    client.set_alias("digits", "champion", "1")

    @contextmanager
    def connect(connection_id: str) -> Iterator[TrackingClient]:
        assert connection_id == "mlflow_default"
        yield client

    monkeypatch.setattr(rollout_aliases, "connect", connect)
    return client


async def abandon_rollout(cluster: KubernetesStandIn, lake: str) -> None:
    """A first version's rollout whose run died long ago, before it made anything."""
    settings = parse_settings({"defaults": {"data_lake": lake}}, "digits")
    request = RolloutRequest.of(settings, version="1")
    candidate = predictor(request.serving, request.storage_uri, "runtime")
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    async with KubernetesClient.from_kubeconfig(cluster.kubeconfig) as kubernetes:
        client = RolloutClient(kubernetes, "roll_out_model/died", lambda: long_ago)
        name = leases.lease_name("digits")
        await leases.acquire(kubernetes, request.namespace, name, client.holder, 600, long_ago, {})
        await client.save(opened(request, client.holder, candidate, Absent(), client.now()))


def test_aliases_follow_a_rollout_that_the_sweep_closed(
    cloud: YandexStandIn,
    cluster: KubernetesStandIn,
    tracking: TrackingClient,
    run_dag: Any,
    states: Any,
    tmp_path: Path,
) -> None:
    asyncio.run(abandon_rollout(cluster, tmp_path.as_uri()))

    said = run_dag("clean_up.py", "clean_up", {"dry_run": True})
    assert states(said)["follow_rollouts[0]"] == "skipped"
    assert tracking.find_alias("digits", "champion") is not None

    swept = run_dag("clean_up.py", "clean_up", {})
    ended = states(swept)
    assert (ended["sweep_rollouts[0]"], ended["follow_rollouts[0]"]) == ("success", "success")
    assert tracking.find_alias("digits", "champion") is None
    assert tracking.version("digits", "1").tags["rollout"] == "rolled_back"
    lease = cluster.store.find(LEASE, "ml-lifecycle-digits", "models")
    assert lease is not None
    assert not lease["spec"].get("holderIdentity")
