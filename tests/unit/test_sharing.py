import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from ml_lifecycle import sharing
from ml_lifecycle.sharing import Shared


class Opener:
    """Counts what is opened and closed."""

    def __init__(self, failures=0):
        self.opened, self.closed, self.failures = 0, 0, failures

    @asynccontextmanager
    async def __call__(self):
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise OSError("no way")
        self.opened += 1
        yield self.opened
        self.closed += 1


async def test_many_at_once_share_one_which_the_last_closes():
    shared, opener, inside = Shared(), Opener(), asyncio.Event()

    async def user():
        async with shared.use("a", opener) as resource:
            await inside.wait()
            return resource

    users = [asyncio.create_task(user()) for _ in range(20)]
    await asyncio.sleep(0.01)
    assert (opener.opened, opener.closed) == (1, 0)
    users[0].cancel()
    await asyncio.sleep(0.01)
    assert opener.closed == 0
    inside.set()
    assert set(await asyncio.gather(*users[1:])) == {1}
    assert (opener.opened, opener.closed) == (1, 1)
    assert not shared._opened


async def test_other_keys_and_later_comers_have_their_own():
    shared, opener = Shared(), Opener()
    async with shared.use("a", opener) as first, shared.use("b", opener) as second:
        assert (first, second) == (1, 2)
    async with shared.use("a", opener) as third:
        assert third == 3
    assert opener.closed == 3


async def test_one_that_could_not_be_opened_is_tried_again_by_the_next():
    shared, opener = Shared(), Opener(failures=1)

    async def user():
        async with shared.use("a", opener) as resource:
            return resource

    first, second = await asyncio.gather(user(), user(), return_exceptions=True)
    assert isinstance(first, OSError)
    assert second == 1
    assert (opener.opened, opener.closed, shared._opened) == (1, 1, {})


async def test_one_that_failed_its_user_is_left_to_those_who_have_it():
    shared, opener = Shared(), Opener()
    async with shared.use("a", opener) as held:
        with pytest.raises(PermissionError):
            async with shared.use("a", opener) as failed:
                raise PermissionError
        async with shared.use("a", opener) as fresh:
            assert (held, failed, fresh) == (1, 1, 2)
        assert opener.closed == 1
    assert opener.closed == 2


async def test_an_old_one_is_not_shared_with_newcomers(monkeypatch):
    shared, opener = Shared(), Opener()
    async with shared.use("a", opener), AsyncExitStack() as stack:
        monkeypatch.setattr(sharing, "LONGEST_SHARING_SECONDS", 0.0)
        assert await stack.enter_async_context(shared.use("a", opener)) == 2


def test_each_event_loop_has_its_own():
    shared, opener = Shared(), Opener()

    async def user():
        async with shared.use("a", opener) as resource:
            return resource

    assert [asyncio.run(user()), asyncio.run(user())] == [1, 2]
