"""A real etcd and kube-apiserver without controllers, as envtest starts them."""

import contextlib
import json
import os
import secrets
import socket
import ssl
import subprocess
import time
import urllib.request

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

_START_SECONDS = 60


@contextlib.contextmanager
def api_server(assets, state):
    """Yields the kubeconfig of an API server that serves for as long as the block lasts."""
    etcd_port, peer_port, port = _free_port(), _free_port(), _free_port()
    token = secrets.token_hex(16)
    (state / "tokens.csv").write_text(f"{token},contract,contract,system:masters\n")
    _write_key(state / "service_account.key")
    etcd = [
        str(assets / "etcd"),
        f"--data-dir={state / 'etcd'}",
        f"--listen-client-urls=http://127.0.0.1:{etcd_port}",
        f"--advertise-client-urls=http://127.0.0.1:{etcd_port}",
        f"--listen-peer-urls=http://127.0.0.1:{peer_port}",
        "--unsafe-no-fsync",
    ]
    server = [
        str(assets / "kube-apiserver"),
        f"--etcd-servers=http://127.0.0.1:{etcd_port}",
        f"--cert-dir={state / 'certificates'}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--token-auth-file={state / 'tokens.csv'}",
        "--authorization-mode=RBAC",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--service-account-issuer=https://127.0.0.1/",
        f"--service-account-key-file={state / 'service_account.key'}",
        f"--service-account-signing-key-file={state / 'service_account.key'}",
        "--disable-admission-plugins=ServiceAccount",
        "--allow-privileged=true",
    ]
    path = state / "kubeconfig"
    path.write_text(json.dumps(_kubeconfig(f"https://127.0.0.1:{port}", token)))
    with _process(etcd, state / "etcd.log"), _process(server, state / "kube-apiserver.log"):
        _wait_until_ready(f"https://127.0.0.1:{port}/readyz", state / "kube-apiserver.log")
        yield path


@contextlib.contextmanager
def _process(command, log):
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env={"PATH": os.environ["PATH"]})
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(url, log):
    context = ssl._create_unverified_context()
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(url, context=context, timeout=2) as answer,
        ):
            if answer.status == 200:
                return
        time.sleep(0.3)
    raise RuntimeError(f"kube-apiserver was not ready after {_START_SECONDS} s: see {log}")


def _write_key(path):
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )


def _kubeconfig(server, token):
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "contract", "cluster": {"server": server, "insecure-skip-tls-verify": True}}],
        "users": [{"name": "contract", "user": {"token": token}}],
        "contexts": [{"name": "contract", "context": {"cluster": "contract", "user": "contract"}}],
        "current-context": "contract",
    }


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
