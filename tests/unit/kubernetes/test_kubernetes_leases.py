from datetime import UTC, datetime, timedelta

import pytest

from local.kubernetes.faults import Fault
from local.kubernetes.stand_in import KubernetesStandIn
from ml_lifecycle.kubernetes import leases
from ml_lifecycle.kubernetes.client import KubernetesClient, Retry
from ml_lifecycle.kubernetes.exceptions import LeaseHeldError, LeaseLostError
from ml_lifecycle.kubernetes.resource import LEASE

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
NAME = leases.lease_name("digits")


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    with KubernetesStandIn(tmp_path_factory.mktemp("kubernetes")) as started:
        yield started


@pytest.fixture
async def client(stand_in):
    stand_in.faults.clear()
    stand_in.store.delete(LEASE, NAME, "models")
    async with KubernetesClient.from_kubeconfig(stand_in.kubeconfig, retry=Retry(first_delay=0.01)) as connected:
        yield connected


async def acquire(client, holder, now=NOW, annotations=None):
    return await leases.acquire(client, "models", NAME, holder, 60, now, annotations)


async def test_one_holder_at_a_time(client):
    taken = await acquire(client, "first", annotations={"step": "10"})
    assert (taken.holder, taken.acquired, taken.expires) == ("first", NOW, NOW + timedelta(seconds=60))
    with pytest.raises(LeaseHeldError, match="'first' until 2026-01-01T12:01:00") as held:
        await acquire(client, "second", NOW + timedelta(seconds=59))
    assert held.value.holder == "first"


async def test_the_holder_may_take_it_again(client):
    await acquire(client, "first")
    again = await acquire(client, "first", NOW + timedelta(seconds=30))
    assert (again.acquired, again.renewed, again.transitions) == (NOW, NOW + timedelta(seconds=30), 0)


async def test_an_expired_lease_is_taken_over_with_its_state(client):
    await acquire(client, "first", annotations={"step": "10", "verdict": "hold"})
    later = NOW + timedelta(seconds=61)
    taken = await acquire(client, "second", later, {"verdict": None, "run": "2"})
    assert (taken.holder, taken.acquired, taken.transitions) == ("second", later, 1)
    assert taken.annotations == {"step": "10", "run": "2"}
    with pytest.raises(LeaseLostError, match="held by 'second', no longer by 'first'"):
        await leases.renew(client, "models", NAME, "first", later)


async def test_renewal_prolongs_and_writes_state(client):
    await acquire(client, "first")
    later = NOW + timedelta(seconds=50)
    renewed = await leases.renew(client, "models", NAME, "first", later, {"step": "25"})
    assert (renewed.expires, renewed.annotations["step"]) == (later + timedelta(seconds=60), "25")
    with pytest.raises(LeaseHeldError):
        await acquire(client, "second", NOW + timedelta(seconds=61))


async def test_an_expired_lease_that_nobody_took_is_still_its_holder_s(client):
    await acquire(client, "first")
    renewed = await leases.renew(client, "models", NAME, "first", NOW + timedelta(hours=1))
    assert renewed.held(NOW + timedelta(hours=1, seconds=59))


async def test_a_released_lease_is_free_at_once_and_keeps_its_state(client):
    await acquire(client, "first", annotations={"step": "100"})
    assert await leases.release(client, "models", NAME, "first", {"outcome": "promoted"})
    found = await leases.read(client, "models", NAME)
    assert not found.held(NOW)
    assert found.annotations == {"step": "100", "outcome": "promoted"}
    assert not leases.is_held(await client.get(LEASE, NAME, "models"), NOW)
    assert (await acquire(client, "second")).holder == "second"


async def test_releasing_another_s_lease_changes_nothing(client):
    assert not await leases.release(client, "models", NAME, "first")
    await acquire(client, "first")
    assert not await leases.release(client, "models", NAME, "second")
    assert leases.is_held(await client.get(LEASE, NAME, "models"), NOW)


async def test_renewal_of_a_deleted_lease_says_so(client):
    with pytest.raises(LeaseLostError, match="gone"):
        await leases.renew(client, "models", NAME, "first", NOW)


async def test_a_known_lease_is_written_without_reading_it(stand_in, client):
    known = await acquire(client, "first")
    stand_in.faults.clear()
    for seconds in (10, 20):
        now = NOW + timedelta(seconds=seconds)
        known = await leases.renew(client, "models", NAME, "first", now, {"step": str(seconds)}, known)
    assert await leases.release(client, "models", NAME, "first", known=known)
    assert [method for method, _ in stand_in.faults.requests] == ["PATCH"] * 3


async def test_a_known_lease_that_another_has_taken_is_lost_and_not_overwritten(client):
    known = await acquire(client, "first")
    later = NOW + timedelta(seconds=61)
    await acquire(client, "second", later, {"step": "5"})
    with pytest.raises(LeaseLostError, match="held by 'second', no longer by 'first'"):
        await leases.renew(client, "models", NAME, "first", later, {"step": "50"}, known)
    assert not await leases.release(client, "models", NAME, "first", {"step": "50"}, known)
    found = await leases.read(client, "models", NAME)
    assert (found.holder, found.annotations) == ("second", {"step": "5"})


async def test_a_known_lease_that_was_deleted_is_lost(stand_in, client):
    known = await acquire(client, "first")
    stand_in.store.delete(LEASE, NAME, "models")
    with pytest.raises(LeaseLostError, match="gone"):
        await leases.renew(client, "models", NAME, "first", NOW, {}, known)


async def test_what_others_annotate_costs_one_more_read(client):
    known = await acquire(client, "first")
    await client.merge_patch(LEASE, NAME, "models", {"metadata": {"annotations": {"note": "hers"}}})
    renewed = await leases.renew(client, "models", NAME, "first", NOW, {"step": "5"}, known)
    assert renewed.annotations == {"note": "hers", "step": "5"}


async def test_only_one_of_two_takers_wins(client):
    # Both read before either writes: the second's write meets another version and reads again.
    await acquire(client, "former")
    later = NOW + timedelta(seconds=61)
    original = client.find

    async def find_then_lose(*where):
        found = await original(*where)
        client.find = original
        await acquire(client, "faster", later)
        return found

    client.find = find_then_lose
    with pytest.raises(LeaseHeldError, match="faster"):
        await acquire(client, "slower", later)


async def test_a_lost_answer_does_not_lose_the_lease(stand_in, client):
    stand_in.faults.add(Fault("PATCH", close="after"))
    await acquire(client, "first")
    renewed = await leases.renew(client, "models", NAME, "first", NOW + timedelta(seconds=9))
    assert renewed.renewed == NOW + timedelta(seconds=9)
    stand_in.faults.add(Fault("PATCH", close="after"))
    assert (await acquire(client, "first", NOW + timedelta(seconds=70))).holder == "first"


def test_an_absent_lease_is_not_held():
    assert not leases.is_held(None, NOW)
    assert not leases.is_held({"metadata": {"name": "l"}, "spec": {"holderIdentity": "x"}}, NOW)
