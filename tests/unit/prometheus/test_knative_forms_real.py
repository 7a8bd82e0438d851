"""The load of Knative services through a real Prometheus, by whatever labels its series tell them apart."""

from __future__ import annotations

import hashlib
import itertools
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ml_lifecycle.prometheus.client import PrometheusClient
from ml_lifecycle.scaling.queries import load_queries
from ml_lifecycle.scaling.resource import Scaler, parse_scaler
from tests.unit.prometheus.backfilled import asked, prometheus
from tests.unit.scaling.scaler_objects import inference_service_target, manifest

pytestmark = [
    pytest.mark.skipif(shutil.which("promtool") is None, reason="prometheus is not on PATH"),
    pytest.mark.slow,
]
BEGIN = 1_790_000_000
END = BEGIN + 3600
COUNTER = "kn_serving_invocation_duration_seconds_count"
Labels = dict[str, str]

# What Knative Serving 1.23 on Kubernetes 1.34 called pods, by the length of the service's name.
PODS = {
    18: "{service}-predictor-00001-deployment-5697c8dcc8-kqzh2",
    20: "{service}-predictor-00001-deployment-7fd7456655snfsk",
    24: "{service}-predictor-00001-deployment-5469455r89l",
    30: "{service}-predictor-00001-deployment-zvcxc",
    36: "{service}-predictor-00001-deplomj9qk",
    42: "{digest}-deplo4j98w",
    50: "{digest}-deplo4j98w",
}


def scraped(service: str, pod: str) -> Labels:
    """By Prometheus Operator or by discovery."""
    return {"namespace": "models", "pod": pod, "instance": f"{pod}:9091", "container": "queue-proxy"}


def pushed(*names: str) -> Any:
    """By OTLP, to a Prometheus that promotes these resource attributes."""

    def labels(service: str, pod: str) -> Labels:
        known = {
            "k8s_namespace_name": "models",
            "k8s_pod_name": pod,
            "kn_configuration_name": f"{service}-predictor",
            "kn_service_name": f"{service}-predictor",
            "kn_revision_name": f"{service}-predictor-00001",
        }
        return {name: known[name] for name in ("k8s_namespace_name", *names)} | {"service_instance_id": pod}

    return labels


def relabelled(name: str, value: str) -> Any:
    """With a label of the pod (PodMonitor: podTargetLabels)."""
    return lambda service, pod: {**scraped(service, pod), name: value.format(service)}


def by_a_collector(service: str, pod: str) -> Labels:
    """Pushed to a collector that Prometheus scrapes: namespace and pod are the collector's."""
    own = {"namespace": "observability", "pod": "collector-0"}
    return {**own, **pushed("kn_configuration_name", "k8s_pod_name")(service, pod)}


FORMS: Mapping[str, Any] = {
    "scraped": scraped,
    "relabelled-configuration": relabelled("serving_knative_dev_configuration", "{}-predictor"),
    "relabelled-service": relabelled("serving_knative_dev_service", "{}-predictor"),
    "relabelled-inference": relabelled("serving_kserve_io_inferenceservice", "{}"),
    "relabelled-revision": relabelled("serving_knative_dev_revision", "{}-predictor-00001"),
    "relabelled-as-pushed": relabelled("kn_configuration_name", "{}-predictor"),
    "pushed-all": pushed("kn_configuration_name", "kn_service_name", "kn_revision_name", "k8s_pod_name"),
    "pushed-service": pushed("kn_service_name"),
    "pushed-revision": pushed("kn_revision_name"),
    "pushed-pod": pushed("k8s_pod_name"),
    "collector": by_a_collector,
    "discovered": lambda service, pod: {"kubernetes_namespace": "models", "kubernetes_pod_name": pod},
}


def service_name(number: int, length: int) -> str:
    return f"m{number}-{'churnscoring' * 5}"[:length]


def pod_name(service: str) -> str:
    revision = f"{service}-predictor-00001"
    digest = revision[:20] + hashlib.md5(revision.encode(), usedforsecurity=False).hexdigest()
    return PODS[len(service)].format(service=service, digest=digest)


def series(labels: Labels) -> str:
    own = {"http_response_status_code": "200", "otel_scope_name": "knative.dev/serving/pkg/queue"}
    return COUNTER + "{" + ",".join(f'{name}="{value}"' for name, value in sorted((own | labels).items())) + "}"


def counted(rate: float, begin: int = BEGIN, end: int = END, before: float = 0.0) -> list[tuple[int, float]]:
    """A counter, scraped each 15 seconds."""
    return [(at, before + rate * (at - begin)) for at in range(begin, end, 15)]


