"""The way into one API server, which is opened anew where its credentials are spent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TYPE_CHECKING, Self

from ml_lifecycle.kubernetes.exceptions import UnavailableError

if TYPE_CHECKING:
    from kubernetes_asyncio.client import ApiClient

logger = logging.getLogger(__name__)

Opening = Callable[[], AbstractAsyncContextManager["ApiClient"]]


class Access:
    """An ApiClient for all who share it; `opening` reads the credentials and makes one.

    Tokens of exec plugins and of files live for minutes, and the library reads them once. A client that was told 401
    asks for another ApiClient; who comes second finds it there.
    """

    def __init__(self, opening: Opening, name: str = "the Kubernetes API") -> None:
        self._opening = opening
        self._name = name
        self._lock = asyncio.Lock()
        self._opened: list[tuple[ApiClient, AsyncExitStack]] = []

    async def __aenter__(self) -> Self:
        await self.api()
        return self

    async def __aexit__(self, *_: object) -> None:
        while self._opened:
            await self._opened.pop()[1].aclose()

    async def api(self) -> ApiClient:
        """The present ApiClient; UnavailableError where its credentials cannot be read."""
        async with self._lock:
            return self._opened[-1][0] if self._opened else await self._open()

    async def renew(self, spent: ApiClient) -> ApiClient:
        """Another ApiClient than `spent`, with credentials that were read after it was."""
        async with self._lock:
            if self._opened and self._opened[-1][0] is not spent:
                return self._opened[-1][0]
            logger.info("reading the credentials for %s anew", self._name)
            renewed = await self._open()
            # Others may still wait for an answer over the spent one, not over the one before it.
            while len(self._opened) > 2:
                await self._opened.pop(0)[1].aclose()
            return renewed

    async def _open(self) -> ApiClient:
        stack = AsyncExitStack()
        try:
            api = await stack.enter_async_context(self._opening())
        except Exception as error:
            # Whatever a kubeconfig, an exec plugin, a connection or a secrets backend raises, and it may quote secrets.
            raise UnavailableError(
                f"the credentials for {self._name} cannot be read ({type(error).__name__}): check the connection"
            ) from None
        self._opened.append((api, stack))
        return api
