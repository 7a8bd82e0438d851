"""Runs tasks until their time is over, and batches until what fails in them fails alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")
Result = TypeVar("Result")


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


async def each_within(
    seconds: float, jobs: Mapping[Key, Awaitable[Result]]
) -> tuple[dict[Key, Result], dict[Key, Exception]]:
    """The results of the jobs, by their keys, and what went wrong with the others; nothing that is one job's is raised.

    A job that is not done after `seconds` is ended: TimeoutError.
    """
    results: dict[Key, Result] = {}
    errors: dict[Key, Exception] = {}

    async def run(key: Key, job: Awaitable[Result]) -> None:
        try:
            results[key] = await job
        except Exception as error:
            errors[key] = error

    tasks = {asyncio.create_task(run(key, job)): key for key, job in jobs.items()}
    late = await within(seconds, tasks)
    return results, errors | {tasks[task]: TimeoutError(f"no answer within {seconds:.1f} s") for task in late}


def in_parts(items: Sequence[Item], work: Callable[[Sequence[Item]], Sequence[Result]]) -> list[Result | Exception]:
    """`work` of all items at once, a result each; where that fails of ever fewer, until what fails fails alone."""
    try:
        return list(work(items)) if items else []
    except Exception as error:
        if len(items) == 1:
            return [error]
    middle = len(items) // 2
    return in_parts(items[:middle], work) + in_parts(items[middle:], work)
