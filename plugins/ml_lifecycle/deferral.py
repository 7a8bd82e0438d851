"""Deferrals that end well although Airflow may lose a try of them.

Airflow's scheduler books a deferral when it hears of it from the executor. A task that goes on before that is taken
for one that was killed, and the try counts as failed although nothing was wrong; so does a try whose event got lost.
Three rules make this harmless. An event is kept back for a while after the deferral. A later try finds out for itself
what has happened, from the Lease, the job or the pod, and so does not defer where the wait is over. And a task has
`LOST_TRIES` retries: what truly failed does not use them, it fails for good at once.
"""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any, Self

from airflow.providers.common.compat.sdk import conf
from airflow.sdk import BaseOperator
from airflow.triggers.base import BaseTrigger, TriggerEvent

from ml_lifecycle.exceptions import LifecycleError

# A scheduler that is not overloaded has heard of a deferral by then.
BOOKED_SECONDS = 8.0
# How long a later try looks for itself before it defers.
PATIENCE_SECONDS = 15.0
LOST_TRIES = 6

Event = dict[str, Any]


class NoEventError(LifecycleError):
    """A trigger ended without a word, which is a defect of the trigger."""


class BookedTrigger(BaseTrigger):
    """A trigger whose events wait until the scheduler has booked the deferral, see the module.

    :param not_before: Unix seconds by the worker's clock; no event comes earlier, nor is one kept back for longer than
        `BOOKED_SECONDS` where the clocks of worker and triggerer differ.
    """

    def __init__(self, *, not_before: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.not_before = not_before

    def booked(self) -> Self:
        """For the deferral that begins now."""
        self.not_before = time.time() + BOOKED_SECONDS
        return self

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The class path and every keyword argument."""
        kind = type(self)
        return f"{kind.__module__}.{kind.__qualname__}", {**self.arguments(), "not_before": self.not_before}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """The events, none too early."""
        async for event in self.events():
            await asyncio.sleep(min(self.not_before - time.time(), BOOKED_SECONDS))
            yield event

    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """Every keyword argument but `not_before`."""

    @abstractmethod
    def events(self) -> AsyncIterator[TriggerEvent]:
        """What the trigger waits for."""


class DeferringOperator(BaseOperator):
    """A task that waits by a BookedTrigger and goes on in one of its methods with the event.

    :param deferrable: wait in the triggerer, holding no worker slot; false drives the same trigger in the task.
    """

    def __init__(
        self,
        *,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.deferrable = deferrable

    def wait_for(
        self, trigger: BookedTrigger, context: Mapping[str, Any], method: str = "resume", *, patience: float = 0.0
    ) -> Any:
        """What `method` makes of the trigger's event, by way of the triggerer or at once.

        `patience`: the seconds that a first try waits here before it defers. What is mostly over by then is spared the
        way through scheduler and triggerer. It may be cut off anywhere: triggers keep their state elsewhere.
        """
        if context["ti"].try_number > 1:
            patience = max(patience, PATIENCE_SECONDS)
        if not self.deferrable:
            event: Event | None = asyncio.run(first_event(trigger))
        else:
            event = asyncio.run(event_within(trigger, patience)) if patience else None
        if event is None:
            self.defer(trigger=trigger.booked(), method_name=method)
        return getattr(self, method)(context, event)


async def first_event(trigger: BaseTrigger) -> Event:
    """What a trigger has to say, driven here; NoEventError if it says nothing."""
    async for event in trigger.run():
        return dict(event.payload)
    raise NoEventError(f"{type(trigger).__name__} ended without an event")


async def event_within(trigger: BaseTrigger, seconds: float) -> Event | None:
    """The same; None if it says nothing in time."""
    with suppress(TimeoutError):
        return await asyncio.wait_for(first_event(trigger), seconds)
    return None
