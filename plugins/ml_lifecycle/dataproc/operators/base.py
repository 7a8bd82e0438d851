"""What every operator of this domain shares."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from ml_lifecycle.deferral import DeferringOperator

if TYPE_CHECKING:
    from ml_lifecycle.dataproc.client import DataprocClient

CONNECTION = "yandexcloud_default"

Answer = TypeVar("Answer")


class DataprocOperator(DeferringOperator):
    """What all of them share: a connection, and how to reach the cloud.

    :param yandex_conn_id: connection of type yandexcloud.
    :param poll_seconds: between two looks.
    """

    def __init__(self, *, yandex_conn_id: str = CONNECTION, poll_seconds: float = 10.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.yandex_conn_id = yandex_conn_id
        self.poll_seconds = poll_seconds

    def _with_client(self, action: Callable[[DataprocClient], Coroutine[Any, Any, Answer]]) -> Answer:
        """Run `action` with a client, and wait for it."""

        async def run() -> Answer:
            from ml_lifecycle.dataproc.client import connect

            async with connect(self.yandex_conn_id) as client:
                return await action(client)

        return asyncio.run(run())
