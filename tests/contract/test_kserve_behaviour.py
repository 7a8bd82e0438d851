"""How KServe in Knative mode rolls a new model out (see `kserve_platforms`)."""

from ml_lifecycle.kubernetes.conditions import Progress, Verdict, condition
from ml_lifecycle.kubernetes.resource import INFERENCE_SERVICE, POD, REVISION

NAME = "contract"


async def test_a_canary_from_first_revision_to_promotion(platform):
    client, platform, namespace = platform
    await platform.prepare(client, namespace)

    async def apply(uri, **predictor):
        body = {
            "apiVersion": INFERENCE_SERVICE.api_version,
            "kind": INFERENCE_SERVICE.kind,
            "metadata": {
                "name": NAME,
                "namespace": namespace,
                "annotations": {"serving.kserve.io/enable-tag-routing": "true"},
            },
            "spec": {"predictor": {"minReplicas": 1, "model": platform.model(uri), **predictor}},
        }
        await client.apply(body, field_manager="contract")

    async def settled(rule):
        def when(service):
            component = ((service or {}).get("status") or {}).get("components", {}).get("predictor") or {}
            done = condition(service, "Ready").true and bool(component) and rule(component)
            return Verdict(Progress.MET if done else Progress.WAITING, f"{condition(service, 'Ready')} {component}")

        service = await client.wait(
            INFERENCE_SERVICE,
            NAME,
            namespace,
            when,
            timeout_seconds=platform.seconds,
            poll_seconds=platform.poll,
        )
        return service["status"]["components"]["predictor"]

    def traffic(component):
        return {item["revisionName"]: item["percent"] for item in component["traffic"] if item.get("percent")}

    # The first revision takes all traffic, and its pods say whose they are.
    await apply(platform.uris[0])
    component = await settled(lambda found: found.get("latestRolledoutRevision"))
    first = component["latestRolledoutRevision"]
    assert first == f"{NAME}-predictor-00001"
    assert traffic(component) == {first: 100}
    revision = await client.get(REVISION, first, namespace)
    assert revision["metadata"]["labels"]["serving.kserve.io/inferenceservice"] == NAME
    assert await client.list(POD, namespace, f"serving.knative.dev/revision={first}")

    # A new model at 0 %: its revision becomes ready, the first keeps the traffic under the tag `prev`.
    await apply(platform.uris[1], canaryTrafficPercent=0)
    component = await settled(lambda found: found.get("latestReadyRevision") not in (None, first))
    second = component["latestReadyRevision"]
    assert component["latestRolledoutRevision"] == first
    assert traffic(component) == {first: 100}
    assert {item.get("tag") for item in component["traffic"]} == {"latest", "prev"}

    # A percent makes no revision; it moves traffic.
    await apply(platform.uris[1], canaryTrafficPercent=25)
    component = await settled(lambda found: traffic(found).get(second) == 25)
    assert traffic(component) == {first: 75, second: 25}
    assert component["latestCreatedRevision"] == second

    # Leaving the percent out promotes.
    await apply(platform.uris[1])
    component = await settled(lambda found: found.get("latestRolledoutRevision") == second)
    assert traffic(component) == {second: 100}
    assert component["previousRolledoutRevision"] == first
