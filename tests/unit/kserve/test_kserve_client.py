"""What a rollout writes onto its Lease, and how often, against the Kubernetes stand-in."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from local.kubernetes.stand_in import KubernetesStandIn
from ml_lifecycle.kserve.client import RolloutClient
from ml_lifecycle.kserve.found import Absent
from ml_lifecycle.kserve.manifest import Predictor
from ml_lifecycle.kserve.request import RolloutRequest
from ml_lifecycle.kserve.rollout import opened
from ml_lifecycle.kubernetes import leases
from ml_lifecycle.kubernetes.client import KubernetesClient
from ml_lifecycle.kubernetes.exceptions import LeaseLostError
from ml_lifecycle.kubernetes.resource import LEASE
from ml_lifecycle.settings import parse_settings

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
NAME = leases.lease_name("digits")


class Clock:
    now = NOW

    def __call__(self):
        return self.now

    def advance(self, seconds):
        self.now += timedelta(seconds=seconds)


@pytest.fixture
async def held(tmp_path):
    """The stand-in, a client that holds the Lease, its clock, and the state that is on the Lease."""
    settings = parse_settings({"defaults": {"data_lake": "file:///lake"}}, "digits", {})
    request = RolloutRequest.of(settings, version="2")
    clock = Clock()
    with KubernetesStandIn(tmp_path / "cluster") as stand_in:
        async with KubernetesClient.from_kubeconfig(stand_in.kubeconfig) as kubernetes:
            client = RolloutClient(kubernetes, "run", clock)
            await leases.acquire(kubernetes, "models", NAME, "run", 600, NOW)
            candidate = Predictor(request.storage_uri, "runtime", "1", "1Gi")
            state = await client.save(opened(request, "run", candidate, Absent(), client.now()))
            stand_in.faults.clear()
            yield stand_in, client, clock, state


async def test_a_wait_renews_the_lease_once_a_minute_by_one_request(held):
    stand_in, client, clock, state = held
    for _ in range(60):
        clock.advance(5)
        await client.keep(state)
    assert [method for method, _ in stand_in.faults.requests] == ["PATCH"] * 5
    assert leases.parse_lease(stand_in.store.get(LEASE, NAME, "models")).held(clock())


async def test_a_wait_writes_what_it_learns_at_once(held):
    stand_in, client, _, state = held
    known = replace(state, revision="digits-predictor-00001")
    await client.keep(known)
    assert await client.load("models", "digits") == known
    assert stand_in.faults.count("PATCH") == 1


async def test_a_save_after_another_has_taken_the_lease_changes_nothing(held):
    stand_in, client, _, state = held
    stand_in.store.merge_patch(LEASE, NAME, "models", {"spec": {"holderIdentity": "another"}})
    with pytest.raises(LeaseLostError, match="held by 'another', no longer by 'run'"):
        await client.save(replace(state, revision="digits-predictor-00001"))
    assert await client.load("models", "digits") == state
