"""The stand-in's own certificate authority, its server certificate, and a service account's key."""

from __future__ import annotations

import datetime
import ipaddress
import json
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

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
    authority_key, server_key, account_key = (rsa.generate_private_key(65537, 2048) for _ in range(3))
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ml-lifecycle stand-in authority")])
    authority = (
        _certificate(authority_name, authority_name, authority_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    alternative_names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    server = (
        _certificate(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]), authority_name, server_key)
        .add_extension(x509.SubjectAlternativeName(alternative_names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    folder.mkdir(parents=True, exist_ok=True)
    authority_file = folder / "ca.pem"
    authority_file.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    account_file = folder / "service_account.json"
    account_file.touch(mode=0o600)
    account = {"id": KEY_ID, "service_account_id": SERVICE_ACCOUNT_ID, "private_key": _pem(account_key).decode()}
    account_file.write_text(json.dumps(account))
    return Identity(
        server_key=_pem(server_key),
        server_certificate=server.public_bytes(serialization.Encoding.PEM),
        authority_file=authority_file,
        service_account_file=account_file,
        service_account_public_key=account_key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
    )


def _certificate(subject: x509.Name, issuer: x509.Name, key: rsa.RSAPrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=365))
    )


def _pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
