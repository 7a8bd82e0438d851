"""Several drivers of one rollout: a holder that sleeps for longer than its Lease at any write, and twins of one run.

Whoever comes late finds that the rollout has gone on without it, changes nothing, and tells what came of it.
"""

import asyncio
import contextvars
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from ml_lifecycle.exceptions import LifecycleError
from ml_lifecycle.kserve import state as states
from ml_lifecycle.kserve.client import RolloutClient
from ml_lifecycle.kserve.operators.sweep_rollouts import _sweep
from ml_lifecycle.kserve.rollout import STATE_ANNOTATION, Decision, Phase
from ml_lifecycle.kserve.triggers import CanaryTrigger, CloseTrigger
from ml_lifecycle.kubernetes.client import KubernetesClient
from ml_lifecycle.kubernetes.exceptions import LeaseHeldError
from ml_lifecycle.kubernetes.resource import LEASE
from tests.faults.rollout_world import MODEL, NAMESPACE, Behaviour, begin, event, go_live, open_and_wait, until, world

NEW = "digits-predictor-00002"
RUN = "roll_out_model/second"
QUICK = {"rollout.steps": [10, 100], "rollout.dwell_seconds": 0.001, "rollout.min_requests": 60}
slow = pytest.mark.slow
sleeper = contextvars.ContextVar("sleeper", default=None)


@pytest.fixture
async def cluster(tmp_path, monkeypatch):
    """With version 1 live, and a version 2."""
    with world(tmp_path, monkeypatch) as made:
        made.version("1"), made.version("2")
        await go_live(made, "1", "roll_out_model/first")
        yield made


class Sleeper:
    """One driver, which sleeps before the write of this number until it is woken."""

    def __init__(self, number):
        self.left = number
        self.asleep = asyncio.Event()
        self.woken = asyncio.Event()

    async def writes(self):
        self.left -= 1
        if self.left == 0:
            self.asleep.set()
            await self.woken.wait()


