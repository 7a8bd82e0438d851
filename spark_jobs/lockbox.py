"""Secrets: a job is told a Lockbox secret's id and reads it with the token of the cluster's service account.

Each process that needs the secret reads it itself, so that no secret stands in arguments, properties or logs.
API: https://yandex.cloud/en/docs/lockbox/api-ref/Payload/get
"""

from __future__ import annotations

import base64
import functools
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from spark_jobs.exceptions import SecretError

TOKEN_PATH = "/computeMetadata/v1/instance/service-accounts/default/token"  # noqa: S105
DEFAULT_METADATA_ADDRESS = "169.254.169.254"
DEFAULT_PAYLOAD_ENDPOINT = "https://payload.lockbox.api.cloud.yandex.net"
TIMEOUT_SECONDS = 15
PATIENCE_SECONDS = 180.0
LONGEST_WAIT_SECONDS = 20.0


@functools.cache
def export_secret(secret_id: str | None) -> None:
    """Export the secret's entries as environment variables of this process; nothing for None. Raises SecretError."""
    if secret_id is None:
        return
    endpoint = os.environ.get("YC_LOCKBOX_PAYLOAD_ENDPOINT", DEFAULT_PAYLOAD_ENDPOINT).rstrip("/")
    url = f"{endpoint}/lockbox/v1/secrets/{urllib.parse.quote(secret_id, safe='')}/payload"
    payload = _get(url, {"Authorization": f"Bearer {_token()}"}, f"Lockbox secret {secret_id}")
    for entry in payload.get("entries", []):
        value = entry.get("textValue")
        os.environ[entry["key"]] = base64.b64decode(entry["binaryValue"]).decode() if value is None else value


def _token() -> str:
    address = os.environ.get("YC_METADATA_ADDR", DEFAULT_METADATA_ADDRESS)
    answer = _get(f"http://{address}{TOKEN_PATH}", {"Metadata-Flavor": "Google"}, "the metadata service's IAM token")
    return str(answer["access_token"])


def _get(url: str, headers: dict[str, str], what: str) -> dict[str, Any]:
    """The JSON at `url`; what passes (5xx, 429, no connection) is tried again until PATIENCE_SECONDS are over."""
    deadline, wait = time.monotonic() + PATIENCE_SECONDS, 0.5
    while True:
        try:
            return _ask(url, headers)
        except urllib.error.HTTPError as error:
            passes = error.code >= 500 or error.code in (408, 429)
            role = "" if passes else "; the cluster's service account needs lockbox.payloadViewer on the secret"
            failure = SecretError(f"{what} cannot be read from {url}: HTTP {error.code}{role}")
        except (OSError, ValueError) as error:
            passes, failure = True, SecretError(f"{what} cannot be read from {url}: {error}")
        if not passes or time.monotonic() + wait > deadline:
            raise failure
        time.sleep(wait)
        wait = min(2 * wait, LONGEST_WAIT_SECONDS)


def _ask(url: str, headers: dict[str, str]) -> dict[str, Any]:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
        document: dict[str, Any] = json.load(answer)
        return document
