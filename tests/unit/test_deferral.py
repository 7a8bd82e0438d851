"""Deferrals that Airflow may lose a try of: when an event comes, and what a later try does."""

import asyncio
import time
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from airflow.triggers.base import TriggerEvent

from ml_lifecycle import deferral
from ml_lifecycle.deferral import BookedTrigger, DeferringOperator, NoEventError, event_within, first_event


class Saying(BookedTrigger):
    """Says `said` after `seconds`; nothing where it is None."""

    def __init__(self, *, said="done", seconds=0.0, **more):
        super().__init__(**more)
        self.said, self.seconds = said, seconds

    def arguments(self):
        return {"said": self.said, "seconds": self.seconds}

    async def events(self):
        await asyncio.sleep(self.seconds)
        if self.said is not None:
            yield TriggerEvent({"status": self.said})


class Waiting(DeferringOperator):
    def execute(self, context):
        return self.wait_for(Saying(seconds=context["seconds"]), context)

    def resume(self, context, event):
        return event["status"]


def context(try_number=1, seconds=0.0):
    return {"ti": SimpleNamespace(try_number=try_number), "seconds": seconds}


@pytest.fixture
def slept(monkeypatch):
    """The seconds for which events were kept back; nobody waits for them."""
    found = []
    real = asyncio.sleep

    async def sleep(seconds):
        found.append(seconds)
        await real(0)

    monkeypatch.setattr(deferral.asyncio, "sleep", sleep)
    return found


async def test_an_event_waits_until_the_scheduler_has_booked_the_deferral(slept):
    trigger = Saying().booked()
    assert await first_event(trigger) == {"status": "done"}
    assert slept[-1] == pytest.approx(deferral.BOOKED_SECONDS, abs=1)


async def test_a_triggerer_whose_clock_is_an_hour_behind_keeps_an_event_back_no_longer(slept):
    await first_event(Saying(not_before=time.time() + 3600))
    assert slept[-1] == deferral.BOOKED_SECONDS


async def test_an_event_that_comes_late_is_not_kept_back(slept):
    await first_event(Saying(not_before=time.time() - 60))
    assert slept[-1] < 0


def test_a_trigger_survives_its_serialisation():
    trigger = Saying(said="so", seconds=3.0).booked()
    path, arguments = trigger.serialize()
    assert path == f"{__name__}.Saying"
    assert Saying(**arguments).serialize() == (path, arguments)


def test_the_first_try_defers_and_its_trigger_is_booked():
    with pytest.raises(TaskDeferred) as deferred:
        Waiting(task_id="wait", deferrable=True).execute(context())
    assert deferred.value.trigger.not_before > time.time()
    assert deferred.value.method_name == "resume"


def test_a_later_try_finds_out_for_itself_what_has_happened():
    assert Waiting(task_id="wait", deferrable=True).execute(context(try_number=2)) == "done"


def test_a_later_try_defers_where_the_wait_is_not_over(monkeypatch):
    monkeypatch.setattr(deferral, "PATIENCE_SECONDS", 0.05)
    with pytest.raises(TaskDeferred):
        Waiting(task_id="wait", deferrable=True).execute(context(try_number=2, seconds=60))


def test_without_the_triggerer_the_trigger_runs_in_the_task():
    assert Waiting(task_id="wait", deferrable=False).execute(context()) == "done"


async def test_a_trigger_without_a_word_is_named():
    with pytest.raises(NoEventError, match="Saying ended without an event"):
        await first_event(Saying(said=None))


async def test_what_takes_longer_is_not_waited_for():
    assert await event_within(Saying(seconds=60), 0.01) is None
