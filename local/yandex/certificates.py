"""The stand-in's server certificate with its authority, and a service account's key."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from local.certificates import create_server_certificate

SERVICE_ACCOUNT_ID = "laptop-service-account"
KEY_ID = "laptop-key"


@dataclass(frozen=True)
class Identity:
    """What the server shows, and the two files a client needs."""

    server_key: bytes
    server_certificate: bytes
    authority_file: Path
    service_account_file: Path
    service_account_public_key: bytes


def create_identity(folder: Path) -> Identity:
    """Write `ca.pem` and `service_account.json` (readable by the owner alone) into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    server = create_server_certificate()
    authority_file = folder / "ca.pem"
    authority_file.write_bytes(server.authority)
    # Yandex signs with PS256, which needs an RSA key.
    account_key = rsa.generate_private_key(65537, 2048)
    private = account_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account_file = folder / "service_account.json"
    account_file.touch(mode=0o600)
    account = {"id": KEY_ID, "service_account_id": SERVICE_ACCOUNT_ID, "private_key": private.decode()}
    account_file.write_text(json.dumps(account))
    return Identity(
        server_key=server.key,
        server_certificate=server.certificate,
        authority_file=authority_file,
        service_account_file=account_file,
        service_account_public_key=account_key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
    )