def preset_scaler(service: str) -> Scaler:
    target = inference_service_target(service)
    return parse_scaler(
        manifest(service, targetRef=target, metric={"preset": "requests_per_second"}, stepSeconds=60, historySize=12)
    )


async def loads(client: PrometheusClient, services: list[str], at: float = END) -> dict[str, float]:
    """What the scalers of the services see; AssertionError where two series are one scaler's."""
    scalers = [preset_scaler(service) for service in services]
    assert all(scaler.spec for scaler in scalers), scalers[0].invalid
    objects = {
        ("models", service): {"status": {"components": {"predictor": {"latestReadyRevision": f"{service}-00001"}}}}
        for service in services
    }
    found: dict[str, float] = {}
    for query in load_queries(scalers, {scaler.key: 12 for scaler in scalers}, objects):
        for sample in await asked(client, query.query, at):
            for _, name in query.owners(sample.labels):
                assert name not in found, name
                found[name] = sample.value
    return found


async def test_a_service_is_found_by_whatever_labels_tell_its_pods_apart(tmp_path: Path) -> None:
    """Names of 18 to 50 characters, each in each form; nothing of another namespace or service counts."""
    names = {(form, length): service_name(number, length) for number, form in enumerate(FORMS) for length in PODS}
    rates = {service: 10.0 + number for number, service in enumerate(names.values())}
    rows: dict[str, list[tuple[int, float]]] = {}
    for (form, length), service in names.items():
        labels = FORMS[form](service, pod_name(service))
        rows[series(labels)] = counted(rates[service])
        elsewhere = {name: "others" if value == "models" else value for name, value in labels.items()}
        rows[series(elsewhere)] = counted(900.0)
        if length == 18:
            longer = f"{service}-v2"
            rows[series(FORMS[form](longer, PODS[18].format(service=longer)))] = counted(900.0)
    with prometheus(tmp_path, rows) as url:
        async with PrometheusClient(url) as client:
            found = await loads(client, list(names.values()))
    assert {key: found.get(service) for key, service in names.items()} == {
        key: pytest.approx(rates[service], rel=0.01) for key, service in names.items()
    }


async def test_requests_that_are_scraped_in_several_ways_count_once(tmp_path: Path) -> None:
    pod = "digits-predictor-00001-deployment-5697c8dcc8-kqzh2"
    ways = {name: form("digits", pod) for name, form in FORMS.items() if name != "collector"}  # it is a form of pushing
    rows = {series({**labels, "job": name}): counted(20.0) for name, labels in ways.items()}
    with prometheus(tmp_path, rows) as url:
        async with PrometheusClient(url) as client:
            assert await loads(client, ["digits"]) == {"digits": pytest.approx(20, rel=0.01)}


@pytest.mark.parametrize("form", [name for name in FORMS if "pushed" not in name and name != "collector"])
async def test_a_pod_that_two_jobs_scrape_by_the_same_labels_counts_once(tmp_path: Path, form: str) -> None:
    """As ours and the platform's PodMonitor; two pods, two status codes."""
    rows = {}
    for random, code, job in itertools.product(("kqzh2", "x2kvq"), ("200", "503"), ("ours", "the platform's")):
        labels = FORMS[form]("digits", f"digits-predictor-00001-deployment-5697c8dcc8-{random}")
        rows[series({**labels, "http_response_status_code": code, "job": job, "endpoint": job[:4]})] = counted(20.0)
        if job == "ours":  # a ServiceMonitor finds a pod once for each of the Services of its Revision
            private = {"http_response_status_code": code, "job": job, "service": "digits-predictor-00001-private"}
            rows[series({**labels, **private})] = counted(20.0)
    with prometheus(tmp_path, rows) as url:
        async with PrometheusClient(url) as client:
            assert await loads(client, ["digits"]) == {"digits": pytest.approx(80, rel=0.01)}


async def test_pods_that_come_and_go_leave_the_load_as_it_is(tmp_path: Path) -> None:
    """Each pod counts from 0; the one that ends takes its counter along."""
    pods = [f"digits-predictor-00001-deployment-5697c8dcc8-{random}" for random in ("kqzh2", "x2kvq", "mj9qk")]
    middle = BEGIN + 1800
    lives = [counted(10.0, end=middle), counted(10.0, before=1e6), counted(10.0, begin=middle)]
    rows = {series(scraped("digits", pod)): life for pod, life in zip(pods, lives, strict=True)}
    with prometheus(tmp_path, rows) as url:
        async with PrometheusClient(url) as client:
            for at in (middle - 60, END):
                assert await loads(client, ["digits"], at) == {"digits": pytest.approx(20, rel=0.01)}
            for at in range(middle, middle + 240, 30):
                found = await loads(client, ["digits"], at)
                assert 18 < found["digits"] < 23, at
