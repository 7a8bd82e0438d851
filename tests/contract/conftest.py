"""The same tests, against the stand-in or against a real API server.

Real: ML_LIFECYCLE_CONTRACT_KUBECONFIG names a kubeconfig, or KUBEBUILDER_ASSETS a folder with etcd and kube-apiserver.
"""

import os
import uuid
from pathlib import Path

import pytest
import yaml
from kserve_platforms import Cluster, Local
from real_api_server import api_server

from local.kubernetes.stand_in import KubernetesStandIn
from ml_lifecycle.kubernetes.client import KubernetesClient, Retry
from ml_lifecycle.kubernetes.conditions import condition_true
from ml_lifecycle.kubernetes.resource import CUSTOM_RESOURCE_DEFINITION, NAMESPACE
from ml_lifecycle.resources import resource

REPOSITORY = Path(__file__).parents[2]
CRDS = Path(os.environ.get("KSERVE_CRDS") or REPOSITORY.parent / "shared" / "crds")
KUBECONFIG = os.environ.get("ML_LIFECYCLE_CONTRACT_KUBECONFIG")
ASSETS = os.environ.get("KUBEBUILDER_ASSETS")
NEEDED = ("serving.kserve.io_inferenceservices", "serving.kserve.io_servingruntimes", "keda.sh_scaledobjects")


@pytest.fixture(scope="session")
def real_server() -> bool:
    return bool(KUBECONFIG or ASSETS)


@pytest.fixture(scope="session")
def crds() -> Path:
    if not CRDS.is_dir():
        pytest.skip(f"no folder {CRDS} with KServe's CRDs: name one by KSERVE_CRDS")
    return CRDS


@pytest.fixture(scope="session")
def kubeconfig(tmp_path_factory):
    if KUBECONFIG:
        yield Path(KUBECONFIG)
    elif ASSETS:
        with api_server(Path(ASSETS), tmp_path_factory.mktemp("api_server")) as path:
            yield path
    else:
        with KubernetesStandIn(tmp_path_factory.mktemp("kubernetes")) as stand_in:
            yield stand_in.kubeconfig


@pytest.fixture
async def client(kubeconfig):
    async with KubernetesClient.from_kubeconfig(kubeconfig, retry=Retry(attempts=2, first_delay=0.1)) as connected:
        yield connected


@pytest.fixture
async def namespace(client):
    name = f"contract-{uuid.uuid4().hex[:8]}"
    await client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    await client.delete(NAMESPACE, name)


@pytest.fixture
async def kserve(client, real_server):
    """KServe's kinds are served: the stand-in brings them, a bare API server is given them."""
    if not real_server:
        return
    for name in NEEDED:
        path = CRDS / f"{name}.yaml"
        await _define(client, path, allowed=bool(ASSETS or os.environ.get("KSERVE_CRDS")))


@pytest.fixture
async def mlscaler(client, real_server):
    """The package's own kind is served."""
    path = resource("k8s_templates") / "mlscaler_crd.yaml" if (REPOSITORY / "k8s_templates").exists() else None
    if path is None or not path.exists():
        pytest.skip("this checkout has no k8s_templates/mlscaler_crd.yaml")
    if real_server:
        await _define(client, path, allowed=bool(ASSETS))


async def _define(client, path, *, allowed):
    if not path.exists():
        pytest.skip(f"no {path}: name a folder with KServe's CRDs by KSERVE_CRDS")
    for manifest in filter(None, yaml.load_all(path.read_text(), yaml.CSafeLoader)):
        name = manifest["metadata"]["name"]
        if await client.find(CUSTOM_RESOURCE_DEFINITION, name) is None:
            if not allowed:
                pytest.skip(f"the cluster has no {name}, and nobody allowed to install it (KSERVE_CRDS=<folder>)")
            await client.apply(manifest, field_manager="ml-lifecycle-contract")
        await client.wait(
            CUSTOM_RESOURCE_DEFINITION, name, None, condition_true("Established"), timeout_seconds=30, poll_seconds=0.2
        )


@pytest.fixture(params=["local", pytest.param("cluster", marks=pytest.mark.real_cluster)])
async def platform(request, tmp_path, real_server):
    if request.param == "cluster":
        path = os.environ.get("ML_LIFECYCLE_CONTRACT_KUBECONFIG")
        if not path:
            pytest.skip("needs a cluster with KServe: make test-contract KUBECONFIG=…")
        namespace = f"contract-{uuid.uuid4().hex[:8]}"
        async with KubernetesClient.from_kubeconfig(path) as client:
            await client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
            yield client, Cluster(), namespace
            await client.delete(NAMESPACE, namespace)
        return
    if real_server:
        pytest.skip("the stand-in's turn is without a real API server")
    local = Local(tmp_path)
    with local.stand_in as stand_in:
        async with KubernetesClient.from_kubeconfig(stand_in.kubeconfig) as client:
            yield client, local, "models"
