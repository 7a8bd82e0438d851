"""What was judged and what was published, as the data lake keeps it: MLflow's writers cannot write there.

A version's digest is that of its `checksums.json`, which names every serving file and its sha256.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from typing import Any

from ml_lifecycle.data_lake.client import DataLake
from ml_lifecycle.data_lake.exceptions import (
    NotPublishedError,
    ObjectMissingError,
    ServingFilesChangedError,
    WriteMismatchError,
)
from ml_lifecycle.data_lake.layout import CHECKSUMS, join

log = logging.getLogger(__name__)


def keep_evaluation(lake: DataLake, run_id: str, evaluation: Mapping[str, Any], *, asked_by: str) -> None:
    """Keep an evaluate job's result for the gate; `asked_by` is who asked for the training, empty where nobody did."""
    document = {"evaluation": evaluation, "asked_by": asked_by}
    lake.write_bytes(lake.layout.evaluation(run_id), json.dumps(document, indent=1).encode())


def kept_evaluation(lake: DataLake, run_id: str) -> dict[str, Any] | None:
    """What `keep_evaluation` kept: `{"evaluation", "asked_by"}`; None where it kept nothing of this run."""
    try:
        return lake.read_json(lake.layout.evaluation(run_id))
    except ObjectMissingError:
        return None


def keep_promotion(lake: DataLake, model: str, version: str, *, by: str) -> str:
    """Keep the digest of a version that was just published; returns it."""
    digest = published(lake, model, version)
    record = lake.layout.promotion(model, version)
    if not lake.exists(record):
        lake.write_bytes(record, json.dumps({"digest": digest, "by": by}, indent=1).encode())
    return digest


def published(lake: DataLake, model: str, version: str) -> str:
    """The digest of a version's serving files, every one of which is read and compared.

    NotPublishedError where there are none, ServingFilesChangedError where they are not what was promoted. A version
    that was promoted before digests were kept is held against its own `checksums.json`.
    """
    uri = lake.layout.serving_files(model, version)
    marker = join(uri, CHECKSUMS)
    try:
        checksums = lake.read_bytes(marker)
    except ObjectMissingError as error:
        raise NotPublishedError(model, version, uri) from error
    digest = hashlib.sha256(checksums).hexdigest()
    try:
        promised = lake.read_json(lake.layout.promotion(model, version)).get("digest")
    except ObjectMissingError:
        promised = digest
        log.info("version %s of %s was promoted before digests were kept: its own checksums count", version, model)
    if promised != digest:
        raise ServingFilesChangedError(marker, f"its digest is {digest}, and was {promised}")
    try:
        lake.verify_serving_files(uri)
        # Servers choose by what they find: Triton serves the highest number among the folders of a model.
        if others := sorted(set(lake.list_files(uri)) - {CHECKSUMS, *json.loads(checksums)}):
            raise ServingFilesChangedError(uri, f"{', '.join(others)} came later")
    except (WriteMismatchError, ObjectMissingError) as error:
        raise ServingFilesChangedError(uri, str(error)) from error
    return digest
