"""How KServe in Standard mode rolls a new model out, where it splits traffic (see `kserve_platforms`)."""

from urllib.parse import urlsplit

import pytest

from ml_lifecycle.kubernetes.conditions import Progress, Verdict, condition
from ml_lifecycle.kubernetes.exceptions import DeniedError, NotFoundError
from ml_lifecycle.kubernetes.resource import (
    DEPLOYMENT,
    HORIZONTAL_POD_AUTOSCALER,
    HTTP_ROUTE,
    INFERENCE_SERVICE,
    POD,
    SERVICE,
)

NAME = "contract"
STABLE, CANARY = f"{NAME}-predictor", f"{NAME}-v2-predictor"


class Rollout:
    """One InferenceService in Standard mode, and what follows from its spec."""

    def __init__(self, client, platform, namespace):
        self.client, self.platform, self.namespace = client, platform, namespace

    async def apply(self, predictor, *canaries, mode="Standard"):
        body = {
            "apiVersion": INFERENCE_SERVICE.api_version,
            "kind": INFERENCE_SERVICE.kind,
            "metadata": {
                "name": NAME,
                "namespace": self.namespace,
                "annotations": {"serving.kserve.io/deploymentMode": mode},
            },
            "spec": {"predictor": predictor},
        }
        if canaries:
            body["spec"]["canary"] = [{"trafficPercent": p, "predictor": canary} for canary, p in canaries]
        await self.client.apply(body, field_manager="contract")

    def predictor(self, version, **fields):
        return {"model": self.platform.model(self.platform.uris[version]), **fields}

    async def wait(self, kind, name, rule):
        def when(found):
            done = rule(found)
            return Verdict(Progress.MET if done else Progress.WAITING, str((found or {}).get("status")))

        return await self.client.wait(
            kind, name, self.namespace, when, timeout_seconds=self.platform.seconds, poll_seconds=self.platform.poll
        )

    async def settled(self, rule=lambda service: True):
        return await self.wait(
            INFERENCE_SERVICE, NAME, lambda service: condition(service, "Ready").true and rule(service)
        )

    async def split(self, wanted):
        """Both routes share their requests as `wanted` says."""
        for route in (STABLE, NAME):
            await self.wait(HTTP_ROUTE, route, lambda found: found and weights(found) == wanted)

    async def hosts(self):
        """Of each route."""
        found = {name: await self.client.get(HTTP_ROUTE, name, self.namespace) for name in (STABLE, NAME)}
        return {name: route["spec"]["hostnames"] for name, route in found.items()}

    async def pods(self, deployment):
        found = await self.client.list(POD, self.namespace, f"app=isvc.{deployment}")
        return {pod["metadata"]["name"] for pod in found if not pod["metadata"].get("deletionTimestamp")}


def weights(route):
    backends = [backend for rule in route["spec"]["rules"] for backend in rule["backendRefs"]]
    return {backend["name"]: backend["weight"] for backend in backends}


def url(service):
    return service["status"]["components"]["predictor"]["url"]


def host(service):
    """Whose name the predictor's URL begins with."""
    return urlsplit(url(service)).hostname.partition(f"-{service['metadata']['namespace']}.")[0]


def in_cluster(service):
    """The Service that the address within the cluster names."""
    return urlsplit(service["status"]["address"]["url"]).hostname.partition(".")[0]


@pytest.fixture
async def rollout(platform):
    client, place, namespace = platform
    try:
        await client.list(HTTP_ROUTE, namespace)
    except NotFoundError:
        pytest.skip("the cluster has no Gateway API")
    await place.prepare(client, namespace)
    return Rollout(client, place, namespace)


