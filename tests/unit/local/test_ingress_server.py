import asyncio
import contextlib
import math
import time
from collections import Counter

import aiohttp
import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from local.ingress import Ingress
from tests.unit.local.test_ingress_routing import backend_service, http_route, pod, service, standard_pod

HOST = "digits-models.localhost"


@contextlib.asynccontextmanager
async def server(name):
    async def answer(request):
        if request.path == "/break":
            request.transport.close()
        body = await request.text()
        return web.json_response(
            {"name": name, "path": request.path_qs, "host": request.headers["Host"], "body": body},
            headers={"X-Served-By": name},
        )

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@pytest.fixture
async def ingress():
    async with Ingress() as ingress:
        yield ingress


@pytest.fixture
async def session():
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def canary(ingress):
    """Two revisions, 25 % to the newer one."""
    async with server("new") as new, server("old") as old:
        ingress.routes.set_inference_services([service(("r2", 25, "latest"), ("r1", 75, "prev"))])
        ingress.routes.set_pods([pod("a", "r2", new), pod("b", "r1", old)])
        yield ingress


async def post(session, ingress, host=HOST, path="/v2/models/digits/infer", body="x"):
    url = f"http://127.0.0.1:{ingress.port}{path}"
    async with session.post(url, data=body, headers={"Host": host}) as response:
        return response.status, await response.json()


async def admin(session, ingress, method, path, **arguments):
    url = f"http://127.0.0.1:{ingress.admin_port}{path}"
    async with session.request(method, url, **arguments) as response:
        return response.status, await response.text()


async def samples(session, ingress):
    _, text = await admin(session, ingress, "GET", "/metrics")
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


async def test_requests_arrive_unchanged_at_the_weighted_revisions(session, canary):
    counts = Counter()
    for _ in range(100):
        status, answer = await post(session, canary, path="/v2/models/digits/infer?a=b", body="hello")
        counts[answer["name"]] += 1
    assert status == 200
    assert (answer["path"], answer["host"], answer["body"]) == ("/v2/models/digits/infer?a=b", HOST, "hello")
    assert counts == {"new": 25, "old": 75}


async def test_a_tag_host_reaches_its_revision_only(session, canary):
    answers = [await post(session, canary, host="latest-digits-predictor-models.localhost:80") for _ in range(10)]
    assert {answer["name"] for _, answer in answers} == {"new"}


async def test_unknown_hosts_and_revisions_without_pods(session, canary):
    assert (await post(session, canary, host="other.localhost"))[0] == 404
    canary.routes.set_pods([])
    assert (await post(session, canary))[0] == 503


async def test_a_pod_that_has_gone_is_passed_over(session, canary):
    async with server("gone") as gone, server("here") as here:
        pass
    async with server("here") as here:
        canary.routes.set_inference_services([service(("r1", 100, None))])
        canary.routes.set_pods([pod("a", "r1", gone), pod("b", "r1", here)])
        answers = [await post(session, canary) for _ in range(4)]
    assert [answer["name"] for _, answer in answers] == ["here"] * 4


async def test_a_broken_connection_is_a_502(session, canary):
    assert (await post(session, canary, path="/break"))[0] == 502


async def test_metrics_count_every_request_as_queue_proxies_do(session, canary):
    """By pod, with real bounds; what is said of revision and service comes with the scrape, or not at all."""
    for _ in range(8):
        await post(session, canary)
    found = await samples(session, canary)
    counts = {
        sample.labels["pod"]: (sample.value, sample.labels)
        for sample in found
        if sample.name == "kn_serving_invocation_duration_seconds_count"
    }
    assert {pod: value for pod, (value, _) in counts.items()} == {"b": 6, "a": 2}
    assert counts["a"][1] == {
        "namespace": "models",
        "pod": "a",
        "http_response_status_code": "200",
        "otel_scope_name": "knative.dev/serving/pkg/queue",
        "otel_scope_schema_url": "",
        "otel_scope_version": "",
    }
    bounds = [
        float(sample.labels["le"])
        for sample in found
        if sample.name == "kn_serving_invocation_duration_seconds_bucket" and sample.labels["pod"] == "b"
    ]
    assert bounds == [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, math.inf]
    assert {sample.name.rsplit("_", 1)[1] for sample in found} == {"bucket", "count", "sum"}


async def test_a_pods_counters_end_with_it_and_begin_at_none(session, canary):
    async with server("new") as new, server("old") as old:
        canary.routes.set_pods([pod("a", "r2", new), pod("b", "r1", old)])
        for _ in range(8):
            await post(session, canary)
        canary.routes.set_pods([pod("c", "r2", new), pod("b", "r1", old)])
        assert {sample.labels["pod"] for sample in await samples(session, canary)} == {"b"}
        for _ in range(8):
            await post(session, canary)
        counts = {s.labels["pod"]: s.value for s in await samples(session, canary) if s.name.endswith("_count")}
    assert counts == {"b": 12, "c": 2}


