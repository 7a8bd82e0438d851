"""The replicas of a revision: a Revision's min-scale, or the scale of a Deployment."""

from __future__ import annotations

import logging

from ml_lifecycle.kserve.replicas import MIN_SCALE, Running
from ml_lifecycle.kserve.revisions import FIELD_MANAGER
from ml_lifecycle.kubernetes.client import KubernetesClient
from ml_lifecycle.kubernetes.exceptions import NotFoundError
from ml_lifecycle.kubernetes.resource import DEPLOYMENT, REVISION

log = logging.getLogger(__name__)


class ReplicasClient:
    """Reads and asks for replicas of one namespace's revisions."""

    def __init__(self, kubernetes: KubernetesClient) -> None:
        self._kubernetes = kubernetes

    async def running(self, namespace: str, revision: str, *, standard: bool) -> Running:
        """What runs of it; nothing where there is no such revision."""
        kind = DEPLOYMENT if standard else REVISION
        return Running.of(await self._kubernetes.find(kind, revision, namespace) if revision else None)

    async def ask(self, namespace: str, revision: str, replicas: int, *, standard: bool) -> None:
        """Asks for `replicas`: a Revision by its annotation, which makes no new one; nothing where it is gone."""
        kind, patch = (
            (DEPLOYMENT, {"spec": {"replicas": replicas}})
            if standard
            else (REVISION, {"metadata": {"annotations": {MIN_SCALE: str(replicas)}}})
        )
        log.info("%s %s is asked for %s replicas", kind.kind, revision, replicas)
        try:
            await self._kubernetes.merge_patch(
                kind,
                revision,
                namespace,
                patch,
                subresource="scale" if standard else None,
                field_manager=FIELD_MANAGER,
            )
        except NotFoundError:
            log.info("%s %s is gone", kind.kind, revision)
