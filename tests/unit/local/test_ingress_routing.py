import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.ingress.faults import FaultRefusedError, parse_fault
from local.ingress.gateway import http_routes_of, in_cluster, service_endpoints, service_route
from local.ingress.knative import revision_endpoints, routes_of
from local.ingress.routing import Target, WeightedTurns, host_name
from local.ingress.table import RoutingTable


def service(*traffic, name="digits"):
    return {
        "metadata": {"name": name, "namespace": "models"},
        "status": {
            "url": f"http://{name}-models.localhost:8081",
            "components": {
                "predictor": {
                    "url": f"http://{name}-predictor-models.localhost:8081",
                    "traffic": [
                        {
                            "revisionName": revision,
                            "percent": percent,
                            "tag": tag,
                            "url": f"http://{tag}-{name}-predictor-models.localhost:8081",
                        }
                        if tag
                        else {"revisionName": revision, "percent": percent}
                        for revision, percent, tag in traffic
                    ],
                }
            },
        },
    }


def pod(name, revision, port, *, ready=True, deleted=False):
    return {
        "metadata": {
            "name": name,
            "namespace": "models",
            "labels": {"serving.knative.dev/revision": revision},
            "annotations": {"local.ml-lifecycle.io/port": str(port)},
            **({"deletionTimestamp": "2026-01-01T00:00:00Z"} if deleted else {}),
        },
        "status": {
            "podIP": "127.0.0.1",
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        },
    }


def test_hosts_come_from_the_status_urls():
    routes = {route.host: route.targets for route in routes_of(service(("r2", 10, "latest"), ("r1", 90, "prev")))}
    assert set(routes) == {
        "digits-models.localhost",
        "digits-predictor-models.localhost",
        "latest-digits-predictor-models.localhost",
        "prev-digits-predictor-models.localhost",
    }
    assert [(t.backend, t.weight) for t in routes["digits-models.localhost"]] == [("r2", 10), ("r1", 90)]
    assert [(t.backend, t.weight) for t in routes["prev-digits-predictor-models.localhost"]] == [("r1", 100)]


def standard_pod(name, deployment, port, **options):
    made = pod(name, "", port, **options)
    made["metadata"]["labels"] = {"component": "predictor", "app": f"isvc.{deployment}"}
    return made


def backend_service(name):
    return {"metadata": {"name": name, "namespace": "models"}, "spec": {"selector": {"app": f"isvc.{name}"}}}


def http_route(name="digits", **weights):
    backends = [{"name": backend.replace("_", "-"), **weight} for backend, weight in weights.items()]
    return {
        "metadata": {"name": name, "namespace": "models"},
        "spec": {"hostnames": [f"{name}-models.localhost"], "rules": [{"backendRefs": backends}]},
    }


def test_in_standard_mode_the_status_routes_nothing():
    standard = service(("r1", 100, None))
    standard["status"]["deploymentMode"] = "Standard"
    assert list(routes_of(standard)) == []


def test_an_http_route_shares_its_host_by_weight():
    (route,) = http_routes_of(http_route(stable={"weight": 80}, canary={"weight": 20}))
    assert route.host == "digits-models.localhost"
    assert route.targets == (Target("models", "stable", 80), Target("models", "canary", 20))
    (route,) = http_routes_of(http_route(stable={}))
    assert route.targets == (Target("models", "stable", 1),)


def test_a_service_has_its_own_host_and_the_pods_that_it_selects():
    route = service_route(backend_service("digits-v2-predictor"))
    assert route.host == "digits-v2-predictor.models.svc.cluster.local"
    assert in_cluster(route.host)
    assert not in_cluster("digits-models.localhost")
    pods = [
        standard_pod("a", "stable", 1),
        standard_pod("b", "canary", 2),
        standard_pod("c", "canary", 3, ready=False),
        standard_pod("d", "canary", 4, deleted=True),
        {
            **standard_pod("e", "canary", 5),
            "metadata": {**standard_pod("e", "canary", 5)["metadata"], "namespace": "x"},
        },
    ]
    found = [(key, end.pod) for key, end in service_endpoints(map(backend_service, ("stable", "canary")), pods)]
    assert found == [(("models", "stable"), "a"), (("models", "canary"), "b")]


