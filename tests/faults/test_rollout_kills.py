"""A triggerer that dies again and again: before every write and after it, in every state of a rollout.

A life that ends is a CancelledError at the very request, so nothing after it runs; one test kills a real process.
"""

import asyncio
import json
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from ml_lifecycle.kserve.rollout import STATE_ANNOTATION, Phase
from ml_lifecycle.kserve.triggers import CanaryTrigger, CloseTrigger, RevisionReadyTrigger
from ml_lifecycle.kubernetes.client import KubernetesClient
from ml_lifecycle.kubernetes.resource import LEASE
from tests.faults.dying_worker import Worker
from tests.faults.rollout_world import (
    MODEL,
    NAMESPACE,
    Behaviour,
    begin,
    beginnings,
    counts,
    event,
    go_live,
    open_and_wait,
    saved,
    until,
    world,
)
from tests.unit.dataproc.simulated_run import SimulatedRun

NEW = "digits-predictor-00002"
SECOND = "roll_out_model/second"
# Steps end after so many requests and at once, so that the clock decides nothing.
BY_REQUESTS = {"rollout.dwell_seconds": 0.001, "rollout.min_requests": 60}


@pytest.fixture
async def cluster(tmp_path, monkeypatch):
    """With version 1 live, and a version 2."""
    with world(tmp_path, monkeypatch) as made:
        made.version("1"), made.version("2")
        await go_live(made, "1", "roll_out_model/first")
        yield made


class Deaths:
    """Ends the life of whoever writes: once before each write, and once after it."""

    def __init__(self, before=True):
        self.before = before
        self.died = set()
        self.lives = 0

    @contextmanager
    def haunting(self, monkeypatch):
        send = KubernetesClient._send
        deaths = self

        async def dying(client, method, path, query, body, *rest):
            written = method != "GET" and (method, path, meant(body))
            if written and deaths.before and ("before", written) not in deaths.died:
                deaths.died.add(("before", written))
                raise asyncio.CancelledError
            response = await send(client, method, path, query, body, *rest)
            if written and ("after", written) not in deaths.died:
                deaths.died.add(("after", written))
                raise asyncio.CancelledError
            return response

        with monkeypatch.context() as patched:
            patched.setattr(KubernetesClient, "_send", dying)
            yield

    async def outlived(self, work):
        """The result of `work()`, begun anew after each death."""
        while True:
            self.lives += 1
            assert self.lives < 300, "it never gets anywhere"
            try:
                return await work()
            except asyncio.CancelledError:
                continue


def meant(body):
    """What a write is about, whenever it is made: the rollout's progress, or the object without times and versions."""
    state = json.loads((body.get("metadata", {}).get("annotations") or {}).get(STATE_ANNOTATION) or "null")
    spec = {key: value for key, value in body.get("spec", {}).items() if not key.endswith("Time")}
    progress = state and (state["phase"], len(state["evidence"]["errors"]), len(state["steps"]), state["revision"])
    return json.dumps([spec, progress])


@pytest.mark.parametrize(("errors", "outcome"), [(0.0, "promoted"), (0.2, "rolled_back")])
async def test_killed_before_and_after_every_write_it_reaches_the_same_end(cluster, monkeypatch, errors, outcome):
    cluster.traffic.behaviours[NEW] = Behaviour(errors=errors)
    deaths = Deaths()

    async def opening():
        async with cluster.client(SECOND) as client:
            await client.open(cluster.request("2", **BY_REQUESTS), "{}")

    with deaths.haunting(monkeypatch):
        await deaths.outlived(opening)
        ready = await deaths.outlived(lambda: event(RevisionReadyTrigger, SECOND))
        assert (ready["status"], ready["revision"]) == ("ready", NEW)
        await deaths.outlived(lambda: begin(cluster, SECOND))
        decided = await deaths.outlived(lambda: event(CanaryTrigger, SECOND))
        assert decided["decision"] == outcome
        report = (await deaths.outlived(lambda: event(CloseTrigger, SECOND)))["report"]
    assert report["outcome"] == outcome
    assert deaths.lives > 20
    assert cluster.is_clean()
    assert max(cluster.traffic.served[NEW]) <= report["steps"][-1]["percent"]
    live = NEW if outcome == "promoted" else "digits-predictor-00003"
    assert cluster.shares() == {live: 100}


