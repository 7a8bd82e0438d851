"""Knative's metrics in every form in which a real Prometheus has them: found by themselves, and judged alike."""

import asyncio
import shutil
import time
from contextlib import suppress
from dataclasses import replace

import pytest

from ml_lifecycle.canary.snapshot import Gap, window
from ml_lifecycle.kserve.data_planes import PRESETS, source
from ml_lifecycle.kserve.missing_metrics import why_nothing
from ml_lifecycle.kserve.naming import Naming, answered, question
from ml_lifecycle.kserve.queries import growths, history
from ml_lifecycle.prometheus.client import PrometheusClient
from ml_lifecycle.prometheus.exceptions import PrometheusError
from ml_lifecycle.settings import Rollout
from tests.unit.prometheus import expositions
from tests.unit.prometheus.expositions import CANARY, STABLE
from tests.unit.prometheus.scraped import World

pytestmark = [
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not on PATH"),
    pytest.mark.slow,
]
SIDES = (CANARY, STABLE)
SERVICE = {"service": "digits", "namespace": "models", "stable": STABLE}
AUTOMATIC = source(Rollout(lag_seconds=0.5))


async def named(client):
    """How this Prometheus names both sides."""
    return answered(await client.instant(question(SIDES), time.time()), "models", None)


async def until(read):
    """What `read` gives once it is something."""
    for _ in range(100):
        with suppress(PrometheusError):  # it starts
            if found := await read():
                return found
        await asyncio.sleep(0.2)
    raise AssertionError("Prometheus never showed it")


@pytest.mark.parametrize(
    ("shown", "naming"),
    [
        ("knative_otel", Naming("knative_otel", "kn_revision_name", "k8s_namespace_name")),
        ("knative_relabelled", Naming("knative_otel", "serving_knative_dev_revision", "namespace")),
        ("knative_scraped", Naming("knative_otel", "pod", "namespace")),
        ("knative_scraped_twice", Naming("knative_otel", "pod", "namespace")),
        ("knative_queue_proxy", Naming("knative_queue_proxy", "revision_name", "namespace_name")),
    ],
)
async def test_both_sides_are_counted_however_knative_names_them(tmp_path, shown, naming):
    requests = {STABLE: {"200": 100}}
    with World(lambda: getattr(expositions, shown)(requests)).prometheus(tmp_path) as url:
        async with PrometheusClient(url) as client:
            assert await until(lambda: named(client)) == naming
            preset = naming.applied(AUTOMATIC)
            await asyncio.sleep(4)
            begin = time.time() - 0.5
            # The canary's pod is scraped only now, and counts from its first request on.
            requests |= {STABLE: {"200": 180}, CANARY: {"200": 21, "503": 3}}

            async def looked():
                at = time.time()
                found = await growths(client, preset, **SERVICE, canary=CANARY, at=at, window_seconds=at - begin)
                return found if found.canary.codes.get("503") and sum(found.stable.codes.values()) == 80 else None

            seen = window(await until(looked))
            assert not isinstance(seen, Gap), seen
            assert (seen.canary.requests, seen.canary.errors, seen.stable.requests) == (24, 3, 80)
            assert (seen.canary.latency.total, seen.stable.latency.total) == (24, 80)
            past = await until(lambda: history(client, preset, **SERVICE, end=time.time(), step=1, looks=20))
            assert sum(each.stable.requests for each in past) == 80


async def test_what_is_scraped_without_pod_and_namespace_is_not_guessed_at(tmp_path):
    """Two pods without any label of theirs are told apart by nothing; the reason says what to apply."""
    shown = expositions.knative_bare({STABLE: {"200": 100}, CANARY: {"200": 10}})
    with World(lambda: shown).prometheus(tmp_path) as url:
        async with PrometheusClient(url) as client:
            await until(lambda: client.instant(AUTOMATIC.count, time.time()))
            assert await named(client) is None
            why = await why_nothing(client, AUTOMATIC, "models", SIDES, time.time())
            assert 'under other labels, such as {addr="' in why
            assert "k8s_templates/knative_pod_monitor.yaml" in why


async def test_a_knative_that_exports_nothing_is_told_what_to_configure(tmp_path):
    with World(lambda: "up_and_well 1\n").prometheus(tmp_path) as url:
        async with PrometheusClient(url) as client:
            await until(lambda: client.instant("up_and_well", time.time()))
            assert await named(client) is None
            why = await why_nothing(client, AUTOMATIC, "models", SIDES, time.time())
            for remedy in (
                "request-metrics-protocol: prometheus",
                "config-observability",
                "promote_resource_attributes",
            ):
                assert remedy in why
            istio = replace(PRESETS["istio"], lag_seconds=0.5)
            assert "config-observability" not in await why_nothing(client, istio, "models", SIDES, time.time())
