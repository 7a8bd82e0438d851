"""One HTTP client for all who use the same connection at the same time: hundreds of triggers run in one process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Resource = TypeVar("Resource")

LONGEST_SHARING_SECONDS = 600.0


@dataclass
class _Opened(Generic[Resource]):
    """A resource and how many use it; `stack` closes it."""

    at: float
    users: int = 0
    resource: Resource | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)


class Shared(Generic[Resource]):
    """Opens a resource for the first who needs it, and closes it after the last.

    A newcomer gets its own where the present one is ten minutes old or has failed a user: so that renewed credentials
    reach it. Each event loop has its own resources.
    """

    def __init__(self) -> None:
        self._opened: dict[tuple[asyncio.AbstractEventLoop, Hashable], _Opened[Resource]] = {}

    @asynccontextmanager
    async def use(
        self, key: Hashable, opening: Callable[[], AbstractAsyncContextManager[Resource]]
    ) -> AsyncIterator[Resource]:
        """The resource of `key`, which `opening` makes where nobody has one to share."""
        place = (asyncio.get_running_loop(), key)
        opened = self._opened.get(place)
        if opened is None or place[0].time() - opened.at >= LONGEST_SHARING_SECONDS:
            opened = self._opened[place] = _Opened(place[0].time())
        opened.users += 1
        try:
            async with opened.lock:
                if opened.resource is None:
                    opened.resource = await opened.stack.enter_async_context(opening())
            yield opened.resource
        except Exception:
            self._retire(place, opened)
            raise
        finally:
            opened.users -= 1
            if not opened.users:
                self._retire(place, opened)
                await opened.stack.aclose()

    def _retire(self, place: tuple[asyncio.AbstractEventLoop, Hashable], opened: _Opened[Resource]) -> None:
        """Nobody new gets it."""
        if self._opened.get(place) is opened:
            del self._opened[place]