@contextmanager
def sleeping(monkeypatch):
    send = KubernetesClient._send

    async def maybe_asleep(client, method, *rest):
        if method != "GET" and (one := sleeper.get()) is not None:
            await one.writes()
        return await send(client, method, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(KubernetesClient, "_send", maybe_asleep)
        yield


async def life(cluster, version, holder, one=None, **overrides):
    """All tasks of a run, as Airflow starts them: the teardown whatever happened. The events, or the errors."""
    sleeper.set(one)
    said = []

    async def task(work):
        try:
            said.append(await work)
        except LifecycleError as error:
            said.append(error)
        return said[-1]

    ready = await task(open_and_wait(cluster, cluster.request(version, **{**QUICK, **overrides}), holder))
    if isinstance(ready, dict) and ready["status"] == "ready":
        begun = await task(begin(cluster, holder))
        if getattr(begun, "phase", None) is Phase.CANARY:
            await task(event(CanaryTrigger, holder))
    await task(event(CloseTrigger, holder))
    return said


def saved(cluster):
    return states.read(cluster.lease["metadata"]["annotations"][STATE_ANNOTATION])


def expire(cluster):
    """Nobody has renewed the Lease for long."""
    patch = {"spec": {"renewTime": "2020-01-01T00:00:00.000000Z"}}
    cluster.store.merge_patch(LEASE, f"ml-lifecycle-{MODEL}", NAMESPACE, patch)


def serving(cluster):
    return cluster.service["spec"]["predictor"]["model"]["storageUri"].rpartition("/")[2]


def agrees(cluster):
    """The Lease says what the service is."""
    state = saved(cluster)
    wanted = state.candidate if state.decision is Decision.PROMOTED else state.stable
    return state.phase is Phase.CLOSED and serving(cluster) == wanted.version and cluster.is_clean()


@slow
@pytest.mark.parametrize(("other", "stride"), [("the sweep", 4), ("another run", 4), ("a twin", 3)])
async def test_asleep_at_any_write_for_longer_than_the_lease_it_spoils_nothing(cluster, monkeypatch, other, stride):
    """The `other` brings the rollout to its end meanwhile; then the sleeper goes on."""
    number = 1 - stride
    with sleeping(monkeypatch):
        while True:
            number += stride
            one, version = Sleeper(number), "2" if serving(cluster) == "1" else "1"
            living = asyncio.create_task(life(cluster, version, f"roll_out_model/{number}", one))
            asleep = asyncio.create_task(one.asleep.wait())
            await asyncio.wait({living, asleep}, return_when=asyncio.FIRST_COMPLETED)
            if living.done():
                asleep.cancel()
                break
            if other == "a twin":
                await life(cluster, version, f"roll_out_model/{number}")
            else:
                expire(cluster)
                if other == "the sweep":
                    await _sweep("kubernetes_default", None, f"clean_up/{number}", dry=False)
                else:
                    await life(cluster, "1", f"roll_out_model/{number}-next")
            before = saved(cluster)
            one.woken.set()
            said = await living
            assert agrees(cluster), (number, said)
            if before.phase is Phase.CLOSED and before.opened_at == saved(cluster).opened_at:
                assert (saved(cluster).decision, saved(cluster).reason) == (before.decision, before.reason), number
    assert number > 12, "it never came to its end"


async def test_a_sleeper_does_not_open_a_canary_again_that_was_rolled_back(cluster, monkeypatch):
    """It sleeps between its word on the Lease, 50 %, and the traffic."""
    await open_and_wait(cluster, cluster.request("2"), RUN)
    await begin(cluster, RUN)
    apply, asleep, woken = KubernetesClient.apply, asyncio.Event(), asyncio.Event()

    async def late(client, body, **options):
        if body["spec"].get("predictor", {}).get("canaryTrafficPercent") == 50:
            asleep.set()
            await woken.wait()
        return await apply(client, body, **options)

    monkeypatch.setattr(KubernetesClient, "apply", late)
    looking = asyncio.create_task(event(CanaryTrigger, RUN))
    await asleep.wait()
    expire(cluster)
    (report,), left = await _sweep("kubernetes_default", None, "clean_up/run", dry=False)
    assert (report["outcome"], left) == ("rolled_back", [])
    woken.set()
    assert (await looking)["status"] == "failed"
    assert cluster.is_clean()
    assert serving(cluster) == "1"
    assert saved(cluster).decision is Decision.ROLLED_BACK


async def test_what_one_twin_has_decided_the_other_does_not_overwrite(cluster, monkeypatch):
    """Two triggerers run the same trigger; one has read good growths and sleeps while the version turns bad."""
    settings = {"rollout.on_deadline": "freeze", "rollout.dwell_seconds": 60}
    await open_and_wait(cluster, cluster.request("2", **settings), RUN)
    await begin(cluster, RUN)
    growths, asleep, woken = RolloutClient.growths, asyncio.Event(), asyncio.Event()

    async def late(client, *rest):
        found = await growths(client, *rest)
        if sleeper.get() and len(saved(cluster).evidence.errors) >= 2:
            asleep.set()
            await woken.wait()
        return found

    monkeypatch.setattr(RolloutClient, "growths", late)

    async def looks():
        sleeper.set("this one")
        return await event(CanaryTrigger, RUN)

    slow_twin = asyncio.create_task(looks())
    await asleep.wait()
    cluster.traffic.behaviours[NEW] = Behaviour(errors=0.5)
    decided = await event(CanaryTrigger, RUN)
    assert decided["decision"] == "rolled_back"
    woken.set()
    assert await slow_twin == decided, "both tell one outcome"
    assert saved(cluster).decision is Decision.ROLLED_BACK
    assert (await event(CloseTrigger, RUN))["report"]["outcome"] == "rolled_back"
    assert cluster.is_clean()


async def test_two_closes_at_once_end_in_one_report(cluster):
    await open_and_wait(cluster, cluster.request("2"), RUN)
    await begin(cluster, RUN)
    first, second = await asyncio.gather(event(CloseTrigger, RUN), event(CloseTrigger, RUN))
    assert first["report"]["outcome"] == second["report"]["outcome"] == "rolled_back"
    assert (await event(CanaryTrigger, RUN))["decision"] == "rolled_back", "a late twin tells it too"
    assert cluster.is_clean()


async def test_a_driver_whose_successor_dies_goes_on(cluster, monkeypatch):
    """The newer one says nothing for as long as the Lease lasts."""
    from ml_lifecycle.kserve.request import RolloutRequest

    await open_and_wait(cluster, cluster.request("2"), RUN)
    await begin(cluster, RUN)
    monkeypatch.setattr(RolloutRequest, "lease_seconds", 1)
    older = asyncio.create_task(event(CanaryTrigger, RUN))
    await until(lambda: len(saved(cluster).evidence.errors) >= 1)
    async with cluster.client(RUN) as client:
        await client.own(NAMESPACE, MODEL)
    assert (await older)["decision"] == "promoted"


@contextmanager
def fast_clock(monkeypatch, minutes=11):
    from ml_lifecycle.kserve.client import lease

    with monkeypatch.context() as patched:
        made = lease.RolloutLease.__init__

        def ahead(self, kubernetes, holder, clock=None):
            made(self, kubernetes, holder, lambda: datetime.now(UTC) + timedelta(minutes=minutes))

        patched.setattr(lease.RolloutLease, "__init__", ahead)
        yield


async def test_a_clock_that_is_fast_neither_closes_nor_takes_a_living_rollout(cluster, monkeypatch):
    await open_and_wait(cluster, cluster.request("2", **{"rollout.dwell_seconds": 60}), RUN)
    await begin(cluster, RUN)
    looking = asyncio.create_task(event(CanaryTrigger, RUN))
    await until(lambda: len(saved(cluster).evidence.errors) >= 2)
    with fast_clock(monkeypatch):
        assert await _sweep("kubernetes_default", None, "clean_up/run", dry=False) == ([], [])
        async with cluster.client("roll_out_model/third") as client:
            with pytest.raises(LeaseHeldError):
                await client.open(cluster.request("2"), "{}")
            found = await client.abandoned([None])
    assert (found.states, [lease.holder for lease in found.doubtful]) == ((), [RUN])
    assert not looking.done()
    looking.cancel()


async def test_a_dead_rollout_is_closed_after_it_outlasted_its_lease_by_any_clock(cluster, monkeypatch):
    await open_and_wait(cluster, cluster.request("2"), RUN)
    await begin(cluster, RUN)
    patch = {"spec": {"leaseDurationSeconds": 1}}
    cluster.store.merge_patch(LEASE, f"ml-lifecycle-{MODEL}", NAMESPACE, patch)
    with fast_clock(monkeypatch):
        async with cluster.client("clean_up/run") as client:
            assert (await client.abandoned([NAMESPACE])).states == ()
        (report,), _ = await _sweep("kubernetes_default", [NAMESPACE], "clean_up/run", dry=False)
    assert report["outcome"] == "rolled_back"
    assert cluster.is_clean()
