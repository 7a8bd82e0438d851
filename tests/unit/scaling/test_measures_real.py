"""The capacity that a real Prometheus makes of a day with a rollout in it."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator

import pytest

from ml_lifecycle.prometheus.client import PrometheusClient
from ml_lifecycle.scaling.measures import capacity_query, moments_query
from ml_lifecycle.scaling.resource import parse_scaler
from tests.unit.prometheus.backfilled import Scraped, asked, prometheus
from tests.unit.scaling.scaler_objects import inference_service_target, manifest

pytestmark = [
    pytest.mark.skipif(shutil.which("promtool") is None, reason="prometheus is not on PATH"),
    pytest.mark.slow,
]
DAY, HOUR = 86_400, 3600
BEGIN = 1_790_000_000 // DAY * DAY
OPENED, PROMOTED = BEGIN + 25 * HOUR, BEGIN + 26 * HOUR
CARRIES = (50.0, 25.0)  # one replica, of the old revision and of the new one


def load(at: float) -> float:
    """From 20 at 2:00 to 200 at 14:00."""
    return 110 - 90 * math.cos(2 * math.pi * ((at - BEGIN) % DAY / HOUR - 2) / 24)


def share(at: float) -> float:
    """Of the new revision: a tenth while it is a canary."""
    return 0.0 if at < OPENED else 0.1 if at < PROMOTED else 1.0


# How the series of a Knative service may be told apart.
FORMS = {
    "pushed": 'k8s_namespace_name="models",kn_configuration_name="digits-predictor",kn_revision_name="{name}"',
    "relabelled": 'namespace="models",pod="{pod}",serving_kserve_io_inferenceservice="digits"',
    "scraped": 'namespace="models",pod="{pod}"',
}


def scraped(form: str) -> Scraped:
    done, busy = [0.0, 0.0], [0.0, 0.0]
    rows: dict[str, list[tuple[int, float]]] = {}
    for at in range(BEGIN, BEGIN + 2 * DAY, 60):
        for new, part in enumerate((1 - share(at), share(at))):
            done[new] += 60 * load(at) * part
            busy[new] += 60 * load(at) * part / CARRIES[new]
            if part == 0:
                continue  # a revision without traffic has no pods
            name = f"digits-predictor-0000{new + 1}"
            own = f"{name}-deployment-6b8f9c7d5-x2kvq"
            pod = f'namespace="models",pod="{own}",container="c"'
            for series, value in (
                (f"kn_serving_invocation_duration_seconds_count{{{form.format(name=name, pod=own)}}}", done[new]),
                (f"container_cpu_usage_seconds_total{{{pod}}}", busy[new]),
                (f'kube_pod_container_resource_limits{{{pod},resource="cpu"}}', 1.0),
            ):
                rows.setdefault(series, []).append((at, value))
    return rows


@pytest.fixture(scope="module", params=FORMS)
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with prometheus(tmp_path_factory.mktemp("prometheus"), scraped(FORMS[request.param])) as started:
        yield started


async def value(client: PrometheusClient, query: str, at: float) -> float | None:
    found = await asked(client, query, at)
    return found[0].value if found else None


async def test_the_capacity_is_that_of_the_revision_that_served_alone(address: str) -> None:
    scaler = parse_scaler(
        manifest(
            "digits",
            targetRef=inference_service_target(),
            metric={"preset": "requests_per_second"},
            capacityPerReplica=None,
            stepSeconds=60,
        )
    )
    assert scaler.spec is not None
    old, new = (f"digits-predictor-0000{number}-deployment" for number in (1, 2))
    async with PrometheusClient(address) as client:
        before = await value(client, capacity_query(scaler, scaler.spec, old), OPENED)
        assert before == pytest.approx(50, rel=0.02)
        canary = await value(client, capacity_query(scaler, scaler.spec, new), PROMOTED)
        assert canary is None  # both served: it is not known whose load it was
        for hour in (2, 4, 8, 12, 20):
            at = PROMOTED + hour * HOUR
            assert await value(client, capacity_query(scaler, scaler.spec, new), at) == pytest.approx(25, rel=0.03)
            moments = await value(client, moments_query(scaler, scaler.spec, new), at)
            assert moments == pytest.approx(12 * hour, abs=3)
