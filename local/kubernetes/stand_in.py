"""The Kubernetes API on loopback, for as long as a `with` block lasts."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import threading
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from local.certificates import create_server_certificate
from local.kubernetes.deployment_mode import DeploymentMode
from local.kubernetes.faults import Faults
from local.kubernetes.rights import Rights
from local.kubernetes.server import Server
from local.kubernetes.store import Store
from ml_lifecycle.exceptions import ResourceMissingError
from ml_lifecycle.kubernetes.resource import NAMESPACE
from ml_lifecycle.resources import resource


@asynccontextmanager
async def serve(
    store: Store,
    *,
    state: Path,
    faults: Faults | None = None,
    port: int = 0,
    namespaces: Iterable[str] = (),
    rights: Rights | None = None,
) -> AsyncIterator[Path]:
    """Serves the store on the running loop; yields the kubeconfig that it wrote.

    With `rights` there is another one beside it, `account`, whose user may do no more than they say.
    """
    token = secrets.token_urlsafe(24)
    for name in namespaces:
        if store.find(NAMESPACE, name) is None:
            store.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    for manifest in _our_definitions():
        store.create(manifest)
    path = state / "kubeconfig"
    path.unlink(missing_ok=True)  # its presence says that the server serves
    certificate = create_server_certificate()
    account = (secrets.token_urlsafe(24), rights) if rights is not None else None
    server = Server(store, state=state, token=token, faults=faults or Faults(), account=account)
    async with server.serving(port, certificate.context()) as bound:
        if account:
            limited = state / "account"
            limited.touch(mode=0o600)
            limited.write_text(json.dumps(kubeconfig(f"https://127.0.0.1:{bound}", certificate.authority, account[0])))
        path.touch(mode=0o600)
        path.write_text(json.dumps(kubeconfig(f"https://127.0.0.1:{bound}", certificate.authority, token)))
        yield path


def _our_definitions() -> list[dict[str, Any]]:
    """The package's own CRDs, which a real cluster is given by `kubectl apply`."""
    try:
        folder = resource("k8s_templates")
    except ResourceMissingError:
        return []
    return [
        manifest
        for path in sorted(folder.glob("*crd*.yaml"))
        for manifest in yaml.safe_load_all(path.read_text())
        if manifest
    ]


def kubeconfig(server: str, authority: bytes, token: str) -> dict[str, Any]:
    """A kubeconfig with one cluster, one user and one context."""
    cluster = {"server": server, "certificate-authority-data": base64.b64encode(authority).decode()}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "laptop", "cluster": cluster}],
        "users": [{"name": "laptop", "user": {"token": token}}],
        "contexts": [{"name": "laptop", "context": {"cluster": "laptop", "user": "laptop", "namespace": "default"}}],
        "current-context": "laptop",
    }


class KubernetesStandIn:
    """An API server in a thread of this process, for tests; with `controllers`, they run beside it.

    state: folder for the kubeconfig and the pods. namespaces: made at the start. images: image name to local command,
    as `local.kubernetes.controllers` wants it. deployment_mode: KServe's for InferenceServices without the annotation.
    splits_traffic: False for KServe 0.20.0 in Standard mode. rights: what the user of `account`, and with it of the
    Airflow connection, may do; without them it is the user of `kubeconfig`, who may do all.
    """

    def __init__(
        self,
        state: Path,
        *,
        port: int = 0,
        namespaces: Iterable[str] = ("models",),
        controllers: bool = False,
        ingress_port: int = 0,
        images: Mapping[str, Any] | None = None,
        deployment_mode: DeploymentMode = "Knative",
        splits_traffic: bool = True,
        store: Store | None = None,
        rights: Rights | None = None,
    ) -> None:
        self.state = state.resolve()
        self.state.mkdir(parents=True, exist_ok=True)
        self.store = store or Store()
        self.faults = Faults()
        self.kubeconfig = self.state / "kubeconfig"
        self.rights = rights
        self.account = self.kubeconfig if rights is None else self.state / "account"
        self._port = port
        self._namespaces = tuple(namespaces)
        self._controllers = controllers
        self._ingress_port = ingress_port
        self._images = dict(images or {})
        self._deployment_mode: DeploymentMode = deployment_mode
        self._splits_traffic = splits_traffic

    def __enter__(self) -> Self:
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="kubernetes-stand-in", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._main.cancel)
        self._thread.join()

    @property
    def url(self) -> str:
        """Address of the API."""
        address: str = json.loads(self.kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
        return address

    def connection(self, *, content: bool = False) -> str:
        """JSON of the Airflow connection `kubernetes_default`: the kubeconfig's path, or its content."""
        extra = {"kube_config": self.account.read_text()} if content else {"kube_config_path": str(self.account)}
        return json.dumps({"conn_type": "kubernetes", "extra": extra})

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._main = self._loop.create_task(self._serve())
        try:
            with suppress(asyncio.CancelledError):
                self._loop.run_until_complete(self._main)
        except BaseException as error:
            self._failure = error
        finally:
            self._started.set()
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    async def _serve(self) -> None:
        async with AsyncExitStack() as stack:
            serving = serve(
                self.store,
                state=self.state,
                faults=self.faults,
                port=self._port,
                namespaces=self._namespaces,
                rights=self.rights,
            )
            await stack.enter_async_context(serving)
            self._started.set()
            if self._controllers:
                from local.kubernetes.controllers import run_controllers

                await run_controllers(
                    self.store,
                    state=self.state,
                    ingress_port=self._ingress_port,
                    images=self._images,
                    deployment_mode=self._deployment_mode,
                    splits_traffic=self._splits_traffic,
                )
            else:
                await asyncio.Event().wait()