async def test_faults_hit_one_revision_until_they_end(session, canary):
    assert (await admin(session, canary, "PUT", "/faults/r2", json={"error_rate": 1}))[0] == 200
    statuses = Counter()
    for _ in range(20):
        statuses[(await post(session, canary))[0]] += 1
    assert statuses == {200: 15, 500: 5}
    errors = [
        sample.value
        for sample in await samples(session, canary)
        if sample.name.endswith("_count") and sample.labels["http_response_status_code"] == "500"
    ]
    assert errors == [5]
    assert (await admin(session, canary, "DELETE", "/faults/r2"))[0] == 200
    assert (await admin(session, canary, "DELETE", "/faults/r2"))[0] == 404
    assert {(await post(session, canary))[0] for _ in range(8)} == {200}


async def test_a_delay_is_measured(session, canary):
    await admin(session, canary, "PUT", "/faults/r2", json={"delay_seconds": 0.1})
    started = time.monotonic()
    await post(session, canary, host="latest-digits-predictor-models.localhost")
    assert time.monotonic() - started >= 0.1
    total = next(sample.value for sample in await samples(session, canary) if sample.name.endswith("_sum"))
    assert total >= 0.1


async def test_an_impossible_fault_is_refused(session, canary):
    status, text = await admin(session, canary, "PUT", "/faults/r2", json={"error_rate": 2})
    assert status == 400
    assert "error_rate = 2" in text


async def test_administration_is_not_open_to_users(session, canary):
    _, answer = await post(session, canary, path="/metrics")
    assert answer["path"] == "/metrics"  # the pod's own
    status, text = await admin(session, canary, "GET", "/routes")
    assert status == 200
    assert '"revision": "r2"' in text


async def test_three_hundred_requests_a_second_take_a_fraction_of_a_core(session, canary):
    await post(session, canary)
    requests = 600
    before = time.process_time()
    for _ in range(requests // 20):
        await asyncio.gather(*(post(session, canary) for _ in range(20)))
    # The processor time of the client, the ingress and the pods together.
    assert (time.process_time() - before) / requests < 1 / 300


# Standard mode


@pytest.fixture
async def weighted(ingress):
    """Two Services, 25 % to the newer one."""
    async with server("new") as new, server("old") as old:
        ingress.routes.set_http_routes([http_route(stable={"weight": 75}, canary={"weight": 25})])
        ingress.routes.set_services([backend_service("stable"), backend_service("canary")])
        ingress.routes.set_pods([standard_pod("a", "canary", new), standard_pod("b", "stable", old)])
        yield ingress


async def test_in_standard_mode_requests_are_split_and_counted_as_a_mesh_gateway_does(session, weighted):
    answers = Counter()
    for _ in range(8):
        answers[(await post(session, weighted))[1]["name"]] += 1
    assert answers == {"new": 2, "old": 6}
    found = await samples(session, weighted)
    requests = {item.labels["destination_service_name"]: item for item in found if item.name == "istio_requests_total"}
    assert {name: item.value for name, item in requests.items()} == {"stable": 6, "canary": 2}
    assert requests["canary"].labels == {
        "reporter": "source",
        "source_workload": "local-ingress",
        "destination_workload": "canary",
        "destination_workload_namespace": "models",
        "destination_service": "canary.models.svc.cluster.local",
        "destination_service_name": "canary",
        "destination_service_namespace": "models",
        "request_protocol": "http",
        "response_code": "200",
    }
    slowest = [
        item
        for item in found
        if item.name == "istio_request_duration_milliseconds_bucket" and item.labels["le"] == "+Inf"
    ]
    assert {item.labels["destination_service_name"]: item.value for item in slowest} == {"stable": 6, "canary": 2}
    assert not [item for item in found if item.name.startswith("kn_")]


async def test_a_services_own_host_reaches_it_only_and_passes_no_gateway(session, weighted):
    host = "canary.models.svc.cluster.local"
    answers = [await post(session, weighted, host=host) for _ in range(4)]
    assert {answer["name"] for _, answer in answers} == {"new"}
    assert await samples(session, weighted) == []


async def test_a_fault_hits_one_service(session, weighted):
    await admin(session, weighted, "PUT", "/faults/canary", json={"error_rate": 1})
    statuses = Counter([(await post(session, weighted))[0] for _ in range(20)])
    assert statuses == {200: 15, 500: 5}
    errors = [
        (item.labels["destination_service_name"], item.value)
        for item in await samples(session, weighted)
        if item.name == "istio_requests_total" and item.labels["response_code"] == "500"
    ]
    assert errors == [("canary", 5)]