async def test_a_canary_from_first_version_to_promotion(rollout):
    # The first version has one backend and no revisions.
    await rollout.apply(rollout.predictor(0))
    service = await rollout.settled()
    assert service["status"]["deploymentMode"] in ("Standard", "RawDeployment")
    assert "latestCreatedRevision" not in service["status"]["components"]["predictor"]
    assert (host(service), in_cluster(service)) == (STABLE, STABLE)
    outside = service["status"]["url"]
    await rollout.split({STABLE: 1})
    stable = await rollout.pods(STABLE)
    assert stable

    # A canary at 0 % has one pod.
    await rollout.apply(rollout.predictor(0), (rollout.predictor(1, name="v2"), 0))
    await rollout.wait(DEPLOYMENT, CANARY, lambda found: found and found["spec"]["replicas"] == 1)
    await rollout.apply(rollout.predictor(0), (rollout.predictor(1, name="v2", minReplicas=1), 0))
    service = await rollout.settled(lambda found: condition(found, "CanaryPredictorReady").true)
    assert [(item["name"], item["ready"]) for item in service["status"]["canaryStatuses"]] == [("v2", True)]
    await rollout.split({STABLE: 100, CANARY: 0})
    canary = await rollout.pods(CANARY)

    # A percent moves weights, not pods.
    await rollout.apply(rollout.predictor(0), (rollout.predictor(1, name="v2", minReplicas=1), 25))
    await rollout.split({STABLE: 75, CANARY: 25})
    assert await rollout.pods(STABLE) == stable
    assert await rollout.pods(CANARY) == canary

    # A promotion keeps the canary's pods and the routes, and ends the old side. What bears the predictor's name moves:
    # the address within the cluster, and the predictor's URL, whose new host no route has. Whoever asks the gateway for
    # the host of `status.url` is split all along and notices nothing.
    hosts = await rollout.hosts()
    await rollout.apply(rollout.predictor(1, name="v2", minReplicas=1))
    await rollout.split({CANARY: 1})
    await rollout.wait(DEPLOYMENT, STABLE, lambda found: found is None)
    service = await rollout.settled(lambda found: "canaryStatuses" not in found["status"])
    assert await rollout.pods(CANARY) == canary
    assert await rollout.hosts() == hosts
    await rollout.wait(SERVICE, STABLE, lambda found: found is None)
    service = await rollout.settled(lambda found: in_cluster(found) == CANARY)
    assert service["status"]["url"] == outside
    assert urlsplit(outside).hostname in hosts[NAME]
    assert host(service) == CANARY
    assert urlsplit(url(service)).hostname not in hosts[NAME] + hosts[STABLE]
    # Its HorizontalPodAutoscaler stays behind without a target, where KServe has made one.
    left = await rollout.client.find(HORIZONTAL_POD_AUTOSCALER, STABLE, rollout.namespace)
    assert left is None or left["spec"]["scaleTargetRef"]["name"] == STABLE


async def test_a_roll_back_ends_the_canary(rollout):
    await rollout.apply(rollout.predictor(0))
    await rollout.settled()
    stable = await rollout.pods(STABLE)
    await rollout.apply(rollout.predictor(0), (rollout.predictor(1, name="v2"), 50))
    await rollout.split({STABLE: 50, CANARY: 50})
    await rollout.apply(rollout.predictor(0))
    await rollout.split({STABLE: 1})
    for kind in (DEPLOYMENT, SERVICE):
        await rollout.wait(kind, CANARY, lambda found: found is None)
    service = await rollout.settled(lambda found: not condition(found, "CanaryPredictorReady").true)
    assert "canaryStatuses" not in service["status"]
    assert await rollout.pods(STABLE) == stable


async def test_trap_8_the_percent_of_knative_mode_is_ignored_4074(rollout):
    await rollout.apply(rollout.predictor(0))
    await rollout.settled()
    first = await rollout.pods(STABLE)
    await rollout.apply(rollout.predictor(1, canaryTrafficPercent=10))
    await rollout.wait(DEPLOYMENT, STABLE, lambda found: found["metadata"]["generation"] > 1)
    await rollout.wait(DEPLOYMENT, STABLE, all_pods_are_new)
    await rollout.split({STABLE: 1})
    assert not first & await rollout.pods(STABLE)


def all_pods_are_new(deployment):
    status = deployment["status"]
    counts = {status.get(f"{name}Replicas", 0) for name in ("updated", "available")} | {status.get("replicas", 0)}
    return status["observedGeneration"] == deployment["metadata"]["generation"] and counts == {1}


async def test_impossible_canaries_are_refused(rollout):
    stable = rollout.predictor(0)
    canary = rollout.predictor(1, name="v2")
    for canaries in (
        [(canary, 60), (rollout.predictor(1, name="v3"), 60)],
        [(canary, 10), (canary, 10)],
        [({**canary, "maxReplicas": 2}, 10)],
        [({**canary, "minReplicas": 2}, 10)],
    ):
        with pytest.raises(DeniedError, match="denied the request"):
            await rollout.apply(stable, *canaries)
    with pytest.raises(DeniedError, match="denied the request"):
        await rollout.apply(stable, (canary, 10), mode="Knative")
    with pytest.raises(DeniedError, match="the 'name' field is not allowed in standard predictor"):
        await rollout.apply({"model": {**stable["model"], "name": "kserve-container"}})
    await rollout.apply(stable)
    with pytest.raises(DeniedError, match="requires a model change"):
        await rollout.apply({**stable, "name": "v2"})


async def test_a_deletion_leaves_nothing(rollout):
    await rollout.apply(rollout.predictor(0))
    await rollout.settled()
    await rollout.apply(rollout.predictor(0), (rollout.predictor(1, name="v2"), 50))
    await rollout.split({STABLE: 50, CANARY: 50})
    await rollout.client.delete(INFERENCE_SERVICE, NAME, rollout.namespace)
    for kind, name in ((DEPLOYMENT, STABLE), (DEPLOYMENT, CANARY), (SERVICE, CANARY), (HTTP_ROUTE, NAME)):
        await rollout.wait(kind, name, lambda found: found is None)