def test_both_modes_share_one_table():
    table = RoutingTable()
    table.set_inference_services([service(("r1", 100, None), name="other")])
    table.set_http_routes([http_route(stable={"weight": 75}, canary={"weight": 25})])
    table.set_pods([pod("a", "r1", 1), standard_pod("b", "stable", 2)])
    table.set_services([backend_service("stable"), backend_service("canary")])
    shown = table.describe()
    assert shown["digits-models.localhost"] == [
        {"namespace": "models", "service": "stable", "percent": 75, "endpoints": ["127.0.0.1:2"]},
        {"namespace": "models", "service": "canary", "percent": 25, "endpoints": []},
    ]
    assert [item["revision"] for item in shown["other-models.localhost"]] == ["r1"]
    assert table.knows("canary.models.svc.cluster.local")
    table.set_http_routes([])
    assert not table.knows("digits-models.localhost")
    assert table.knows("other-models.localhost")


def test_a_service_without_status_has_no_route():
    assert list(routes_of({"metadata": {"name": "digits", "namespace": "models"}})) == []


@pytest.mark.parametrize(
    ("authority", "host"),
    [("A.localhost:80", "a.localhost"), ("a.localhost", "a.localhost"), ("[::1]:80", "::1"), ("", "")],
)
def test_host_name(authority, host):
    assert host_name(authority) == host


def test_only_ready_pods_that_stay_receive_requests():
    pods = [pod("a", "r1", 1), pod("b", "r1", 2, ready=False), pod("c", "r1", 3, deleted=True), pod("d", "r2", 4)]
    found = [(key, endpoint.address) for key, endpoint in revision_endpoints(pods)]
    assert found == [(("models", "r1"), "127.0.0.1:1"), (("models", "r2"), "127.0.0.1:4")]


@given(st.integers(0, 100))
def test_every_hundred_requests_hold_exactly_the_percents(percent):
    targets = (Target("n", "canary", percent), Target("n", "stable", 100 - percent))
    turns = WeightedTurns(targets)
    for _ in range(3):
        counts = Counter(turns.next().backend for _ in range(100))
        assert (counts["canary"], counts["stable"]) == (percent, 100 - percent)


def test_shares_are_spread_evenly():
    turns = WeightedTurns((Target("n", "canary", 10), Target("n", "stable", 90)))
    chosen = [turns.next().backend for _ in range(1000)]
    places = [index for index, revision in enumerate(chosen) if revision == "canary"]
    assert {later - earlier for earlier, later in itertools.pairwise(places)} == {10}


def test_without_traffic_there_is_no_target():
    table = RoutingTable()
    table.set_inference_services([service()])
    assert table.knows("digits-models.localhost")
    assert table.next_target("digits-models.localhost") is None
    assert not table.knows("other.localhost")


def test_an_unchanged_route_keeps_its_turn():
    table = RoutingTable()
    counts = Counter()
    for _ in range(100):
        table.set_inference_services([service(("r2", 10, "latest"), ("r1", 90, "prev"))])
        counts[table.next_target("digits-models.localhost").backend] += 1
    assert counts == {"r2": 10, "r1": 90}


def test_pods_take_turns():
    table = RoutingTable()
    target = Target("models", "r1", 100, "c")
    addresses = []
    for _ in range(4):
        table.set_pods([pod("a", "r1", 1), pod("b", "r1", 2)])
        addresses.append([endpoint.pod for endpoint in table.next_endpoints(target)])
    assert addresses == [["a", "b"], ["b", "a"], ["a", "b"], ["b", "a"]]
    table.set_pods([])
    assert table.next_endpoints(target) == []


@pytest.mark.parametrize(
    "document",
    [[], {"error_rat": 1}, {"error_rate": 1.1}, {"error_rate": True}, {"delay_seconds": -1}, {"delay_seconds": "1"}],
)
def test_impossible_faults_are_refused(document):
    with pytest.raises(FaultRefusedError):
        parse_fault(document)


def test_a_fault_is_read():
    fault = parse_fault({"error_rate": 0.2, "delay_seconds": 1})
    assert (fault.error_rate, fault.delay_seconds) == (0.2, 1.0)
