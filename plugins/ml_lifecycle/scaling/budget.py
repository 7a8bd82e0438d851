"""Runs tasks until their time is over."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable


async def within(seconds: float, tasks: Iterable[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    """Runs the tasks; gives those that had to be ended, and raises what one of the others raised.

    Whoever cancels this cancels them all.
    """
    waiting = list(tasks)
    try:
        done, late = await asyncio.wait(waiting, timeout=seconds) if waiting else (set(), set())
    finally:
        for task in waiting:
            task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    for task in done:
        task.result()
    return late