@pytest.mark.parametrize(
    ("errors", "seconds", "warmup", "decision"),
    [
        (0.0, "0.01", 0, "promoted"),
        (0.08, "0.01", 0, "rolled_back"),
        (0.0, "0.25", 0, "rolled_back"),
        (0.0, "0.01", 3, "promoted"),
        (0.08, "0.01", 3, "rolled_back"),
    ],
)
async def test_killed_after_each_look_it_decides_as_in_one_life_and_counts_everything_once(
    tmp_path, monkeypatch, errors, seconds, warmup, decision
):
    """How many looks there are, and what each of them sees, is the cluster's pace; what is decided is not."""
    behaviour = Behaviour(errors=errors, seconds=seconds)
    deaths = Deaths(before=False)
    whole = await canary_of(tmp_path / "whole", monkeypatch, behaviour, deaths=None, warmup=warmup)
    killed = await canary_of(tmp_path / "killed", monkeypatch, behaviour, deaths, warmup=warmup)
    assert whole == killed == decision
    assert deaths.lives > 3


async def canary_of(folder, monkeypatch, behaviour, deaths, *, warmup):
    """What is decided of a canary that behaves so; it walks the plan's steps, and what was served is counted once."""
    folder.mkdir()
    with world(folder, monkeypatch) as cluster, monkeypatch.context() as patched:
        cluster.version("1"), cluster.version("2")
        await go_live(cluster, "1", "roll_out_model/first")
        await open_and_wait(cluster, cluster.request("2", **BY_REQUESTS, **{"rollout.warmup_looks": warmup}), SECOND)
        cluster.traffic.behaviours[NEW] = behaviour
        await begin(cluster, SECOND)
        begun = beginnings(patched)
        if deaths is None:
            decided = await event(CanaryTrigger, SECOND)
        else:
            with deaths.haunting(monkeypatch):
                decided = await deaths.outlived(lambda: event(CanaryTrigger, SECOND))
        counted, served = counts(cluster, begun[0])
        assert counted == served
        state = saved(cluster)
        assert (len(state.evidence.warmup), sum(step.warmup for step in state.steps)) == (warmup, warmup)
        assert sum(look.canary_n for look in state.evidence.guarded) == counted["canary"][0]
        warming = sum(look.canary_n for look in state.evidence.warmup)
        assert state.evidence.totals.canary.requests == counted["canary"][0] - warming
    walked = [step.percent for step in state.steps]
    assert walked == ([10, 50] if decided["decision"] == "promoted" else [10, 50][: len(walked)])
    return decided["decision"]


async def test_a_triggerer_that_is_killed_as_a_process_leaves_what_another_goes_on_with(cluster, tmp_path):
    await open_and_wait(cluster, cluster.request("2"), SECOND)
    await begin(cluster, SECOND)
    trigger = CanaryTrigger(
        kubernetes_conn_id="kubernetes_default", namespace=NAMESPACE, service=MODEL, holder=SECOND, poll_seconds=0.1
    )
    path, arguments = trigger.serialize()
    run = SimulatedRun(SimpleNamespace(), tmp_path, "killed")
    with Worker(run, "watch", path=path, state=arguments) as triggerer:
        triggerer.kill_when(lambda: len(saved(cluster).evidence.errors) >= 2)
    before = saved(cluster)
    assert before.phase is Phase.CANARY
    assert (await event(CanaryTrigger, SECOND))["decision"] == "promoted"
    after = saved(cluster)
    assert after.evidence.errors[: len(before.evidence.errors)] == before.evidence.errors
    assert (await event(CloseTrigger, SECOND))["report"]["outcome"] == "promoted"
    assert cluster.is_clean()


async def test_a_triggerer_that_lost_the_lease_in_its_sleep_moves_no_traffic(cluster):
    """Another run has taken the rollout over; the former one notices at its next look, before it moves anything."""
    await open_and_wait(cluster, cluster.request("2", **{"rollout.dwell_seconds": 60}), SECOND)
    await begin(cluster, SECOND)
    sleeping = asyncio.create_task(event(CanaryTrigger, SECOND))
    await until(lambda: len(saved(cluster).evidence.errors) >= 2)
    taken = {"spec": {"holderIdentity": "clean_up/run"}}
    cluster.store.merge_patch(LEASE, f"ml-lifecycle-{MODEL}", NAMESPACE, taken)
    failed = await sleeping
    assert (failed["status"], f"no longer by '{SECOND}'" in failed["reason"]) == ("failed", True)
    assert cluster.lease["spec"]["holderIdentity"] == "clean_up/run"
    assert cluster.service["spec"]["predictor"]["canaryTrafficPercent"] == 10
