"""The same tests, against the stand-in or against a real API server.

Real: ML_LIFECYCLE_CONTRACT_KUBECONFIG names a kubeconfig, or KUBEBUILDER_ASSETS a folder with etcd and kube-apiserver.
"""

import asyncio
import os
import time
import uuid
from pathlib import Path

import pytest
import yaml
from kserve_platforms import Cluster, Local, model_uris
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
NEEDED = ("serving.kserve.io_inferenceservices", "serving.kserve.io_servingruntimes")


RUN = uuid.uuid4().hex[:8]
"""Of everything that this run leaves for a while in a cluster."""
LABEL = "ml-lifecycle.io/contract"
GONE_SECONDS = 600
INSTALLED = pytest.StashKey[list[str]]()


def pytest_report_header():
    if not KUBECONFIG:
        return None
    models = ", ".join(model_uris())
    return [
        f"on the cluster of {KUBECONFIG}, with models {models}",
        "some ten minutes where a model serves within half a minute; any wait ends after ten",
        f"everything lies in namespaces contract-{RUN}-…, which are deleted: kubectl get namespaces -l {LABEL}={RUN}",
    ]


@pytest.fixture(scope="session", autouse=True)
def left_as_it_was(request):
    """A real cluster has neither the run's namespaces nor CRDs of its own any more when the run is over."""
    installed: list[str] = []
    request.session.stash[INSTALLED] = installed
    yield
    if KUBECONFIG:
        asyncio.run(_leave_nothing(installed))


async def _leave_nothing(installed):
    async with KubernetesClient.from_kubeconfig(KUBECONFIG) as client:
        for name in installed:
            await client.delete(CUSTOM_RESOURCE_DEFINITION, name)
        deadline = time.monotonic() + GONE_SECONDS
        while left := await client.list(NAMESPACE, None, f"{LABEL}={RUN}"):
            names = [namespace["metadata"]["name"] for namespace in left]
            assert time.monotonic() < deadline, f"still there after {GONE_SECONDS} s: {', '.join(names)}"
            await asyncio.sleep(2)


def _namespace():
    metadata = {"name": f"contract-{RUN}-{uuid.uuid4().hex[:8]}", "labels": {LABEL: RUN}}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


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
    name = (await client.create(_namespace()))["metadata"]["name"]
    yield name
    await client.delete(NAMESPACE, name)


@pytest.fixture
async def kserve(client, real_server, request):
    """KServe's kinds are served: the stand-in brings them, a bare API server is given them."""
    if not real_server:
        return
    for name in NEEDED:
        path = CRDS / f"{name}.yaml"
        await _define(client, path, allowed=bool(ASSETS or os.environ.get("KSERVE_CRDS")), stash=request.session.stash)


@pytest.fixture
async def mlscaler(client, real_server, request):
    """The package's own kind is served."""
    path = resource("k8s_templates") / "mlscaler_crd.yaml" if (REPOSITORY / "k8s_templates").exists() else None
    if path is None or not path.exists():
        pytest.skip("this checkout has no k8s_templates/mlscaler_crd.yaml")
    if real_server:
        await _define(client, path, allowed=bool(ASSETS), stash=request.session.stash)


async def _define(client, path, *, allowed, stash):
    if not path.exists():
        pytest.skip(f"no {path}: name a folder with KServe's CRDs by KSERVE_CRDS")
    for manifest in filter(None, yaml.load_all(path.read_text(), yaml.CSafeLoader)):
        name = manifest["metadata"]["name"]
        if await client.find(CUSTOM_RESOURCE_DEFINITION, name) is None:
            if not allowed:
                pytest.skip(f"the cluster has no {name}, and nobody allowed to install it (KSERVE_CRDS=<folder>)")
            await client.apply(manifest, field_manager="ml-lifecycle-contract")
            stash[INSTALLED].append(name)
        await client.wait(
            CUSTOM_RESOURCE_DEFINITION, name, None, condition_true("Established"), timeout_seconds=30, poll_seconds=0.2
        )


@pytest.fixture(params=["local", pytest.param("cluster", marks=pytest.mark.real_cluster)])
async def platform(request, tmp_path, real_server):
    if request.param == "cluster":
        path = KUBECONFIG
        if not path:
            pytest.skip("needs a cluster with KServe: make test-contract KUBECONFIG=…")
        async with KubernetesClient.from_kubeconfig(path) as client:
            namespace = (await client.create(_namespace()))["metadata"]["name"]
            yield client, Cluster(), namespace
            await client.delete(NAMESPACE, namespace)
        return
    if real_server:
        pytest.skip("the stand-in's turn is without a real API server")
    local = Local(tmp_path)
    with local.stand_in as stand_in:
        async with KubernetesClient.from_kubeconfig(stand_in.kubeconfig) as client:
            yield client, local, "models"
