"""What every operator of this domain shares."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.sdk import BaseOperator
from airflow.sdk.configuration import conf

from ml_lifecycle.dataproc.exceptions import DataprocError
from ml_lifecycle.dataproc.triggers import DataprocTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context

    from ml_lifecycle.dataproc.client import DataprocClient

DEFERRABLE = conf.getboolean("operators", "default_deferrable", fallback=False)
CONNECTION = "yandexcloud_default"

Answer = TypeVar("Answer")


class DataprocOperator(BaseOperator):
    """What all of them share: a connection, and one way to wait.

    :param yandex_conn_id: connection of type yandexcloud.
    :param poll_seconds: between two looks.
    :param deferrable: wait in the triggerer; else the same trigger runs inside the task.
    """

    def __init__(
        self,
        *,
        yandex_conn_id: str = CONNECTION,
        poll_seconds: float = 10.0,
        deferrable: bool = DEFERRABLE,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.yandex_conn_id = yandex_conn_id
        self.poll_seconds = poll_seconds
        self.deferrable = deferrable

    def _with_client(self, action: Callable[[DataprocClient], Coroutine[Any, Any, Answer]]) -> Answer:
        """Run `action` with a client, and wait for it."""

        async def run() -> Answer:
            from ml_lifecycle.dataproc.client import connect

            async with connect(self.yandex_conn_id) as client:
                return await action(client)

        return asyncio.run(run())

    def _wait(self, context: Context, trigger: DataprocTrigger, method: str) -> Any:
        """Defer to `trigger`, or drive it here; `method` gets the event either way."""
        if self.deferrable:
            self.defer(trigger=trigger, method_name=method)
        return getattr(self, method)(context, asyncio.run(first_event(trigger)))


async def first_event(trigger: DataprocTrigger) -> Any:
    """Drive a trigger here, as the triggerer would."""
    async for event in trigger.run():
        return event.payload
    raise DataprocError(f"{type(trigger).__name__} ended without an event")
