"""Routes of Knative mode: hosts and shares stand in an InferenceService's status, pods name their revision. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from local.ingress.routing import BackendKey, Endpoint, Route, Target, endpoint_of, host_name

REVISION_LABEL = "serving.knative.dev/revision"

Object = Mapping[str, Any]


def routes_of(service: Object) -> Iterator[Route]:
    """The routes in an InferenceService's status: its own hosts, and one host for each tag; none in Standard mode."""
    namespace = service["metadata"]["namespace"]
    status = service.get("status") or {}
    if status.get("deploymentMode", "Knative") != "Knative":
        return
    predictor = (status.get("components") or {}).get("predictor") or {}
    configuration = f"{service['metadata']['name']}-predictor"
    traffic: Sequence[Object] = predictor.get("traffic") or ()

    def target(item: Object, percent: int) -> Target:
        return Target(namespace, item["revisionName"], percent, configuration)

    shares = tuple(target(item, int(item.get("percent") or 0)) for item in traffic)
    for url in dict.fromkeys((status.get("url"), predictor.get("url"))):
        if url:
            yield Route(host_name(urlsplit(url).netloc), shares)
    for item in traffic:
        if item.get("tag") and item.get("url"):
            yield Route(host_name(urlsplit(item["url"]).netloc), (target(item, 100),))


def revision_endpoints(pods: Iterable[Object]) -> Iterator[tuple[BackendKey, Endpoint]]:
    """The ready pods of each revision."""
    for pod in pods:
        revision = (pod["metadata"].get("labels") or {}).get(REVISION_LABEL)
        endpoint = endpoint_of(pod) if revision else None
        if revision and endpoint:
            yield (pod["metadata"]["namespace"], revision), endpoint
